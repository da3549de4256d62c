// The instances that share one set of jobs: who is alive, who runs what, how late each starts.

import { h, show } from "./dom.js";
import { count, duration, visible } from "./format.js";
import { frame, runLink, since } from "./parts.js";
import { known } from "./state.js";

let card = null;

export function mountCluster(place) {
  card = place;
  draw();
}

/** The card is there only on a host that has others. */
export function draw() {
  if (!card?.isConnected) return;
  const cluster = known.status?.cluster ?? null;
  card.hidden = cluster === null;
  if (cluster === null) return;
  const rows = cluster.instances ?? [];
  const alive = rows.filter((row) => row.alive).length;
  show(card,
    h("div", { class: "cardhead" },
      h("h2", { id: "cluster-head" }, cluster.instances ? `Instances (${count(alive)} of ${count(rows.length)} alive)` : "Instances"),
      h("p", { class: "dim" }, `over ${cluster.database}`)),
    cluster.instances ? table(rows, cluster.instance) : h("p", { class: "bad" }, `The database does not answer: ${cluster.error}. What runs goes on; nothing new is started.`),
    rows.flatMap(remarks));
}

function condition(row) {
  if (!row.alive) return ["✕", "bad", "dead"];
  if (row.draining) return ["◐", "odd", row.running ? "draining" : "drained"];
  return ["●", "good", "alive"];
}

function table(rows, own) {
  const head = ["Instance", "State", "Last beat", "Runs", "Taken", "Lag", "Labels", "Version"];
  return frame("Instances", h("table", { class: "instances" },
    h("thead", {}, h("tr", {}, head.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows.map((row) => {
      const [glyph, tone, word] = condition(row);
      return h("tr", { "data-key": row.name, "data-instance": row.name },
        h("th", { scope: "row" }, row.name, row.name === own ? h("span", { class: "dim" }, " (this one)") : null),
        h("td", {}, h("span", { class: `pill ${tone}` }, h("span", { "aria-hidden": "true" }, glyph), ` ${word}`)),
        h("td", {}, since(row.heartbeat_at)),
        h("td", { class: "num" }, `${count(row.running)} of ${count(row.capacity)} `, row.runs.slice(0, 3).map((run) => [" ", runLink(run.run, run.job)]), row.runs.length > 3 ? " …" : null),
        h("td", { class: "num" }, count(row.taken)),
        h("td", { class: "num" }, row.lag_seconds === null ? "–" : duration(row.lag_seconds)),
        h("td", {}, row.labels.join(" ")),
        h("td", {}, row.version));
    }))));
}

/** What an operator should look at. */
function remarks(row) {
  const told = [];
  if (row.differs.length) told.push(`${row.name} defines otherwise than most: ${row.differs.slice(0, 5).join(", ")}${row.differs.length > 5 ? " …" : ""}`);
  if (row.alive && Math.abs(row.clock_skew_seconds) > 1) told.push(`${row.name}: its clock is ${duration(Math.abs(row.clock_skew_seconds))} ${row.clock_skew_seconds > 0 ? "ahead of" : "behind"} the database's`);
  return told.map((text) => h("p", { class: "told odd", "data-key": text }, visible(text)));
}
