// The frame: header, routes, keyboard, keeping up.

import { key, setKey } from "./api.js";
import { h, s, say, show } from "./dom.js";
import { healthOf } from "./format.js";
import * as job from "./job.js";
import * as journal from "./journal.js";
import { ask, onKey } from "./key.js";
import * as overview from "./overview.js";
import { tick } from "./parts.js";
import * as run from "./run.js";
import { forget, keepUp, known, loadStatus, onChange, refresh, settings } from "./state.js";

const main = document.getElementById("main");
const TABS = [["#/", "Overview"], ["#/runs", "Runs"], ["#/journal", "Journal"]];
let view = null;
let first = true;

// ── routes ────────────────────────────────────────────────────────────────────────────────────

function route() {
  const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  let argument = "";
  try {
    argument = decodeURIComponent(rest.join("/"));
  } catch {
    argument = rest.join("/");
  }
  if (name === "run" && /^\d{1,18}$/.test(argument)) return (place) => run.mount(place, argument);
  if (name === "job" && argument) return (place) => job.mount(place, argument);
  if (name === "runs") return (place) => overview.mountRuns(place, argument);
  if (name === "journal") return journal.mount;
  return overview.mount;
}

function go() {
  if (location.hash === "#main") return; // the skip link
  view?.close?.();
  view = route()(main);
  drawHeader();
  retitle();
  scrollTo(0, 0);
  if (!first) main.querySelector("h1")?.focus({ preventScroll: true });
  first = false;
}

function retitle() {
  const [glyph, , words] = healthOf(known.status);
  if (!/^#\/run\//.test(location.hash)) document.title = `${known.status ? `${glyph} ${words} · ` : ""}${view?.title ?? "Overview"} · EchoSched`;
}

// ── the header ────────────────────────────────────────────────────────────────────────────────

const THEMES = { "": ["Auto", "dark"], dark: ["Dark", "light"], light: ["Light", ""] };

function drawHeader() {
  const here = location.hash || "#/";
  const [glyph, tone, words] = healthOf(known.status);
  const current = (hash) => here === hash || (hash === "#/" && /^#\/job\//.test(here)) || (hash === "#/runs" && /^#\/runs?\//.test(here)) ? "page" : undefined;
  show(document.getElementById("top"),
    h("a", { class: "brand", href: "#/", "aria-label": "EchoSched, overview" }, logo(), h("span", {}, "EchoSched")),
    h("nav", { "aria-label": "Views" }, TABS.map(([hash, text]) => h("a", { href: hash, "aria-current": current(hash) }, text))),
    h("span", { class: `tophealth ${tone}` }, h("span", { "aria-hidden": "true" }, `${glyph} `), words),
    h("span", { class: "grow" }),
    h("div", { class: "keeping" },
      check("auto", "Every 10 s", "Refresh every 10 seconds", settings.auto, (on) => { settings.auto = on; }),
      check("live", "Live", "Follow events as they happen", settings.live, (on) => { settings.live = on; }),
      linkState()),
    h("button", { type: "button", class: "quiet", title: "Light or dark", onclick: nextTheme }, h("span", { class: "unseen" }, "Colours: "), h("span", { "aria-hidden": "true" }, "◐ "), THEMES[settings.theme]?.[0] ?? "Auto"),
    h("button", { type: "button", class: "quiet", title: "Forget the key in this tab", onclick: leave }, "Log out"));
}

const logo = () => s("svg", { width: 24, height: 24, viewBox: "0 0 32 32", "aria-hidden": "true" },
  s("rect", { class: "logo", width: 32, height: 32, rx: 7 }),
  s("g", { fill: "none", stroke: "#fff", "stroke-width": 2.6, "stroke-linecap": "round" }, s("path", { d: "M16 9v7l5 3" }), s("path", { d: "M7.5 11.5a10 10 0 0 0 0 9" }), s("path", { d: "M24.5 11.5a10 10 0 0 1 0 9", opacity: 0.75 }), s("path", { d: "M11 24.6a10 10 0 0 0 10 0", opacity: 0.5 }), s("path", { d: "M11 7.4a10 10 0 0 1 10 0", opacity: 0.5 })));

const check = (name, text, title, on, set) => h("label", { class: "check", title }, h("input", { type: "checkbox", id: `set-${name}`, "data-keep": `set-${name}`, checked: on, onchange: (event) => { set(event.target.checked); keepUp(); drawHeader(); } }), text);

function linkState() {
  if (!settings.live) return null;
  const live = known.link === "live";
  return h("span", { class: `link ${live ? "good" : "odd"}`, id: "link", title: live ? "Connected to the event stream" : "Connecting to the event stream" }, h("span", { "aria-hidden": "true" }, live ? "●" : "○"), h("span", { class: "unseen" }, live ? " connected" : " connecting"));
}

function nextTheme() {
  settings.theme = THEMES[settings.theme]?.[1] ?? "";
  if (settings.theme) document.documentElement.dataset.theme = settings.theme;
  else delete document.documentElement.dataset.theme;
  say(`Colours: ${THEMES[settings.theme][0]}`);
  drawHeader();
}

function leave() {
  setKey(null);
  forget();
  go();
  ask(null);
}

function drawBanner() {
  show(document.getElementById("banner"), known.offline ? h("p", { class: "told bad" }, "The web server does not answer. What is shown may be old; this page tries again by itself. (Is ", h("code", {}, "echoschedd web"), " running?)") : null);
}

// ── keyboard ──────────────────────────────────────────────────────────────────────────────────

const KEYS = {
  "/": () => document.getElementById("find")?.focus(),
  r: () => { refresh(); say("Refreshing"); },
  1: () => { location.hash = "#/"; },
  2: () => { location.hash = "#/runs"; },
  3: () => { location.hash = "#/journal"; },
};

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape" && event.target.matches?.("input[type=search]")) event.target.blur();
  if (event.target.matches?.("input, textarea, select")) return;
  const act = KEYS[event.key];
  if (act) {
    event.preventDefault();
    act();
  }
});

// ── life ──────────────────────────────────────────────────────────────────────────────────────

let lastHealth = null;

onChange((what) => {
  if (what === "status") {
    const words = healthOf(known.status)[2];
    if (lastHealth !== null && lastHealth !== words) say(`The scheduler is now: ${words}`);
    lastHealth = words;
    retitle();
  }
  if (["status", "link"].includes(what)) drawHeader();
  if (what === "offline") drawBanner();
  view?.changed?.(what);
});

function begin() {
  refresh();
  keepUp();
  go();
}

onKey(begin);
addEventListener("hashchange", go);
setInterval(tick, 1000);
document.addEventListener("visibilitychange", () => { if (!document.hidden && key()) refresh(); });
// While the server does not answer, somebody has to keep asking, whatever the settings are.
setInterval(() => { if (known.offline && key()) loadStatus(); }, 3000);

drawHeader();
if (key()) begin();
else {
  go();
  ask(null);
}
