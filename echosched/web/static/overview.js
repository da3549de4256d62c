// The first page: the scheduler, what needs attention, the timeline, the jobs.

import { get, query } from "./api.js";
import * as cluster from "./cluster.js";
import { h, show } from "./dom.js";
import { clock, count, duration, stateOf, visible, why } from "./format.js";
import { Doing, empty, frame, jobActions, jobLink, pill, plural, progress, runLink, since, sparkline, trouble, until } from "./parts.js";
import * as scheduler from "./scheduler.js";
import { known, relist } from "./state.js";
import * as timeline from "./timeline.js";

const doing = new Doing();
const FIRST = 100; // rows that are shown at once; more on demand
const MORE = 200;
const TYPING_MS = 150;
let typing = null;
let places = null;

export function mount(main) {
  places = {
    scheduler: h("section", { class: "card" }),
    attention: h("section", { class: "card attention", "aria-labelledby": "attention-head" }),
    cluster: h("section", { class: "card", "aria-labelledby": "cluster-head", hidden: true }),
    timeline: h("section", { class: "card", "aria-label": "Timeline" }),
    jobs: h("section", { class: "card", "aria-labelledby": "jobs-head" }),
  };
  main.replaceChildren(
    h("h1", { class: "unseen", tabindex: "-1" }, "Overview"),
    h("div", { class: "two" }, places.scheduler, places.attention),
    places.cluster, places.timeline, places.jobs);
  doing.redraw = () => { drawAttention(); drawJobs(); };
  scheduler.mountScheduler(places.scheduler);
  cluster.mountCluster(places.cluster);
  timeline.mountTimeline(places.timeline);
  drawAttention();
  drawJobs();
  return { title: "Overview", changed };
}

function changed(what) {
  if (["status", "offline"].includes(what)) {
    scheduler.draw();
    cluster.draw();
  }
  if (["status", "jobs"].includes(what)) {
    drawAttention();
    drawJobs();
  }
  if (what === "timeline") {
    timeline.draw();
    drawAttention();
  }
}

// ── what needs attention ──────────────────────────────────────────────────────────────────────

function drawAttention() {
  if (!places?.attention.isConnected) return;
  const shown = (known.troubled ?? []).map((job) => ({ job, ...trouble(job) }));
  const all = known.counts.failing ?? 0;
  show(places.attention,
    h("div", { class: "cardhead" }, h("h2", { id: "attention-head" }, all ? `Needs attention (${count(all)})` : "Needs attention"), figures()),
    shown.length ? h("ul", { class: "troubles" }, shown.map(troubleItem)) : calm(),
    all > shown.length ? h("p", {}, h("button", { type: "button", class: "quiet", onclick: () => { relist({ only: "failing", text: "", limit: FIRST }); clearFind(); places.jobs.scrollIntoView(); } }, `Show all ${count(all)}`)) : null);
}

function troubleItem({ job, state, why: reason, run, at }) {
  const again = run !== null && known.status?.running;
  return h("li", { "data-key": job.name },
    h("div", { class: "line" },
      state === "parked" ? h("span", { class: "pill bad" }, "✕ parked") : pill(state), " ",
      run === null ? jobLink(job.name) : h("a", { class: "strong", href: `#/run/${run}` }, job.name), " ",
      at ? h("span", { class: "dim" }, since(at)) : null,
      h("span", { class: "grow" }),
      again ? doing.button(`again ${job.name}`, "Run again", () => doing.run(`again ${job.name}`, "Starting…", jobActions.run(job.name), `attention ${job.name}`), { class: "small", "aria-label": `Run ${job.name} again` }) : null),
    reason ? h("p", { class: "why", title: reason }, visible(reason)) : null,
    run !== null ? lastLine(run, at) : null,
    doing.told(`attention ${job.name}`));
}

const lastLines = new Map(); // by run and its end: an exit code alone is no reason, the last words are

function lastLine(run, at) {
  const key = `${run} ${at}`;
  if (!lastLines.has(key)) {
    lastLines.set(key, "");
    get(`api/runs/${run}/output?offset=-600`).then(({ data }) => {
      const line = data.text.split("\n").map((text) => text.trim()).filter(Boolean).at(-1);
      if (line) {
        lastLines.set(key, line);
        drawAttention();
      }
    }, () => lastLines.delete(key));
    if (lastLines.size > 200) lastLines.delete(lastLines.keys().next().value);
  }
  const line = lastLines.get(key);
  return line ? h("code", { class: "last", title: line }, visible(line)) : null;
}

function calm() {
  if (known.jobs === null) return h("p", { class: "dim" }, known.status && !known.status.running ? "Not known while the scheduler is stopped." : "Asking…");
  if (!known.total) return h("p", {}, "Nothing: there are no jobs yet.");
  return h("p", { class: "calm" }, h("span", { class: "good", "aria-hidden": "true" }, "✓ "), "Nothing. The last run of every job went well.");
}

/** The day's figures, from the timeline. */
function figures() {
  if (!known.timeline) return null;
  const since = Date.now() - Math.min(24, known.timeline.hours) * 3600e3;
  const runs = known.timeline.runs.filter((run) => new Date(run.queued_at).getTime() >= since);
  const n = (...states) => runs.filter((run) => states.includes(run.state)).length;
  const lags = runs.map((run) => run.lag_seconds).filter((lag) => lag !== null && lag !== undefined).sort((a, b) => a - b);
  const failed = n("failed", "timed_out", "abandoned");
  return h("p", { class: "figures" },
    h("span", {}, `Last ${known.timeline.hours === 1 ? "hour" : `${Math.min(24, known.timeline.hours)} h`}: `),
    h("span", {}, plural(runs.length, "run")), ", ",
    failed ? h("a", { class: "bad", href: "#/runs/failed" }, `${count(failed)} failed`) : h("span", {}, "0 failed"), ", ",
    n("missed") ? [h("span", { class: "odd" }, `${count(n("missed"))} missed`), ", "] : null,
    h("span", {}, `median lag ${lags.length ? duration(lags[Math.floor(lags.length / 2)]) : "–"}`));
}

// ── the jobs ──────────────────────────────────────────────────────────────────────────────────

const FILTERS = { all: "All", failing: "Failing", running: "Running", paused: "Paused" };

function find(text) {
  clearTimeout(typing);
  typing = setTimeout(() => relist({ text, limit: FIRST }), TYPING_MS);
}

function clearFind() {
  const field = document.getElementById("find");
  if (field) field.value = "";
}

function drawJobs() {
  if (!places?.jobs.isConnected) return;
  const { only } = known.list;
  const some = known.jobs !== null;
  show(places.jobs,
    h("div", { class: "cardhead" }, h("h2", { id: "jobs-head" }, some ? `Jobs (${count(known.total)})` : "Jobs"),
      h("input", { type: "search", id: "find", "data-keep": "find", placeholder: "Find a job  ( / )", "aria-label": "Find a job by name, description or label", oninput: (event) => find(event.target.value) }),
      h("div", { class: "segments", role: "group", "aria-label": "Which jobs" },
        Object.entries(FILTERS).map(([name, text]) => h("button", { type: "button", "aria-pressed": String(only === name), onclick: () => relist({ only: name, limit: FIRST }) }, some ? `${text} ${count(known.counts[name] ?? 0)}` : text)))),
    staleNote(),
    jobsBody());
}

function staleNote() {
  if (known.jobs && known.total && known.status?.running === false && !known.jobsError) return h("p", { class: "told odd", "data-key": "stale" }, "The scheduler is stopped: nothing comes due. These are its records.");
  if (!known.jobsError || known.jobs === null) return null;
  return h("p", { class: "told odd", "data-key": "stale" }, `The jobs as they were at ${clock(known.jobsAt, true)}: ${known.jobsError.message}`);
}

function jobsBody() {
  if (known.jobs === null) {
    if (known.jobsError && ["not_running", "unreachable"].includes(known.jobsError.code)) return empty("The scheduler is not running, so there is nothing to list.", "Press Start above, or run ", h("code", {}, "echoschedd start"), " in a terminal.");
    return known.jobsError && known.jobsError.status !== 401 ? empty("The jobs could not be read.", known.jobsError.message) : h("p", { class: "dim" }, "Loading…");
  }
  if (!known.total) return empty("There are no jobs yet.", "Add a table such as ", h("code", {}, "[job.hello]"), " with a ", h("code", {}, "schedule"), " and a ", h("code", {}, "command"), " to ", h("code", {}, known.status?.paths?.config ?? "echosched.toml"), ", then run ", h("code", {}, "echoschedd reload"), ".");
  if (!known.jobs.length) return empty("No job fits.", h("button", { type: "button", onclick: () => { clearFind(); relist({ text: "", only: "all", limit: FIRST }); } }, "Show all jobs"));
  const { sort, down } = known.list;
  // The latest first is what a first press on "Last run" means; of the others the first.
  const turn = (by) => relist({ sort: by, down: sort === by ? !down : by === "last" });
  const head = (by, text, className) => h("th", { scope: "col", class: className, "aria-sort": sort === by ? (down ? "descending" : "ascending") : undefined }, h("button", { type: "button", class: "sort", onclick: () => turn(by) }, text, h("span", { "aria-hidden": "true" }, sort === by ? (down ? " ↓" : " ↑") : "")));
  const left = known.found - known.jobs.length;
  return h("div", { "data-key": "table" },
    frame("Jobs", h("table", { class: "jobs" },
      h("thead", {}, h("tr", {}, head("attention", "State", "c-state"), head("name", "Job"), h("th", { scope: "col" }, "Schedule"), head("next", "Next"), head("last", "Last run"), h("th", { scope: "col" }, "Durations"), h("th", { scope: "col" }, h("span", { class: "unseen" }, "Actions")))),
      h("tbody", {}, known.jobs.map(jobRow)))),
    left > 0 ? h("p", { class: "more" }, `${count(known.jobs.length)} of ${count(known.found)} jobs are shown. `, h("button", { type: "button", onclick: () => relist({ limit: known.list.limit + MORE }) }, `Show ${count(Math.min(MORE, left))} more`)) : null);
}

function jobState(job) {
  if (job.running?.some((run) => run.state === "running")) return pill("running");
  if (job.running?.length) return pill("queued");
  if (job.parked) return h("span", { class: "pill bad", title: job.parked }, "✕ parked");
  if (!job.enabled) return h("span", { class: "pill none" }, "– disabled");
  if (job.paused) return h("span", { class: "pill odd" }, "‖ paused");
  const last = job.last_run;
  if (last && ["running", "queued"].includes(last.state) && known.status?.running === false) return h("span", { class: "pill odd", title: "The scheduler ended while this ran; the next start finds out what became of it" }, "? open");
  if (last && trouble(job)) return pill(last.state);
  return last ? h("span", { class: "pill good" }, "✓ fine") : h("span", { class: "pill none" }, "○ new");
}

function jobRow(job) {
  const last = job.last_run;
  const now = job.running?.find((run) => run.state === "running");
  return h("tr", { "data-key": job.name, class: trouble(job) ? "failing" : "" },
    h("td", { class: "c-state" }, jobState(job)),
    h("td", { class: "c-name" }, jobLink(job.name), job.description ? h("div", { class: "dim desc" }, visible(job.description)) : null),
    h("td", { class: "c-when" }, h("span", { class: "said" }, whenOf(job)), job.schedule ? h("code", { class: "dim" }, job.schedule, job.timezone && job.timezone !== "UTC" ? ` ${job.timezone}` : "") : null),
    h("td", { class: "c-next num", "data-label": "Next" }, job.paused || !job.enabled ? h("span", { class: "dim" }, "–") : until(job.next_at)),
    h("td", { class: "c-last", "data-label": "Last run" }, now ? [runLink(now.run, `#${now.run}`), " ", progress(now.started_at, job.usual_duration_seconds)] : lastOf(last)),
    h("td", { class: "c-spark" }, sparkline(job.recent)),
    h("td", { class: "c-acts" }, actions(job), doing.told(`job ${job.name}`)));
}

export function whenOf(job) {
  if (job.schedule_english) return job.schedule_english;
  if (job.after) return `after ${job.after.job}${job.after.when !== "success" ? ` (${job.after.when})` : ""}`;
  return job.schedule ? "" : "only by hand";
}

function lastOf(last) {
  if (!last) return h("span", { class: "dim" }, "never ran");
  const reason = why(last);
  return [runLink(last.run, stateOf(last.state)[2]), " ", h("span", { class: "dim" }, since(last.ended_at ?? last.queued_at), last.duration_seconds !== null ? `, ${duration(last.duration_seconds)}` : ""),
    reason && last.state !== "succeeded" ? h("div", { class: "why", title: reason }, visible(reason)) : null];
}

function actions(job) {
  const up = known.status?.running !== false;
  const act = (verb, text, during) => doing.button(`${verb} ${job.name}`, text, up ? () => doing.run(`${verb} ${job.name}`, during, jobActions[verb](job.name), `job ${job.name}`) : null, { class: "small", "aria-label": `${text} ${job.name}`, "data-act": verb, "aria-disabled": up ? undefined : "true" });
  return h("div", { class: "row" }, act("run", "Run now", "Starting…"), job.paused ? act("resume", "Resume", "Resuming…") : act("pause", "Pause", "Pausing…"));
}

// ── all runs ──────────────────────────────────────────────────────────────────────────────────

const FAILED = "failed,timed_out,abandoned,missed";

/** A list of runs that pages back; used by the runs page and the job page. */
export class RunList {
  constructor(address) {
    this.address = address;
    this.rows = null;
    this.next = null;
    this.error = null;
    this.state = "";
    this.redraw = () => {};
  }

  async load(more = false) {
    const asked = this.state;
    try {
      const page = await get(this.address + query({ limit: 50, state: this.state, before_run: more ? this.next : null }));
      if (asked !== this.state) return;
      // A refresh re-reads the first page only; pages that were opened stay as they are.
      const kept = more ? this.rows : [];
      const older = !more && this.rows ? this.rows.filter((row) => page.data.length && row.run < page.data.at(-1).run) : [];
      this.rows = [...kept, ...page.data, ...older];
      if (more || !older.length) this.next = page.next;
      this.error = null;
    } catch (error) {
      this.error = error;
    }
    this.redraw();
  }

  draw(withJob) {
    const states = [["", "All"], [FAILED, "Failed"], ["running,queued", "Running"], ["succeeded", "Succeeded"], ["skipped,cancelled", "Not run"]];
    return [
      h("div", { class: "segments", role: "group", "aria-label": "Which runs", "data-key": "segments" }, states.map(([value, text]) => h("button", { type: "button", "aria-pressed": String(this.state === value), onclick: () => { this.state = value; this.rows = null; this.redraw(); this.load(); } }, text))),
      this.body(withJob),
    ];
  }

  body(withJob) {
    if (this.error && !this.rows) return empty("The runs could not be read.", this.error.code === "not_running" ? "The scheduler is not running: start it on the overview." : this.error.message);
    if (this.rows === null) return h("p", { class: "dim" }, "Loading…");
    if (!this.rows.length) return empty(this.state ? "No such runs." : "Nothing has run yet.", this.state ? "Choose All to see every run." : "Runs appear here when their slots come due, or when you press Run now.");
    return h("div", { "data-key": "runs" }, frame("Runs", h("table", { class: "runs" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "State"), h("th", { scope: "col" }, "Run"), withJob ? h("th", { scope: "col" }, "Job") : null, h("th", { scope: "col" }, "When"), h("th", { scope: "col", class: "num" }, "Duration"), h("th", { scope: "col", class: "num" }, "Lag"), h("th", { scope: "col" }, "Why"))),
      h("tbody", {}, this.rows.map((run) => h("tr", { "data-key": String(run.run) },
        h("td", {}, pill(run.state)),
        h("td", { class: "num" }, runLink(run.run)),
        withJob ? h("td", {}, jobLink(run.job)) : null,
        h("td", { "data-label": "When" }, since(run.started_at ?? run.slot ?? run.queued_at), h("span", { class: "dim" }, ` ${run.trigger}${run.attempt > 1 ? `, attempt ${run.attempt}` : ""}`)),
        h("td", { class: "num", "data-label": "Duration" }, run.state === "running" ? progress(run.started_at, null) : duration(run.duration_seconds)),
        h("td", { class: "num", "data-label": "Lag" }, duration(run.lag_seconds)),
        h("td", { class: "c-why" }, h("span", { class: "why", title: why(run) }, visible(why(run)))))))),
    this.next ? h("p", {}, h("button", { type: "button", onclick: () => this.load(true) }, "Show older runs")) : null));
  }
}

export function mountRuns(main, which = "") {
  const list = new RunList("api/runs");
  if (which === "failed") list.state = FAILED;
  const place = h("section", { class: "card" });
  main.replaceChildren(h("h1", { tabindex: "-1" }, "Runs"), place);
  list.redraw = () => show(place, list.draw(true));
  list.redraw();
  list.load();
  return { title: "Runs", changed: (what) => { if (what === "jobs") list.load(); } };
}
