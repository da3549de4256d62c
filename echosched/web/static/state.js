// What the page knows, in one place. Views read it and are told when it changes.

import { ApiError, follow, get, query } from "./api.js";

export const known = {
  status: null, // status --json
  statusAt: 0, // when it arrived, ms
  jobs: null, // those listed now; null: never loaded
  list: { text: "", only: "all", sort: "attention", down: false, limit: 100 }, // which they are
  found: 0, // how many fit
  counts: {}, // how many there are of each kind
  troubled: null, // the first of those that need attention
  jobsAt: 0,
  jobsError: null,
  total: 0,
  timeline: null,
  timelineHours: 24,
  events: [], // newest last
  eventsLoaded: false,
  link: "connecting", // the event stream: live, connecting, off
  offline: null, // why the web server could not be asked, if it could not
};

export const settings = {
  get auto() { return read("auto", "1") === "1"; },
  set auto(on) { write("auto", on ? "1" : "0"); },
  get live() { return read("live", "1") === "1"; },
  set live(on) { write("live", on ? "1" : "0"); },
  get theme() { return read("theme", ""); },
  set theme(name) { write("theme", name); },
};

function read(name, otherwise) {
  try {
    return localStorage.getItem(`echosched.${name}`) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function write(name, value) {
  try {
    localStorage.setItem(`echosched.${name}`, value);
  } catch {
    // Not remembered, then.
  }
}

const KEPT_EVENTS = 2000;
const listeners = new Set();

/** Call *listener*(what) after each change, until the returned function is called. */
export function onChange(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function changed(what) {
  for (const listener of listeners) listener(what);
}

// ── asking ────────────────────────────────────────────────────────────────────────────────────

const underway = new Map();
let life = 0; // of the key: what was asked with an earlier one is nothing to show any more

/** Ask the API; the answer counts only while the key is the one that it was asked with. */
async function ask(address) {
  const asked = life;
  const [answer, error] = await get(address).then((found) => [found, null], (problem) => [null, problem]);
  if (asked !== life) throw Object.assign(new Error("asked with an earlier key"), { name: "AbortError" });
  if (error) throw error;
  return answer;
}

/** Run *task* unless the same is on its way. */
function once(name, task) {
  if (!underway.has(name)) {
    const promise = task().finally(() => { if (underway.get(name) === promise) underway.delete(name); });
    underway.set(name, promise);
  }
  return underway.get(name);
}

function heard() {
  if (known.offline) {
    known.offline = null;
    changed("offline");
  }
}

function failed(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof ApiError)) throw error;
  if (error.code === "offline" && !known.offline) {
    known.offline = error.message;
    changed("offline");
  }
}

export const loadStatus = () => once("status", async () => {
  try {
    setStatus((await ask("api/automations/status")).data);
    heard();
  } catch (error) {
    failed(error);
  }
});

export function setStatus(status) {
  const before = known.status;
  known.status = status;
  known.statusAt = Date.now();
  changed("status");
  // Another worker, or none: what is known of the jobs may be another thing now.
  if (before && (status.worker_pid !== before.worker_pid || status.running !== before.running)) refreshSoon(300);
}

export const loadJobs = () => once("jobs", async () => {
  try {
    const { text, only, sort, down, limit } = known.list;
    const asked = (wanted) => ask("api/jobs" + query(wanted));
    const [page, troubled] = await Promise.all([
      asked({ q: text.trim(), only, sort, down: down ? 1 : null, limit }),
      asked({ only: "failing", sort: "trouble", down: 1, limit: 6, recent: 0 }),
    ]);
    Object.assign(known, { jobs: page.data, total: page.total, found: page.found, counts: page.counts, troubled: troubled.data });
    known.jobsAt = Date.now();
    known.jobsError = null;
    heard();
  } catch (error) {
    failed(error);
    if (error.name === "AbortError") return;
    known.jobsError = error;
  }
  changed("jobs");
});

/** List other jobs, or in another order. */
export async function relist(change) {
  Object.assign(known.list, change);
  changed("jobs");
  await underway.get("jobs"); // it asked for what was listed before
  await loadJobs();
}

export const loadTimeline = () => once("timeline", async () => {
  const hours = known.timelineHours;
  const now = Date.now();
  const at = (ms) => new Date(ms).toISOString();
  try {
    const answer = await ask("api/timeline" + query({ from: at(now - hours * 3600e3), to: at(now + hours * 3600e3) }));
    known.timeline = { ...answer.data, hours };
    timelineAt = Date.now();
  } catch (error) {
    failed(error);
  }
  changed("timeline");
});

export const loadJournal = () => once("journal", async () => {
  try {
    const before = known.events.length;
    const answer = await ask("api/journal?n=500");
    // What was heard while the answer was on its way may be in it, or not.
    const had = new Set(answer.data.slice(-200).map((event) => JSON.stringify(event)));
    known.events = [...answer.data, ...known.events.slice(before).filter((event) => !had.has(JSON.stringify(event)))];
    known.eventsLoaded = true;
    if (lastId === null) lastId = answer.last_id;
  } catch (error) {
    failed(error);
  }
  changed("events");
});

/** Ask everything anew; a timeline of thousands of runs not more often than it pays. */
export async function refresh() {
  const heavy = (known.timeline?.runs.length ?? 0) > 1000;
  const fresh = known.timeline?.hours === known.timelineHours && Date.now() - timelineAt < 20_000;
  await Promise.all([loadStatus(), loadJobs(), heavy && fresh ? null : loadTimeline()]);
}

let timelineAt = 0;

let soon = null;
let soonAt = 0;
let lastRefresh = 0;

/** Ask anew a little later: a flock of events causes one refresh, and no more than one in two seconds. */
export function refreshSoon(ms = 400) {
  const at = Math.max(Date.now() + ms, lastRefresh + 2000);
  if (soon !== null && soonAt <= at) return;
  clearTimeout(soon);
  soonAt = at;
  soon = setTimeout(() => {
    soon = null;
    lastRefresh = Date.now();
    refresh();
  }, at - Date.now());
}

// ── the two ways of keeping up ────────────────────────────────────────────────────────────────

let lastId = null;
let streaming = null;
let timer = null;

// The server may answer from what it knew up to 2.5 s ago: once it is quiet, one more look has the last word.
const TRAILING_MS = 3000;
let trailing = null;

const RUN_EVENTS = /^(run_|slot_|job_|reload|ready|shutdown)/;

/** Begin or end live mode and auto-refresh, as the settings say. */
export function keepUp() {
  clearInterval(timer);
  timer = settings.auto ? setInterval(() => { if (!document.hidden) refresh(); }, 10_000) : null;
  if (settings.live && !streaming) {
    streaming = new AbortController();
    const { signal } = streaming;
    follow({ event: heardEvent, status: setStatus, reset: () => { known.eventsLoaded = false; changed("reset"); refreshSoon(); }, state: (link) => { if (!signal.aborted || link === "off") setLink(link); } }, signal, lastId)
      .finally(() => { if (streaming?.signal === signal) streaming = null; });
  } else if (!settings.live && streaming) {
    streaming.abort();
    streaming = null;
    setLink("off");
  }
}

function setLink(link) {
  if (known.link === link) return;
  known.link = link;
  if (link === "live") heard();
  changed("link");
}

function heardEvent(event, id) {
  if (id) lastId = id;
  known.events.push(event);
  if (known.events.length > KEPT_EVENTS) known.events.splice(0, known.events.length - KEPT_EVENTS);
  changed("event");
  if (!RUN_EVENTS.test(event.event)) return;
  refreshSoon();
  clearTimeout(trailing);
  trailing = setTimeout(() => refreshSoon(0), TRAILING_MS);
}

/** Forget everything that a key was needed for. */
export function forget() {
  life += 1;
  underway.clear();
  streaming?.abort();
  streaming = null;
  Object.assign(known, { status: null, jobs: null, troubled: null, jobsError: null, timeline: null, events: [], eventsLoaded: false });
  lastId = null;
}
