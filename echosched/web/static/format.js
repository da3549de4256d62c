// Values in words. Instants arrive as RFC 3339 in UTC and are shown in the reader's own time zone.

export const OUTCOMES = ["succeeded", "failed", "timed_out", "cancelled", "skipped", "missed", "abandoned"];
export const BAD = new Set(["failed", "timed_out", "abandoned"]);

const STATES = {
  queued: ["○", "odd", "queued"],
  running: ["▶", "live", "running"],
  succeeded: ["✓", "good", "succeeded"],
  failed: ["✕", "bad", "failed"],
  timed_out: ["✕", "bad", "timed out"],
  abandoned: ["✕", "bad", "abandoned"],
  cancelled: ["■", "odd", "cancelled"],
  skipped: ["–", "none", "skipped"],
  missed: ["!", "odd", "missed"],
};

/** Return [glyph, tone, words] of a run's state. */
export const stateOf = (state) => STATES[state] ?? ["?", "none", String(state ?? "never run")];

const HEALTH = {
  ok: ["●", "good", "Running"],
  degraded: ["◐", "odd", "Running, degraded"],
  stalled: ["▲", "bad", "Stalled"],
  stopped: ["■", "none", "Stopped"],
  stopping: ["◌", "odd", "Stopping"],
  starting: ["○", "odd", "Starting"],
};

/** Return [glyph, tone, words] of the scheduler's condition. */
export function healthOf(status) {
  if (!status) return ["○", "none", "Unknown"];
  if (!status.running && status.last_exit && !isClean(status.last_exit)) return ["✕", "bad", "Stopped (it died)"];
  if (status.running && status.stopping) return HEALTH.stopping;
  if (status.running && status.ready === false && status.health !== "stalled") return HEALTH.starting;
  return HEALTH[status.health] ?? ["?", "odd", String(status.health ?? "unknown")];
}

/** Tell whether *ended* (last_exit) is an end that somebody wanted. */
export const isClean = (ended) => /clean|replaced|stopped/.test(String(ended?.how ?? ended));

export function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  if (seconds < 0) return "−" + duration(-seconds);
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)}\u00a0ms`;
  if (seconds < 59.95) return `${seconds.toFixed(1)}\u00a0s`;
  return whole(seconds);
}

/** Like duration, in whole seconds, for what ticks. */
export function whole(seconds) {
  const n = Math.max(0, Math.round(seconds));
  const two = (value) => String(value).padStart(2, "0");
  if (n < 60) return `${n}\u00a0s`;
  if (n < 3600) return `${Math.floor(n / 60)}\u00a0m\u00a0${two(n % 60)}\u00a0s`;
  if (n < 86400) return `${Math.floor(n / 3600)}\u00a0h\u00a0${two(Math.floor((n % 3600) / 60))}\u00a0m`;
  return `${Math.floor(n / 86400)}\u00a0d\u00a0${two(Math.floor((n % 86400) / 3600))}\u00a0h`;
}

export function bytes(n) {
  if (n === null || n === undefined) return "–";
  if (n < 1024) return `${n} B`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let value = n / 1024;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

export const count = (n) => (n === null || n === undefined ? "–" : Number(n).toLocaleString("en"));

const DAY = new Intl.DateTimeFormat("en-GB", { weekday: "short", day: "2-digit", month: "short" });
const TIME = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const SHORT = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const YEAR = new Intl.DateTimeFormat("en-GB", { day: "2-digit", month: "short", year: "numeric" });

/** Return *text* (an instant) as local date and time, the date left out for today. */
export function instant(text) {
  if (!text) return "–";
  const at = new Date(text);
  if (Number.isNaN(at.getTime())) return String(text);
  const now = new Date();
  if (at.toDateString() === now.toDateString()) return TIME.format(at);
  const far = Math.abs(at - now) > 300 * 86400e3;
  return `${far ? YEAR.format(at) : DAY.format(at)}, ${TIME.format(at)}`;
}

export const clock = (ms, seconds = false) => (seconds ? TIME : SHORT).format(new Date(ms));
export const day = (ms) => DAY.format(new Date(ms));

/** Return what is told on hovering over an instant: exact, in UTC and local. */
export const exact = (text) => (text ? `${text}\n${new Date(text).toString()}` : undefined);

export const age = (text) => (Date.now() - new Date(text).getTime()) / 1000;

export const ago = (text) => (text ? (age(text) < 1 ? "just now" : `${whole(age(text))} ago`) : "never");

export function countdown(text) {
  if (!text) return "–";
  const left = -age(text);
  return left <= 0 ? "due" : `in ${whole(left)}`;
}

const SIGNALS = { 1: "HUP", 2: "INT", 3: "QUIT", 4: "ILL", 6: "ABRT", 7: "BUS", 8: "FPE", 9: "KILL", 11: "SEGV", 13: "PIPE", 14: "ALRM", 15: "TERM", 24: "XCPU", 25: "XFSZ" };

/** Return a run's reason in a few words: its error, exit code or signal. */
export function why(run) {
  if (!run) return "";
  const parts = [];
  if (run.error) parts.push(run.error);
  if (run.signal && !/signal/i.test(run.error ?? "")) parts.push(`signal ${run.signal}${SIGNALS[run.signal] ? ` (SIG${SIGNALS[run.signal]})` : ""}`);
  else if (run.exit_code && !/exit/i.test(run.error ?? "")) parts.push(`exit code ${run.exit_code}`);
  return parts.join(" · ");
}

export const signalName = (n) => (n ? `${n}${SIGNALS[n] ? ` (SIG${SIGNALS[n]})` : ""}` : "–");

/** Characters that move cursors or turn directions, made visible; line ends and tabs stay. */
export const visible = (text) =>
  String(text).replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g, (c) =>
    c.charCodeAt(0) < 32 ? String.fromCharCode(0x2400 + c.charCodeAt(0)) : "\ufffd");

// ── the journal, in sentences ─────────────────────────────────────────────────────────────────

const tag = (e) => `${e.job} #${e.run}${e.attempt > 1 ? ` attempt ${e.attempt}` : ""}`;
const because = (text) => (text ? `: ${text}` : "");

const SENTENCES = {
  startup: (e) => `echosched ${e.version}, ${e.mode}, pid ${e.pid}`,
  ready: (e) => `serving ${count(e.jobs)} jobs, pid ${e.pid}`,
  tick: (e) => {
    const soonest = Object.entries(e.next ?? {}).filter(([, at]) => at).sort((a, b) => (a[1] < b[1] ? -1 : 1)).slice(0, 3);
    return `${e.tick}, next: ${soonest.map(([job, at]) => `${job} ${instant(at)}`).join(", ") || "nothing"}`;
  },
  reload: (e) => `${count(e.jobs)} jobs` + ["added", "removed", "changed"].filter((k) => e[k]?.length).map((k) => `; ${k} ${e[k].join(", ")}`).join(""),
  reload_failed: (e) => `the old configuration goes on: ${(e.problems ?? []).join("; ")}`,
  shutdown: (e) => `pid ${e.pid}${e.signal ? ` by ${e.signal}` : ""}`,
  cleanup: (e) => `left-overs of pid ${e.removed_pid} removed`,
  supervisor_start: (e) => `pid ${e.pid}`,
  worker_exit: (e) => `worker ${e.pid} ended: ${e.signal ? `signal ${e.signal}` : `exit code ${e.exit_code}`}`,
  worker_restart: (e) => `restart ${e.restarts} in ${duration(e.delay_seconds)}`,
  watchdog: (e) => `worker ${e.pid} has not moved for ${duration(e.age_seconds)} and is replaced`,
  clock_jump: (e) => `${duration(Math.abs(e.seconds))} ${e.seconds >= 0 ? "forward" : "back"}${e.suspended ? " (the machine slept)" : ""}`,
  slot_claimed: (e) => `${tag(e)} (${e.trigger}${e.slot ? `, slot ${instant(e.slot)}` : ""})`,
  run_start: (e) => `${tag(e)} (${e.trigger})${e.pid ? ` pid ${e.pid}` : ""}`,
  run_end: (e) => `${tag(e)} ${stateOf(e.state)[2]}${e.duration_seconds != null ? ` in ${duration(e.duration_seconds)}` : ""}${because(why(e))}`,
  run_retry: (e) => `${tag(e)} again at ${instant(e.retry_at)}${because(e.error)}`,
  run_skipped: (e) => `${tag(e)}${because(e.reason)}`,
  run_missed: (e) => `${tag(e)}${because(e.reason)}`,
  run_abandoned: (e) => `${tag(e)}${because(e.reason)}`,
  run_adopted: (e) => `${tag(e)} goes on as pid ${e.pid}`,
  job_paused: (e) => e.job,
  job_resumed: (e) => e.job,
  job_parked: (e) => `${e.job}: ${e.reason}`,
  store_degraded: (e) => `runs are kept in memory: ${e.reason}`,
  store_recovered: (e) => `${e.written} records written, ${e.lost} lost, after ${duration(e.seconds)}`,
  notify_failed: (e) => `${e.target}: ${e.reason}${e.final ? " (given up)" : ""}`,
};

/** Return a journal event's sentence. */
export function sentence(event) {
  try {
    const told = SENTENCES[event.event]?.(event);
    if (told !== undefined) return visible(told);
  } catch {
    // A newer writer's shape: its fields tell.
  }
  return visible(Object.entries(event).filter(([k, v]) => !["ts", "event"].includes(k) && v !== null).map(([k, v]) => `${k}=${typeof v === "object" ? JSON.stringify(v) : v}`).join(" "));
}

const BAD_EVENTS = new Set(["watchdog", "store_degraded", "reload_failed", "job_parked", "run_abandoned", "notify_failed", "sink_failed"]);
const ODD_EVENTS = new Set(["run_missed", "run_skipped", "run_retry", "worker_exit", "worker_restart", "clock_jump", "cleanup", "shutdown"]);
const GOOD_EVENTS = new Set(["ready", "store_recovered", "reload"]);

/** Return how a journal event sounds: good, bad, odd or plain. */
export function toneOf(event) {
  if (event.event === "run_end") return stateOf(event.state)[1];
  return BAD_EVENTS.has(event.event) ? "bad" : ODD_EVENTS.has(event.event) ? "odd" : GOOD_EVENTS.has(event.event) ? "good" : "plain";
}
