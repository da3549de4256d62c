// One job: what it does and when, how it went, what comes.

import { get, path, query } from "./api.js";
import { h, show } from "./dom.js";
import { duration, exact, visible } from "./format.js";
import { RunList, whenOf } from "./overview.js";
import { Doing, empty, jobActions, pill, plural, progress, runLink, since, sparkline, trouble, until } from "./parts.js";

export function mount(main, name) {
  const doing = new Doing();
  const list = new RunList(`api/jobs/${path(name)}/history`);
  const about = h("section", { class: "card" });
  const runs = h("section", { class: "card", "aria-labelledby": "runs-head" });
  let job = null;
  let coming = [];
  let error = null;

  async function load() {
    try {
      const [found, slots] = await Promise.all([get(`api/jobs/${path(name)}`), get("api/next" + query({ job: name, n: 5 }))]);
      job = found.data;
      coming = slots.data;
      error = null;
    } catch (caught) {
      error = caught;
    }
    draw();
  }

  function draw() {
    show(about, job ? [head(), doing.told("job"), facts()] : error ? [missing()] : [h("p", { class: "dim" }, "Loading…")]);
    show(runs, h("h2", { id: "runs-head" }, "Runs"), job || !error ? list.draw(false) : null);
  }

  function missing() {
    if (error.status === 404) return empty(`There is no job “${name}”.`, h("a", { href: "#/" }, "All jobs"));
    return empty("The job could not be read.", error.message);
  }

  function head() {
    const now = job.running?.find((run) => run.state === "running");
    const act = (verb, text, during) => doing.button(verb, text, () => doing.run(verb, during, async () => { const note = await jobActions[verb](name)(); load(); list.load(); return note; }, "job"), { class: verb === "run" ? "main" : "", "data-act": verb });
    const bad = trouble(job);
    return h("div", {},
      h("div", { class: "row" }, now ? [pill("running"), runLink(now.run), progress(now.started_at, job.usual_duration_seconds)] : bad && bad.state !== "parked" ? pill(bad.state) : job.paused ? h("span", { class: "pill odd" }, "‖ paused") : null, h("span", { class: "grow" }), act("run", "Run now", "Starting…"), job.paused ? act("resume", "Resume", "Resuming…") : act("pause", "Pause", "Pausing…")),
      job.description ? h("p", {}, visible(job.description)) : null,
      bad?.why ? h("p", { class: "told bad" }, visible(bad.why), bad.run ? [" ", runLink(bad.run, `run #${bad.run}`)] : null) : null);
  }

  function facts() {
    const policy = job.policy ?? {};
    const pair = (term, ...value) => h("div", { "data-key": term }, h("dt", {}, term), h("dd", {}, ...value));
    return h("dl", { class: "facts wide" },
      pair("Schedule", whenOf(job), " ", job.schedule ? h("code", { class: "dim" }, `${job.schedule}  ${job.timezone}`) : null),
      pair("Next", job.paused || !job.enabled || !coming.length ? h("span", { class: "dim" }, job.paused ? "paused" : "–") : h("ol", { class: "coming" }, coming.map((slot, index) => h("li", {}, index === 0 ? [until(slot.at), " "] : null, h("time", { class: index ? "" : "dim", datetime: slot.at, title: exact(slot.at) }, slot.local.replace("T", " ").replace(/\.\d+/, "")))))),
      pair("Does", h("span", { class: "dim" }, `${job.kind ?? ""} `), h("code", { class: "wrap" }, visible(job.action ?? ""))),
      pair("Usually takes", duration(job.usual_duration_seconds), " ", sparkline(job.recent)),
      pair("Limits", policy.timeout_seconds ? `${duration(policy.timeout_seconds)} at most` : "no time limit", policy.retries ? `, ${plural(policy.retries, "retry", "retries")}` : ", no retries"),
      pair("When busy", `overlap ${policy.overlap ?? "skip"}, catch-up ${policy.catchup ?? "last"}${policy.concurrency_group ? `, group ${policy.concurrency_group}` : ""}`),
      job.labels?.length ? pair("Labels", job.labels.join(", ")) : null,
      job.last_run ? pair("Last run", runLink(job.last_run.run), " ", since(job.last_run.ended_at ?? job.last_run.queued_at)) : null);
  }

  doing.redraw = draw;
  list.redraw = draw;
  main.replaceChildren(h("p", { class: "crumbs" }, h("a", { href: "#/" }, "Jobs"), " ›"), h("h1", { tabindex: "-1" }, name), about, runs);
  draw();
  load();
  list.load();
  return { title: name, changed: (what) => { if (what === "jobs") { load(); list.load(); } } };
}
