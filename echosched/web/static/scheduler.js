// The scheduler's card: how it is, what it says about itself, and its three buttons.

import { post } from "./api.js";
import { h, show } from "./dom.js";
import { age, bytes, count, duration, healthOf, isClean, whole } from "./format.js";
import { Doing, at, since } from "./parts.js";
import { known, loadStatus, refresh } from "./state.js";

const doing = new Doing();
let asking = null; // stop or restart, while the operator is asked whether he means it

const VERBS = {
  start: ["Start", "Starting…"],
  stop: ["Stop", "Stopping…"],
  restart: ["Restart", "Restarting…"],
};

function press(verb) {
  const running = known.status?.runs?.running ?? 0;
  if (verb !== "start" && running > 0 && asking !== verb) {
    asking = verb;
    draw();
    document.getElementById("sure")?.focus();
    return;
  }
  asking = null;
  doing.run(verb, VERBS[verb][1], async () => {
    const answer = await post(`api/automations/${verb}`);
    await loadStatus();
    refresh();
    if (answer.httpStatus === 202) return "Still at it; this card shows when it is done";
    return answer.pid ? `${answer.status}, pid ${answer.pid}` : answer.status;
  }, "scheduler");
}

let card = null;

export function mountScheduler(place) {
  card = place;
  doing.redraw = draw;
  draw();
}

export function draw() {
  if (!card?.isConnected) return;
  const status = known.status;
  const [glyph, tone, words] = healthOf(status);
  card.className = `card scheduler edge-${tone}`;
  show(card,
    h("h2", { class: "unseen" }, "Scheduler"),
    h("p", { class: `health ${tone}`, id: "health", "data-health": status?.health ?? "unknown" }, h("span", { class: "glyph", "aria-hidden": "true" }, glyph), h("strong", {}, words), pidOf(status)),
    reasonOf(status),
    incident(status),
    buttons(status),
    doing.told("scheduler"),
    status ? facts(status) : null);
}

const pidOf = (status) => (status?.pid ? h("span", { class: "dim num" }, `pid ${status.pid}`) : null);

function reasonOf(status) {
  if (!status) return h("p", { class: "dim" }, "Asking…");
  if (status.stopping) return h("p", {}, stoppingOf(status));
  if (status.health === "stalled") return h("p", {}, "Its loop does not move. The supervisor replaces it by itself; Restart does it now.");
  if (status.health === "degraded") return h("p", {}, status.ready === false ? "Not ready yet." : status.reasons?.join("; ") || "Jobs run, but something does not work as it should: see the journal.");
  if (status.running) return null;
  const ended = status.last_exit;
  if (!ended) return h("p", {}, "It has not run here yet. Start it to see its jobs.");
  const how = ended.how ?? String(ended);
  return h("div", { class: "reason" },
    h("p", {}, "It ended: ", h("strong", {}, how), ended.at ? [", ", since(ended.at)] : null),
    ended.detail && !isClean(ended) ? h("p", { class: "dim" }, ended.detail) : null);
}

function stoppingOf(status) {
  const n = status.runs?.running ?? 0;
  return `Nothing new is started.${n ? ` It waits for ${n === 1 ? "one running job" : `${count(n)} running jobs`}; what is left after the grace is ended.` : ""}`;
}

const RECENT_SECONDS = 1800;

/** A worker that died a while ago is news although everything is well again. */
function incident(status) {
  const last = status?.last_worker_exit;
  if (!status?.running || !last?.at || age(last.at) > RECENT_SECONDS || /retire|upgrade|standby/.test(last.why)) return null;
  const again = status.worker_pid && status.ready !== false && status.health !== "stalled" ? "; another took over" : "; another is being started";
  return h("p", { class: "told odd", id: "incident" }, `The worker ${/^(was|ended|could)/.test(last.why) ? last.why : `ended: ${last.why}`}, `, since(last.at), again, ". Jobs that were running go on.");
}

function buttons(status) {
  if (asking) {
    const n = known.status?.runs?.running ?? 0;
    return h("div", { class: "sure", role: "group", "aria-labelledby": "sure-text", "data-key": "sure" },
      h("p", { id: "sure-text" }, `${n === 1 ? "One job is" : `${count(n)} jobs are`} running and would be ended after a grace of some seconds.`),
      h("div", { class: "row" },
        h("button", { type: "button", id: "sure", class: "danger", onclick: () => press(asking) }, `${VERBS[asking][0]} anyway`),
        h("button", { type: "button", onclick: () => { asking = null; draw(); } }, "Leave it running")));
  }
  const up = Boolean(status?.running);
  const busy = doing.busy.size > 0;
  const button = (verb, main, off) => doing.button(verb, VERBS[verb][0], off || busy ? null : () => press(verb), { class: main ? "main" : "", "data-verb": verb, "aria-disabled": off || (busy && !doing.busy.has(verb)) ? "true" : undefined });
  return h("div", { class: "row", "data-key": "buttons" },
    button("start", !up, up),
    button("stop", false, status !== null && !up),
    button("restart", false, status !== null && !up));
}

function facts(status) {
  const up = status.running;
  const pair = (name, value) => (value === null || value === undefined ? null : h("div", { "data-key": name }, h("dt", {}, name), h("dd", {}, value)));
  return h("dl", { class: "facts" },
    pair("Uptime", up && status.uptime_seconds !== null && status.uptime_seconds !== undefined ? h("span", { class: "num", "data-up": Math.round(known.statusAt - status.uptime_seconds * 1000) }, whole(status.uptime_seconds + (Date.now() - known.statusAt) / 1000)) : null),
    pair("Last activity", since(status.last_activity)),
    pair("Worker", up && status.worker_pid ? h("span", { class: "num" }, `pid ${status.worker_pid}`) : null),
    pair("Restarts", up && status.restarts !== undefined ? h("span", { class: `num ${status.restarts ? "odd" : ""}` }, count(status.restarts)) : null),
    pair("Memory", up ? h("span", { class: "num" }, bytes(status.rss_bytes)) : null),
    pair("CPU used", up ? h("span", { class: "num" }, duration(status.cpu_seconds)) : null),
    pair("Mode", up ? status.mode : null),
    pair("Version", status.version),
    pair("Started", up ? at(status.started_at) : null),
    pair("Before that", up && status.last_exit ? h("span", { class: isClean(status.last_exit) ? "" : "odd", title: status.last_exit.detail ?? undefined }, status.last_exit.how ?? String(status.last_exit)) : null));
}
