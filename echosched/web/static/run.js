// One run: its outcome and reason, its attempts, and its output while it grows.

import { get, path, post, query } from "./api.js";
import { h, say, show } from "./dom.js";
import { BAD, bytes, duration, signalName, stateOf, visible, why } from "./format.js";
import { Doing, at, empty, frame, jobActions, jobLink, pill, progress, since } from "./parts.js";
import { refreshSoon } from "./state.js";

const PIECE = 65536;
const KEPT = 512 * 1024; // characters kept in the page: the end of a longer output
const ACTIVE = new Set(["queued", "running"]);

export function mount(main, number) {
  const doing = new Doing();
  const about = h("section", { class: "card" });
  const pre = h("pre", { class: "output", tabindex: "0", "aria-label": "Output" });
  const bar = h("div", { class: "cardhead" });
  const foot = h("div", {});
  const output = { attempt: null, offset: null, start: 0, size: 0, done: false, length: 0, follow: true, any: false, error: null };
  const title = h("h1", { tabindex: "-1" }, `Run #${number}`);
  let run = null;
  let error = null;
  let gone = false;
  let wake = null;

  async function load() {
    try {
      run = (await get(`api/runs/${number}`)).data;
      error = null;
    } catch (caught) {
      error = caught;
    }
    if (!gone) draw();
  }

  // ── output ────────────────────────────────────────────────────────────────────────────────

  async function piece() {
    const last = output.offset === null;
    const asked = output.attempt;
    // The end of a long output first: that is where the reason is.
    const answer = (await get(`api/runs/${number}/output` + query({ attempt: output.attempt, offset: last ? -PIECE : output.offset, limit: PIECE }))).data;
    if (asked !== output.attempt || gone) return false;
    if (last) output.start = answer.offset ?? 0;
    output.offset = answer.next_offset;
    output.size = answer.size;
    output.done = answer.done;
    output.error = null;
    if (answer.text) append(answer.text);
    return Boolean(answer.text);
  }

  function append(text) {
    output.any = true;
    const stay = output.follow;
    pre.append(document.createTextNode(visible(text.replace(/\r\n/g, "\n"))));
    output.length += text.length;
    while (output.length > KEPT && pre.childNodes.length > 1) {
      output.length -= pre.firstChild.length;
      pre.firstChild.remove();
      output.start = 1;
    }
    if (stay) pre.scrollTop = pre.scrollHeight;
  }

  async function pump() {
    while (!gone) {
      let more = false;
      try {
        more = await piece();
      } catch (caught) {
        output.error = caught;
      }
      if (gone) return;
      drawOutput();
      if (output.done) {
        if (run && ACTIVE.has(run.state)) await load();
        if (!run || !ACTIVE.has(run.state)) return;
      }
      if (more && output.offset < output.size) continue;
      await new Promise((resolve) => { wake = resolve; setTimeout(resolve, output.error ? 3000 : 700); });
    }
  }

  let pumping = null;
  function startPump() {
    pumping ??= pump().finally(() => { pumping = null; });
  }

  function choose(attempt) {
    Object.assign(output, { attempt, offset: null, start: 0, size: 0, done: false, length: 0, any: false });
    pre.replaceChildren();
    draw();
    wake?.();
    startPump();
  }

  async function whole() {
    const parts = [];
    let offset = 0;
    for (;;) {
      const answer = (await get(`api/runs/${number}/output` + query({ attempt: output.attempt, offset, limit: 1048576 }))).data;
      parts.push(answer.text);
      if (answer.next_offset <= offset || answer.next_offset >= answer.size) return parts;
      offset = answer.next_offset;
    }
  }

  const download = () => doing.run("download", "Fetching…", async () => {
    const link = h("a", { href: URL.createObjectURL(new Blob(await whole(), { type: "text/plain;charset=utf-8" })), download: `${run.job}-${run.run}.txt` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }, "output");

  // ── drawing ───────────────────────────────────────────────────────────────────────────────

  function draw() {
    if (!run) {
      show(about, error ? missing() : h("p", { class: "dim" }, "Loading…"));
      return;
    }
    title.textContent = `${run.job} #${number}`;
    document.title = `${stateOf(run.state)[0]} ${run.job} #${run.run} · EchoSched`;
    show(about, head(), doing.told("run"), reason(), facts(), attempts());
    drawOutput();
  }

  const missing = () => (error.status === 404 ? empty(`There is no run ${number}.`, "It may have been removed by retention. ", h("a", { href: "#/runs" }, "All runs")) : empty("The run could not be read.", error.message));

  function head() {
    const active = ACTIVE.has(run.state);
    const cancel = () => doing.run("cancel", "Cancelling…", async () => { await post(`api/runs/${number}/cancel`); await load(); refreshSoon(); return `Run #${number} is being cancelled`; }, "run");
    const again = () => doing.run("again", "Starting…", async () => { const answer = await post(`api/jobs/${path(run.job)}/run`); location.hash = `#/run/${answer.run}`; refreshSoon(); return `Run #${answer.run} was started`; }, "run");
    return h("div", { class: "row" }, h("span", { class: "big", "data-state": run.state, id: "run-state" }, pill(run.state)),
      run.state === "running" ? progress(run.started_at, run.usual_duration_seconds) : null, h("span", { class: "grow" }),
      active ? doing.button("cancel", "Cancel", cancel, { class: "danger" }) : doing.button("again", "Run again", again));
  }

  function reason() {
    const text = why(run);
    if (!text || run.state === "succeeded") return null;
    return h("p", { class: `told ${BAD.has(run.state) ? "bad" : "odd"}`, id: "why" }, visible(text));
  }

  function facts() {
    const pair = (term, ...value) => h("div", { "data-key": term }, h("dt", {}, term), h("dd", {}, ...value));
    return h("dl", { class: "facts wide" },
      pair("Job", jobLink(run.job)),
      pair("Started by", run.trigger),
      pair("Slot", at(run.slot)),
      pair("Queued", at(run.queued_at)),
      pair("Started", at(run.started_at)),
      pair("Ended", run.ended_at ? [at(run.ended_at), " ", h("span", { class: "dim" }, since(run.ended_at))] : "–"),
      pair("Duration", h("span", { class: "num" }, duration(run.duration_seconds)), run.usual_duration_seconds ? h("span", { class: "dim" }, ` usually ${duration(run.usual_duration_seconds)}`) : null),
      pair("Lag", h("span", { class: "num" }, duration(run.lag_seconds))),
      pair("Exit code", h("span", { class: "num" }, run.exit_code ?? "–")),
      pair("Signal", signalName(run.signal)),
      pair("Attempt", run.attempt),
      run.pid ? pair("Process", h("span", { class: "num" }, run.pid)) : null,
      run.owner ? pair("Owner", run.owner) : null);
  }

  function attempts() {
    const earlier = run.attempts ?? [];
    if (!earlier.length) return null;
    const rows = [...earlier, { attempt: run.attempt, state: run.state, started_at: run.started_at, ended_at: run.ended_at, exit_code: run.exit_code, signal: run.signal, error: run.error }];
    const shown = output.attempt ?? run.attempt;
    const took = (row) => (row.started_at && row.ended_at ? (new Date(row.ended_at) - new Date(row.started_at)) / 1000 : null);
    return h("div", { "data-key": "attempts" }, h("h2", {}, "Attempts"), frame("Attempts", h("table", { class: "runs" },
      h("thead", {}, h("tr", {}, ["Attempt", "State", "Started", "Duration", "Why", "Output"].map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, rows.map((row) => h("tr", { "data-key": `attempt ${row.attempt}` },
        h("td", { class: "num" }, row.attempt), h("td", {}, pill(row.state)), h("td", {}, at(row.started_at)), h("td", { class: "num" }, duration(took(row))), h("td", { class: "c-why" }, h("span", { class: "why" }, visible(why(row)))),
        h("td", {}, h("button", { type: "button", class: "small", "aria-pressed": String(row.attempt === shown), onclick: () => choose(row.attempt) }, row.attempt === shown ? "Shown" : "Show"))))))));
  }

  function drawOutput() {
    const active = run && ACTIVE.has(run.state);
    show(bar, h("h2", {}, output.attempt ? `Output of attempt ${output.attempt}` : "Output"),
      active ? h("span", { class: "pill live" }, "● live") : null,
      h("span", { class: "dim num" }, bytes(output.size)), h("span", { class: "grow" }),
      h("label", { class: "check" }, h("input", { type: "checkbox", "data-keep": "follow", checked: output.follow, onchange: (event) => { output.follow = event.target.checked; if (output.follow) pre.scrollTop = pre.scrollHeight; } }), "Stay at the end"),
      output.any ? h("button", { type: "button", class: "small", onclick: async () => { await navigator.clipboard.writeText(pre.textContent); say("Copied"); } }, "Copy") : null,
      output.any ? doing.button("download", "Save", download, { class: "small" }) : null);
    pre.hidden = !output.any;
    show(foot,
      output.any && output.start > 0 ? h("p", { class: "dim" }, "Only the end of a long output is shown; Save fetches all of it.") : null,
      !output.any ? (output.error ? h("p", { class: "told bad" }, output.error.message) : active ? h("p", { class: "dim" }, run.state === "queued" ? "It has not started yet; its output will appear here." : "Nothing printed yet; output appears here as it comes.") : output.done ? h("p", { class: "dim" }, "It printed nothing.") : null) : null,
      doing.told("output"));
  }

  // Whoever scrolls up wants to read; back at the end, following goes on.
  pre.onscroll = () => {
    const end = pre.scrollHeight - pre.scrollTop - pre.clientHeight < 24;
    if (end !== output.follow) {
      output.follow = end;
      const box = bar.querySelector("input");
      if (box) box.checked = end;
    }
  };
  doing.redraw = draw;
  main.replaceChildren(
    h("p", { class: "crumbs" }, h("a", { href: "#/runs" }, "Runs"), " ›"),
    title,
    about, h("section", { class: "card", "aria-label": "Output" }, bar, foot, pre));
  draw();
  load().then(startPump);
  return {
    title: `Run #${number}`,
    changed: (what) => { if (what === "jobs" && (!run || ACTIVE.has(run.state))) load(); },
    close: () => { gone = true; wake?.(); },
  };
}
