// @ts-check
/* Values on demand, and keys: one tip for the whole page, by pointer, finger and keyboard.

   Anything with data-tip (a sentence) or data-v (a token's value) shows it on hover, on focus and at
   a touch. A group with data-steps="selector" is one stop of the Tab key; the arrow keys walk
   through what the selector finds in it, and a screen reader says each one's words and value. In a
   group of buttons (role=button) the stop is one of them, else it is the group itself.
   An element with data-key is clicked, or a field focused, by that key, or one of those keys.
   A link to a place on the page goes there. */

import { el, quoted } from "./dom.js";

const FEATURE_LINKS = "a[href*='feature='], button[data-feature], button[data-gather]";
const LINK_KINDS = ["pointerover", "pointed", "focusin", "click"];
const KEYS = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"];

const tip = globalThis.document ? el("div", { id: "tip", role: "tooltip" }) : null;

/** @type {Element | null} */
let shownFor = null;
/* Items that have a role and a name only while they have the focus: else they are running text. */
const named = new WeakSet();
let started = false;

const placeOf = (/** @type {PointerEvent} */ { screenX, screenY }) => `${screenX} ${screenY}`;
let rests = ""; // where the pointer is since it last moved

/** Whether a pointer has come to what it is over, or that has come under a pointer that rests: the
 * pointer points at nothing new then. @param {PointerEvent} event pointerover */
export const hasMoved = (event) => placeOf(event) !== rests;

/** Listen; once a page. */
export function startSteps() {
  if (started) return;
  started = true;
  document.addEventListener("pointerover", (event) => {
    if (event.pointerType === "touch") return;
    const target = tipped(event.target);
    if (target) show(target);
    else if (shownFor && !shownFor.matches(":focus-visible")) hide();
  });
  document.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "touch") return;
    const target = tipped(event.target);
    if (target) show(target);
    else hide();
  });
  document.addEventListener("focusin", (event) => {
    const target = tipped(event.target);
    if (target && target === event.target && target.matches(":focus-visible")) show(target);
  });
  document.addEventListener("focusout", hide);
  const moved = () => {
    if (shownFor?.matches(":focus-visible")) show(shownFor);
    else hide();
  };
  document.addEventListener("scroll", moved, { capture: true, passive: true });
  document.addEventListener("keydown", pressed);
  document.addEventListener("click", toPlace);
  document.addEventListener("pointermove", (event) => (rests = placeOf(event)), { capture: true, passive: true });
  for (const kind of LINK_KINDS) document.addEventListener(kind, atLink, { capture: true });
  if (anythingGathered()) void import("./gather.js").then(({ startGathering }) => startGathering());
}

/* A link to a place on the page leads there without a step of the history, which a page would take for
   another address: it would draw itself anew, and what it keeps with the step would be gone. */
/** @param {MouseEvent} event */
function toPlace(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  const hash = event.target instanceof Element && event.target.closest("a[href^='#']")?.getAttribute("href");
  const place = hash && document.getElementById(hash.slice(1));
  if (!place) return;
  event.preventDefault();
  history.replaceState(history.state, "", location.pathname + location.search + hash);
  if (!place.hasAttribute("tabindex")) place.tabIndex = -1;
  place.focus({ preventScroll: true });
  place.scrollIntoView();
}

/** Whether this tab keeps features: gather.js shows them. */
function anythingGathered() {
  try {
    return Object.keys(sessionStorage).some((key) => /^jumpscope-gathered-/.test(key));
  } catch {
    return false;
  }
}

/* What links to features can do is fetched with the first that is pointed at. One that is pressed
   before it is there is pressed again when it is. */

/** @type {Promise<typeof import("./feature-links.js")> | null} */
let featureLinks = null;

/** @param {Event} event */
function atLink(event) {
  const { target } = event;
  if (event.type === "pointerover") {
    const pointed = /** @type {PointerEvent} */ (event);
    if (pointed.pointerType === "touch" || !hasMoved(pointed)) return;
  }
  const link = target instanceof Element && target.closest(FEATURE_LINKS);
  if (!(target instanceof Element) || !link) return;
  if (event.type === "focusin" && !target.matches(":focus-visible")) return;
  // A window of its own opens at once or never; a button's own click needs nothing from there.
  const isPress = event instanceof MouseEvent && event.type === "click" && !event.ctrlKey && !event.metaKey;
  const again = isPress && (event.shiftKey || !link.matches("[data-feature]"));
  if (again) {
    event.preventDefault();
    event.stopImmediatePropagation();
  }
  const first = !featureLinks;
  featureLinks ??= import("./feature-links.js");
  const rest = () => {
    for (const kind of LINK_KINDS) document.removeEventListener(kind, atLink, { capture: true });
  };
  const press = () => again && target.dispatchEvent(new MouseEvent("click", event));
  featureLinks.then(
    (module) => {
      rest();
      if (first) module.startFeatureLinks(again ? null : target);
      press();
    },
    () => {
      rest();
      press();
      featureLinks = null;
      for (const kind of LINK_KINDS) document.addEventListener(kind, atLink, { capture: true });
    },
  );
}

/* The tip */

/** @param {EventTarget | null} node */
function tipped(node) {
  return node instanceof Element ? node.closest("[data-tip], [data-v]") : null;
}

/**
 * What the tip says of an element: its sentence, or a token and its value.
 * @param {Element} target
 * @returns {string}
 */
export function words(target) {
  const sentence = target.getAttribute("data-tip");
  if (sentence) return sentence;
  const value = target.getAttribute("data-v") ?? "";
  const text = target.textContent ?? "";
  // A token's leading space stands before its element, so that no colour hangs at a line's end.
  const before = target.previousSibling;
  const space = before?.nodeType === 3 && before.nodeValue?.endsWith(" ") ? " " : "";
  return text.trim() ? `${quoted(space + text)}  ${value}` : value;
}

/** @param {Element} target */
function show(target) {
  if (!tip) return;
  if (!tip.isConnected) document.body.append(tip);
  shownFor = target;
  tip.textContent = words(target);
  tip.classList.add("on");
  // A token may be broken over two lines; the tip stands over the first piece.
  const box = target.getClientRects()[0] ?? target.getBoundingClientRect();
  const own = tip.getBoundingClientRect();
  const room = document.documentElement.clientWidth - own.width - 8;
  const left = Math.max(8, Math.min(box.left + box.width / 2 - own.width / 2, room));
  const above = box.top - own.height - 7;
  const below = box.bottom + 7;
  // A definition stands below its word, where it does not hide the number above.
  const fits = below + own.height < innerHeight;
  const top = (target.matches(".term") && fits) || above < 4 ? below : above;
  tip.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
}

function hide() {
  tip?.classList.remove("on");
  shownFor = null;
}

/* Groups */

/** @typedef {HTMLElement | SVGElement} Item */

/** @param {Element} group @returns {Item[]} */
function itemsOf(group) {
  const selector = group.getAttribute("data-steps") || "[data-v]";
  const items = /** @type {Item[]} */ ([...group.querySelectorAll(selector)]);
  return items.filter((item) => tipped(item) === item && item.getClientRects().length);
}

/**
 * Give a group of buttons its one stop: the pressed one, or else the first. To be called after its
 * items were drawn, or another was pressed.
 * @param {Element} group
 */
export function oneStop(group) {
  const items = /** @type {NodeListOf<HTMLElement>} */ (group.querySelectorAll('[role="button"]'));
  const at = group.querySelector('[role="button"][aria-pressed="true"]') ?? items[0];
  for (const item of items) item.tabIndex = item === at ? 0 : -1;
}

/**
 * Give a token its value: the tip shows it, and a screen reader says it after the token.
 * @param {HTMLElement} item a token with a role, such as button
 * @param {string} value
 */
export function setValue(item, value) {
  item.dataset.v = value;
  item.setAttribute("aria-label", words(item));
}

/**
 * The next item for an arrow key, Home or End; up and down go by place on the page. `at` is -1
 * before the first step.
 * @template {{getClientRects(): ArrayLike<{left: number, top: number}>}} T
 * @param {T[]} items
 * @param {number} at
 * @param {string} key
 * @returns {T | undefined}
 */
export function nextStep(items, at, key) {
  if (key === "Home") return items[0];
  if (key === "End") return items.at(-1);
  if (at < 0) return items[0];
  if (key === "ArrowRight") return items[at + 1];
  if (key === "ArrowLeft") return items[at - 1];
  const from = items[at].getClientRects()[0];
  if (!from) return undefined;
  const down = key === "ArrowDown";
  const placed = items
    .map((item) => ({ item, box: item.getClientRects()[0] }))
    .filter(({ box }) => box && (down ? box.top > from.top + 4 : box.top < from.top - 4));
  if (!placed.length) return undefined;
  const tops = placed.map(({ box }) => box.top);
  const line = down ? Math.min(...tops) : Math.max(...tops);
  const away = (/** @type {{left: number}} */ box) => Math.abs(box.left - from.left);
  return placed
    .filter(({ box }) => Math.abs(box.top - line) < 4)
    .reduce((best, each) => (away(each.box) < away(best.box) ? each : best)).item;
}

/** @param {KeyboardEvent} event */
function pressed(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && shownFor) {
    hide();
    return;
  }
  const target = event.target instanceof Element ? event.target : null;
  const group = target?.closest("[data-steps]");
  const walks = [...KEYS, "Enter", " "].includes(event.key);
  if (target && group && walks) walk(event, target, group);
  else if (target && !target.closest("input, textarea, select, dialog")) shortcut(event);
}

/** @param {KeyboardEvent} event @param {Element} target @param {Element} group */
function walk(event, target, group) {
  const items = itemsOf(group);
  const at = items.findIndex((item) => item === target);
  if (at < 0 && target !== group) return;
  if ((event.key === "Enter" || event.key === " ") && target.matches('[role="button"]')) {
    event.preventDefault();
    target.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true }));
    return;
  }
  const item = KEYS.includes(event.key) ? nextStep(items, at, event.key) : undefined;
  if (!item) return;
  event.preventDefault();
  if (target === group) enter(/** @type {Item} */ (group));
  else leave(items[at]);
  if (!item.hasAttribute("role") && item.localName !== "a") {
    item.setAttribute("role", "img");
    item.setAttribute("aria-label", words(item));
    named.add(item);
  }
  item.tabIndex = 0;
  item.focus();
}

/** @param {Item} item */
function leave(item) {
  item.tabIndex = -1;
  if (!named.delete(item)) return;
  item.removeAttribute("role");
  item.removeAttribute("aria-label");
}

/** While an item has the focus the group is no stop: Shift and Tab leave it. @param {Item} group */
function enter(group) {
  group.tabIndex = -1;
  const left = (/** @type {Event} */ event) => {
    const { relatedTarget, target } = /** @type {FocusEvent} */ (event);
    if (relatedTarget instanceof Node && group.contains(relatedTarget)) return;
    group.tabIndex = 0;
    if (target !== group) leave(/** @type {Item} */ (target));
    group.removeEventListener("focusout", left);
  };
  group.addEventListener("focusout", left);
}

/** @param {KeyboardEvent} event */
function shortcut(event) {
  const key = CSS.escape(event.key);
  const target = /** @type {HTMLElement | null} */ (
    document.querySelector(`[data-key~="${key}"]:not([aria-disabled="true"], :disabled)`)
  );
  if (!target) return;
  event.preventDefault();
  if (target.matches("input, textarea, select")) target.focus();
  else target.click();
}
