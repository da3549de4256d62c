// The timeline: what ran (bars, by job), what comes (marks), and now. Drawn in SVG at the pixel.
//
// One stop for the tab key: arrows move between marks and rows, Enter opens the run. What the
// pointer or the focus is on is told below the drawing.

import { h, s, show } from "./dom.js";
import { BAD, clock, day, duration, instant, stateOf, why } from "./format.js";
import { empty } from "./parts.js";
import { known, loadTimeline } from "./state.js";

const ROW = 22;
const HEAD = 22;
const ROWS = 24;
const SLOTS = 200; // of one job, as the server lists them
const RANK = ["none", "good", "live", "odd", "bad"];
const RANGES = [[1, "1 h"], [6, "6 h"], [24, "24 h"], [168, "7 d"]];

let place = null;
let wide = false; // all rows instead of the first ones
let cursor = { job: null, index: 0 }; // the mark that the tab key stops at
let told = null;
let watcher = null;

export function mountTimeline(container) {
  place = container;
  watcher?.disconnect();
  let last = 0;
  watcher = new ResizeObserver(() => {
    if (Math.abs(place.clientWidth - last) > 4) {
      last = place.clientWidth;
      draw();
    }
  });
  watcher.observe(container);
  draw();
}

export function draw() {
  if (!place?.isConnected) return;
  const data = known.timeline;
  show(place,
    h("div", { class: "cardhead" }, h("h2", {}, "Timeline"),
      h("div", { class: "segments", role: "group", "aria-label": "How far back and ahead" },
        RANGES.map(([hours, text]) => h("button", { type: "button", "aria-pressed": String(known.timelineHours === hours), "aria-label": `${text} back and ahead`, onclick: () => { known.timelineHours = hours; draw(); loadTimeline(); } }, `±${text}`))),
      h("span", { class: "grow" }),
      h("span", { class: "dim" }, `Times in ${Intl.DateTimeFormat().resolvedOptions().timeZone ?? "your time zone"}`)),
    body(data));
}

function body(data) {
  if (!data) return h("p", { class: "dim", "data-key": "wait" }, known.status?.running === false ? "Nothing to draw while the scheduler is stopped." : "Loading…");
  const rows = group(data);
  if (!rows.length) return empty(`Nothing ran in the last ${span(data)}, and nothing comes in the next.`, "Add a job to the configuration and reload, or run one by hand below.");
  const shown = wide ? rows : rows.slice(0, ROWS);
  return h("div", { "data-key": "chart" },
    chart(data, shown),
    h("div", { class: "tlfoot" },
      legend(),
      rows.length > ROWS ? h("button", { type: "button", class: "quiet", onclick: () => { wide = !wide; draw(); } }, wide ? `Show ${ROWS} jobs only` : `Show all ${rows.length} jobs`) : null),
    h("p", { class: "tltold", role: "status", "aria-live": "polite", "data-keep": "told" }, "Point at a mark, or use the arrow keys, for details."),
    data.runs.length >= 5000 ? h("p", { class: "dim" }, "Only the newest 5,000 runs are drawn.") : null);
}

const span = (data) => (data.hours >= 48 ? `${data.hours / 24} days` : data.hours === 1 ? "hour" : `${data.hours} hours`);

/** Sort runs and coming slots into rows by job, those with trouble first, then the latest. */
function group(data) {
  const rows = new Map();
  const row = (job) => rows.get(job) ?? rows.set(job, { job, runs: [], next: [], bad: false, last: 0 }).get(job);
  for (const run of data.runs) {
    const start = new Date(run.started_at ?? run.slot ?? run.queued_at).getTime();
    const end = run.ended_at ? new Date(run.ended_at).getTime() : run.state === "running" ? Date.now() : start;
    const into = row(run.job);
    into.runs.push({ run, start, end });
    into.last = Math.max(into.last, start);
  }
  for (const slot of data.next) row(slot.job).next.push(new Date(slot.at).getTime());
  for (const each of rows.values()) {
    each.runs.sort((a, b) => a.start - b.start);
    each.bad = BAD.has(each.runs.at(-1)?.run.state);
  }
  return [...rows.values()].sort((a, b) => b.bad - a.bad || b.last - a.last || (a.job < b.job ? -1 : 1));
}

function chart(data, rows) {
  const width = Math.max(place.clientWidth - 26, 280);
  const narrow = width < 560;
  const left = narrow ? 0 : Math.min(180, width * 0.2);
  const step = narrow ? ROW + 15 : ROW;
  const height = HEAD + rows.length * step + 6;
  const from = new Date(data.from).getTime();
  const to = new Date(data.to).getTime();
  const x = (ms) => left + ((ms - from) / (to - from)) * (width - left - 1);
  const now = Date.now();
  for (const row of rows) row.marks = bars(row, x);
  const held = rows.find((row) => row.job === cursor.job);
  // A mark that is gone (merged, or out of range) hands the stop to its neighbour, a row to the first one.
  if (held?.marks.length) cursor.index = Math.min(cursor.index, held.marks.length - 1);
  else cursor = { job: rows.find((row) => row.marks.length)?.job ?? null, index: 0 };
  const parts = [grid(from, to, x, height, width, left)];
  rows.forEach((row, index) => parts.push(rowOf(row, { x, top: HEAD + index * step, left, width, narrow, from, to })));
  parts.push(s("g", { class: "now", "aria-hidden": "true" }, s("line", { x1: x(now), x2: x(now), y1: 12, y2: height }), s("text", { x: x(now), y: 10, "text-anchor": "middle" }, "now")));
  return s("svg", { class: "timeline", width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `Runs of the last ${span(data)} and slots of the next, ${rows.length} jobs. Use the arrow keys.`, onkeydown: move }, ...parts);
}

function grid(from, to, x, height, width, left) {
  const hour = 3600e3;
  const room = (width - left) / ((to - from) / hour); // pixels an hour
  const step = [1 / 6, 0.5, 1, 2, 3, 6, 12, 24, 48].find((hours) => hours * room >= 64) ?? 96;
  const lines = [];
  const first = new Date(from);
  first.setHours(0, 0, 0, 0);
  for (let t = first.getTime(); t < to; t += step * hour) {
    if (t < from || x(t) > width - 20) continue;
    const at = new Date(t);
    const midnight = at.getHours() === 0 && at.getMinutes() === 0;
    const label = midnight ? day(t) : clock(t);
    lines.push(s("line", { class: midnight ? "day" : "", x1: x(t), x2: x(t), y1: HEAD - 6, y2: height }));
    if (Math.abs(x(t) - x(Date.now())) > 42 && x(t) > left + 14) lines.push(s("text", { x: x(t), y: 10, "text-anchor": "middle" }, label));
  }
  return s("g", { class: "grid", "aria-hidden": "true" }, ...lines);
}

function rowOf(row, view) {
  const { x, top, left, narrow, width } = view;
  const base = top + (narrow ? 15 : 0);
  const marks = row.marks.map((mark, index) => markOf(row, mark, index, base));
  marks.push(...comings(row, view, base + ROW / 2));
  const label = s("text", { class: "label", x: 0, y: narrow ? top + 12 : base + ROW / 2 + 4 }, fit(row.job, narrow ? 46 : Math.floor(left / 7.4)), s("title", {}, row.job));
  return s("g", { class: "tlrow", "data-key": `row ${row.job}` },
    s("line", { class: "base", x1: left, x2: width, y1: base + ROW - 3, y2: base + ROW - 3 }),
    s("a", { href: `#/job/${encodeURIComponent(row.job)}`, tabindex: "-1" }, label), ...marks);
}

/** Coming slots as rings, or as a band where they are too close together to count. */
function comings(row, { x, width, to }, middle) {
  const found = [];
  let band = null;
  for (const slot of row.next) {
    const at = x(slot);
    if (at > width) break;
    if (band && at - band.end < 7) {
      band.end = at;
      band.n += 1;
    } else found.push((band = { start: at, end: at, n: 1 }));
  }
  // The server lists so many slots a job and no more: the band goes on to the end of the picture.
  if (band && row.next.length >= SLOTS && row.next.at(-1) < to) band.end = width;
  return found.flatMap(({ start, end, n }) => (n < 3
    ? [...new Set([start, end])].map((at) => s("circle", { class: "coming", cx: at, cy: middle, r: 2.6 }))
    : s("rect", { class: "many", x: start - 2, y: middle - 1.5, width: end - start + 4, height: 3, rx: 1.5 })));
}

const fit = (text, n) => (text.length > n ? `${text.slice(0, n - 1)}…` : text);

/**
 * Merge runs that would be drawn over each other; a merged bar has the colour of its worst run. It stays
 * narrow, so that one failure among a thousand runs colours its own moment and not the whole day.
 */
function bars(row, x) {
  const found = [];
  for (const item of row.runs) {
    const start = x(item.start);
    const end = Math.max(x(item.end), start + 2.5);
    const tone = stateOf(item.run.state)[1];
    const last = found.at(-1);
    if (last && start < last.end + 0.5 && start - last.start < 7) {
      last.end = Math.max(last.end, end);
      last.items.push(item);
      if (RANK.indexOf(tone) > RANK.indexOf(last.tone)) last.tone = tone;
    } else found.push({ start, end, tone, items: [item] });
  }
  return found;
}

function markOf(row, mark, index, base) {
  const short = { bad: 0, live: 2, good: 6, odd: 6, none: 11 }[mark.tone];
  const about = describe(row.job, mark);
  const here = cursor.job === row.job && cursor.index === index;
  const tell = () => point(about, row.job, index);
  return s("g", { class: `mark ${mark.tone}`, "data-job": row.job, "data-index": index, "data-run": mark.items.at(-1).run.run, role: "link", tabindex: here ? "0" : "-1", "aria-label": about, onclick: () => open(mark), onfocus: tell, onpointerover: () => tellOnly(about) },
    s("rect", { class: "hit", x: mark.start - 2, y: base, width: mark.end - mark.start + 4, height: ROW - 2 }),
    s("rect", { class: "bar", x: mark.start, y: base + short, width: mark.end - mark.start, height: ROW - 4 - short, rx: 1.5 }),
    mark.tone === "bad" ? s("path", { class: "flag", d: `M${mark.start - 1.5} ${base - 1}h6l-3 4z` }) : null);
}

function describe(job, mark) {
  const last = mark.items.at(-1).run;
  if (mark.items.length === 1) return `${job} #${last.run} ${stateOf(last.state)[2]}, ${instant(last.started_at ?? last.slot ?? last.queued_at)}${last.duration_seconds !== null ? `, ${duration(last.duration_seconds)}` : ""}${why(last) ? `: ${why(last)}` : ""}`;
  const counts = {};
  for (const { run } of mark.items) counts[run.state] = (counts[run.state] ?? 0) + 1;
  const words = Object.entries(counts).map(([state, n]) => `${n} ${stateOf(state)[2]}`).join(", ");
  return `${job}: ${mark.items.length} runs, ${instant(mark.items[0].run.started_at ?? mark.items[0].run.queued_at)} to ${instant(last.started_at ?? last.queued_at)}: ${words}`;
}

function tellOnly(text) {
  told = text;
  const line = place.querySelector(".tltold");
  if (line) line.textContent = text;
}

function point(text, job, index) {
  tellOnly(text);
  if (cursor.job === job && cursor.index === index) return;
  cursor = { job, index };
  for (const mark of place.querySelectorAll(".mark[tabindex='0']")) mark.setAttribute("tabindex", "-1");
  document.activeElement?.setAttribute?.("tabindex", "0");
}

function open(mark) {
  const worst = mark.items.findLast(({ run }) => stateOf(run.state)[1] === mark.tone) ?? mark.items.at(-1);
  location.hash = `#/run/${worst.run.run}`;
}

function move(event) {
  const here = event.target.closest?.(".mark");
  if (!here) return;
  const row = here.parentNode;
  const marks = [...row.querySelectorAll(".mark")];
  const index = marks.indexOf(here);
  let next = null;
  if (event.key === "ArrowRight") next = marks[index + 1];
  else if (event.key === "ArrowLeft") next = marks[index - 1];
  else if (event.key === "Home") next = marks[0];
  else if (event.key === "End") next = marks.at(-1);
  else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    let other = row;
    do other = event.key === "ArrowDown" ? other.nextElementSibling : other.previousElementSibling;
    while (other && !other.querySelector?.(".mark"));
    const target = here.getBoundingClientRect().left;
    next = other && [...other.querySelectorAll(".mark")].sort((a, b) => Math.abs(a.getBoundingClientRect().left - target) - Math.abs(b.getBoundingClientRect().left - target))[0];
  } else if (event.key === "Enter" || event.key === " ") {
    here.onclick();
    event.preventDefault();
    return;
  } else return;
  event.preventDefault();
  next?.focus();
}

function legend() {
  const item = (tone, text) => h("span", { class: `key ${tone}` }, s("svg", { width: 10, height: 14, viewBox: "0 0 10 14", "aria-hidden": "true" }, s("rect", { class: "bar", x: 1, y: { bad: 2, live: 3, good: 6, odd: 6, none: 10, coming: 6 }[tone], width: 7, height: { bad: 12, live: 11, good: 8, odd: 8, none: 4, coming: 4 }[tone], rx: tone === "coming" ? 3 : 1 }), tone === "bad" ? s("path", { class: "flag", d: "M1 0h7l-3.5 3z" }) : null), text);
  return h("p", { class: "legend" }, item("bad", "failed"), item("good", "succeeded"), item("live", "running"), item("odd", "queued, cancelled or missed"), item("none", "skipped"), item("coming", "to come"));
}
