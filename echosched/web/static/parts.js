// Small pieces that several views share.

import { post, path } from "./api.js";
import { h, s, say } from "./dom.js";
import { BAD, ago, count, countdown, duration, exact, instant, stateOf, whole, why } from "./format.js";
import { refresh } from "./state.js";

/** A state as glyph and word in its colour. */
export function pill(state) {
  const [glyph, tone, words] = stateOf(state);
  return h("span", { class: `pill ${tone}` }, h("span", { "aria-hidden": "true" }, glyph), ` ${words}`);
}

/** An instant, exact on hover. */
export const at = (text) => (text ? h("time", { datetime: text, title: exact(text) }, instant(text)) : h("span", { class: "dim" }, "–"));

/** How long ago, ticking. */
export const since = (text) => (text ? h("time", { datetime: text, title: exact(text), "data-ago": text }, ago(text)) : h("span", { class: "dim" }, "never"));

/** How long until, ticking. */
export const until = (text) => (text ? h("time", { class: "count", datetime: text, title: exact(text), "data-until": text }, countdown(text)) : h("span", { class: "dim" }, "–"));

export const jobLink = (name) => h("a", { href: `#/job/${encodeURIComponent(name)}` }, name);
export const runLink = (run, text = `#${run}`) => h("a", { href: `#/run/${run}` }, text);

/** Say what to do where there is nothing to show. */
export const empty = (title, ...advice) => h("div", { class: "empty" }, h("strong", {}, title), advice.length ? h("p", {}, ...advice) : null);

/** A table's caption for people who listen, and a scroll frame for narrow screens. */
export const frame = (label, table) => h("div", { class: "scroll", role: "region", "aria-label": label, tabindex: "0" }, table);

/** How a running attempt compares with its usual duration, ticking. */
export function progress(startedAt, usual) {
  if (!startedAt) return h("span", { class: "dim" }, "waiting to start");
  const run = (Date.now() - new Date(startedAt).getTime()) / 1000;
  const known = usual > 0;
  return h("span", { class: "progress" },
    known ? h("progress", { max: usual, value: Math.min(run, usual), "aria-label": "time run, of the usual duration", "data-progress": startedAt, "data-usual": usual }) : null,
    h("span", { class: "num", "data-running": startedAt, "data-usual": known ? usual : undefined }, runningFor(startedAt, known ? usual : null)));
}

function runningFor(startedAt, usual) {
  const run = Math.max(0, (Date.now() - new Date(startedAt).getTime()) / 1000);
  if (!usual) return `for ${whole(run)}`;
  return run > usual * 1.5 + 1 ? `${whole(run)}, usually ${duration(usual)}` : `${whole(run)} of ~${duration(usual)}`;
}

/** Bring everything that ticks up to date, once a second. */
export function tick() {
  const set = (element, text) => { if (element.textContent !== text) element.textContent = text; };
  for (const element of document.querySelectorAll("[data-ago]")) set(element, ago(element.dataset.ago));
  for (const element of document.querySelectorAll("[data-until]")) set(element, countdown(element.dataset.until));
  for (const element of document.querySelectorAll("[data-running]")) set(element, runningFor(element.dataset.running, Number(element.dataset.usual) || null));
  for (const element of document.querySelectorAll("[data-up]")) set(element, whole((Date.now() - Number(element.dataset.up)) / 1000));
  for (const element of document.querySelectorAll("[data-progress]")) {
    element.value = Math.min(Number(element.dataset.usual), (Date.now() - new Date(element.dataset.progress).getTime()) / 1000);
  }
}

/** Durations of the latest runs as bars, the newest at the right; failures are hollow caps on a base line. */
export function sparkline(recent) {
  const width = 5;
  const height = 22;
  const slots = 20;
  const runs = (recent ?? []).slice(-slots);
  if (!runs.length) return h("span", { class: "dim" }, "no runs yet");
  const longest = Math.max(...runs.map((run) => run.duration_seconds ?? 0), 1e-9);
  const bad = runs.filter((run) => BAD.has(run.state)).length;
  const last = runs[runs.length - 1];
  const label = `last ${runs.length} runs, longest ${duration(longest)}, ${bad ? `${bad} failed` : "none failed"}, the latest ${stateOf(last.state)[2]}`;
  const bars = runs.map((run, index) => {
    const tone = stateOf(run.state)[1];
    const tall = run.duration_seconds === null || run.duration_seconds === undefined ? 2 : Math.max(2, (run.duration_seconds / longest) * (height - 4));
    const x = index * width;
    const about = s("title", {}, `#${run.run} ${stateOf(run.state)[2]}, ${duration(run.duration_seconds)}`);
    const bar = s("rect", { class: tone, x, y: height - tall, width: width - 1.5, height: tall, rx: 0.8 });
    const mark = BAD.has(run.state) ? s("path", { class: "flag", d: `M${x} 0h3.5l-1.75 3z` }) : null;
    return s("g", {}, about, bar, mark);
  });
  return s("svg", { class: "spark", width: runs.length * width, height, viewBox: `0 0 ${runs.length * width} ${height}`, role: "img", "aria-label": label }, ...bars);
}

/** A button that does something slow, shows that it is at it, and shows in place why it failed. */
export class Doing {
  constructor() {
    this.busy = new Map(); // name → what it says meanwhile
    this.errors = new Map();
    this.notes = new Map();
    this.redraw = () => {};
  }

  /** Do *task* under *name*; *during* is shown on the button meanwhile. */
  async run(name, during, task, scope = name) {
    if (this.busy.has(name)) return;
    this.busy.set(name, during);
    this.errors.delete(scope);
    this.notes.delete(scope);
    this.redraw();
    try {
      const note = await task();
      if (note) {
        this.notes.set(scope, note);
        say(note);
        setTimeout(() => { if (this.notes.get(scope) === note) { this.notes.delete(scope); this.redraw(); } }, 8000);
      }
    } catch (error) {
      this.errors.set(scope, error.message);
      say(error.message);
    } finally {
      this.busy.delete(name);
      this.redraw();
    }
  }

  button(name, text, onclick, attributes = {}) {
    const during = this.busy.get(name);
    return h("button", { type: "button", "data-key": name, ...attributes, "aria-disabled": during || attributes["aria-disabled"] ? "true" : undefined, "aria-busy": during ? "true" : undefined, onclick: during ? null : onclick },
      during ?? text);
  }

  /** What went wrong or well under *scope*, if anything did. */
  told(scope) {
    const error = this.errors.get(scope);
    if (error) return h("p", { class: "told bad", role: "alert" }, h("span", {}, error), " ", h("button", { type: "button", class: "quiet", onclick: () => { this.errors.delete(scope); this.redraw(); } }, "Dismiss"));
    const note = this.notes.get(scope);
    return note ? h("p", { class: "told good" }, note) : null;
  }
}

/** What can be done with a job. */
export const jobActions = {
  run: (job) => async () => {
    const { run } = await post(`api/jobs/${path(job)}/run`);
    refresh();
    return `Run #${run} of ${job} was started`;
  },
  pause: (job) => async () => {
    await post(`api/jobs/${path(job)}/pause`);
    await refresh();
    return `${job} is paused`;
  },
  resume: (job) => async () => {
    await post(`api/jobs/${path(job)}/resume`);
    await refresh();
    return `${job} is resumed`;
  },
};

/** What a job needs somebody to look at, or null. */
export function trouble(job) {
  if (job.parked) return { state: "parked", why: job.parked, run: null, at: null };
  const last = job.last_run;
  if (last && (BAD.has(last.state) || last.state === "missed")) return { state: last.state, why: why(last), run: last.run, at: last.ended_at ?? last.queued_at };
  return null;
}

export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
