// Building and updating the page. Text is only ever set as text: no string becomes markup anywhere.

const SVG = "http://www.w3.org/2000/svg";
const HANDLERS = [
  "onclick", "oninput", "onchange", "onkeydown", "onsubmit", "onfocus", "onblur", "onpointerover", "onpointerleave", "onscroll", "ontoggle",
];

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/** Return a new HTML element; children that are not nodes become text. */
export const h = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);

/** Return a new SVG element. */
export const s = (tag, attributes, ...children) => build(document.createElementNS(SVG, tag), attributes, children);

/**
 * Make *live* equal to *next* with as few changes as possible, so that focus, selection, scroll position
 * and hover survive a refresh. Children with data-key are matched by it, others by position. An element
 * with data-keep looks after itself and is left alone.
 */
export function morph(live, next) {
  if (live.nodeType !== next.nodeType || live.nodeName !== next.nodeName) {
    live.replaceWith(next);
    return next;
  }
  if (live.nodeType === Node.TEXT_NODE) {
    if (live.data !== next.data) live.data = next.data;
    return live;
  }
  if (live.dataset?.keep !== undefined && live.dataset.keep === next.dataset?.keep) return live;
  for (const { name } of [...live.attributes]) if (!next.hasAttribute(name)) live.removeAttribute(name);
  for (const { name, value } of [...next.attributes]) if (live.getAttribute(name) !== value) live.setAttribute(name, value);
  for (const name of HANDLERS) if (live[name] !== next[name]) live[name] = next[name];
  morphChildren(live, [...next.childNodes]);
  return live;
}

/** Make the children of *live* equal to the nodes *next*. */
export function morphChildren(live, next) {
  const keyed = new Map();
  for (const child of live.children) if (child.dataset?.key !== undefined) keyed.set(child.dataset.key, child);
  let place = live.firstChild;
  for (const wanted of next) {
    const key = wanted.dataset?.key;
    const match = key === undefined ? place : keyed.get(key);
    if (!match || (key === undefined && match.dataset?.key !== undefined)) {
      live.insertBefore(wanted, place);
      continue;
    }
    keyed.delete(key);
    if (match !== place) live.insertBefore(match, place);
    const after = match.nextSibling;
    morph(match, wanted);
    place = after;
  }
  while (place) {
    const after = place.nextSibling;
    place.remove();
    place = after;
  }
}

/** Replace what *container* shows by *nodes*, gently. */
export const show = (container, ...nodes) => morphChildren(container, nodes.flat(Infinity).filter((node) => node));

/** Say *text* to people who listen to the page. */
export function say(text) {
  const place = document.getElementById("say");
  place.textContent = "";
  // A change in a later task is what screen readers announce.
  setTimeout(() => { place.textContent = text; }, 50);
}
