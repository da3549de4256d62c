// The journal: every event, filtered, following new ones.

import { h, show } from "./dom.js";
import { exact, instant, sentence, toneOf } from "./format.js";
import { empty, frame, runLink } from "./parts.js";
import { known, loadJournal, settings } from "./state.js";

const ROWS = 500;
const KINDS = {
  quiet: ["All", (event) => event.event !== "tick"],
  problems: ["Problems", (event) => ["bad", "odd"].includes(toneOf(event))],
  runs: ["Runs", (event) => /^(run_|slot_)/.test(event.event)],
  daemon: ["Daemon", (event) => !/^(run_|slot_|tick)/.test(event.event)],
  ticks: ["With ticks", () => true],
};
let kind = "quiet";
let text = "";
let following = true;
let frozen = null;

export function mount(main) {
  const place = h("section", { class: "card" });
  let waiting = false;

  function draw() {
    const source = following ? known.events : frozen;
    const wanted = text.trim().toLocaleLowerCase();
    const test = KINDS[kind][1];
    const found = [];
    for (let index = source.length - 1; index >= 0 && found.length < ROWS; index -= 1) {
      const event = source[index];
      if (test(event) && (!wanted || `${event.event} ${sentence(event)} ${JSON.stringify(event)}`.toLocaleLowerCase().includes(wanted))) found.push(event);
    }
    show(place,
      h("div", { class: "cardhead" },
        h("input", { type: "search", id: "find", "data-keep": "journal-find", placeholder: "Filter  ( / )", "aria-label": "Filter the journal by text", value: text, oninput: (event) => { text = event.target.value; draw(); } }),
        h("div", { class: "segments", role: "group", "aria-label": "Which events" }, Object.entries(KINDS).map(([name, [words]]) => h("button", { type: "button", "aria-pressed": String(kind === name), onclick: () => { kind = name; draw(); } }, words))),
        h("span", { class: "grow" }),
        h("label", { class: "check" }, h("input", { type: "checkbox", id: "follow", checked: following, onchange: (event) => { following = event.target.checked; frozen = following ? null : [...known.events]; draw(); } }), "Follow")),
      settings.live ? null : h("p", { class: "told odd" }, "Live mode is off: new events appear when the journal is opened again."),
      body(found));
  }

  function body(found) {
    if (!known.eventsLoaded && !known.events.length) return h("p", { class: "dim" }, "Loading…");
    if (!found.length) return known.events.length ? empty("No event fits.", "Try All, or another text.") : empty("The journal is empty.", "It fills when the scheduler starts.");
    return frame("Events, newest first", h("table", { class: "journal" },
      h("thead", { class: "unseen" }, h("tr", {}, ["When", "Event", "What"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, found.map((event) => h("tr", { class: toneOf(event), "data-key": keyOf(event) },
        h("td", { class: "num when" }, h("time", { datetime: event.ts, title: exact(event.ts) }, instant(event.ts))),
        h("td", { class: "event" }, event.event),
        h("td", { class: "what" }, sentence(event), event.run ? [" ", runLink(event.run, "open")] : null))))));
  }

  let serial = 0;
  const keys = new WeakMap();
  const keyOf = (event) => keys.get(event) ?? keys.set(event, String((serial += 1))).get(event);

  main.replaceChildren(h("h1", { tabindex: "-1" }, "Journal"), place);
  draw();
  if (!known.eventsLoaded || !settings.live) loadJournal();
  return {
    title: "Journal",
    changed: (what) => {
      if (what === "reset") loadJournal();
      if (what === "events") draw();
      if (what !== "event" || !following || waiting) return;
      // A burst of events is one redraw.
      waiting = true;
      setTimeout(() => { waiting = false; if (place.isConnected) draw(); }, 150);
    },
  };
}
