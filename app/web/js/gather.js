// @ts-check
/* The tray: features that are gathered on any page, by Shift and a click on their number, by the card's
   or the feature's own button, or by every click while the tray says so. It steers with them all, puts
   them into a list, or copies their numbers. The browser keeps them for each SAE, by the hash of its
   weights, as long as the tab is open: another SAE of the name has its own. */

import { address, copy, el } from "./dom.js";
import { busy, problem, sae, saeInAddress, saeLabel } from "./frame.js";
import { ServerError, call } from "./server.js";
import { stopOf } from "./walk.js";

const KEPT = "jumpscope-gathered-";
const CLOSED = "jumpscope-tray-closed";
const NARROW = "(max-width: 600px)";

/** Where a browser keeps nothing, this page does. @type {Map<string, string>} */
const unsaved = new Map();
let shown = ""; // the SAE whose features the tray shows
let tapping = false; // whether every click on a feature gathers it
/** @type {HTMLElement | null} */
let tray = null;

/** @param {string} key */
function recalled(key) {
  try {
    return sessionStorage.getItem(key) ?? unsaved.get(key) ?? "";
  } catch {
    return unsaved.get(key) ?? "";
  }
}

/** @param {string} key @param {string} value "" forgets it */
function keep(key, value) {
  unsaved.set(key, value);
  try {
    if (value) sessionStorage.setItem(key, value);
    else sessionStorage.removeItem(key);
  } catch {
    // It lasts as long as the page does.
  }
}

/** Numbers as they are kept; what is none is left out. @param {string} text @returns {number[]} */
export const numbersIn = (text) =>
  [...new Set(text.split(".").filter((each) => /^\d{1,9}$/.test(each)))].map(Number);

/** Without a feature that is there, else with it. @param {number[]} numbers @param {number} feature */
export const toggled = (numbers, feature) =>
  numbers.includes(feature) ? numbers.filter((each) => each !== feature) : [...numbers, feature];

/** The hash of an SAE's weights; "" where it is not known yet. @param {string} name */
const hashOf = (name) =>
  [.../** @type {NodeListOf<HTMLOptionElement>} */ (document.querySelectorAll("#sae option"))].find(
    (option) => option.value === name,
  )?.dataset.hash ?? "";

/** Under which key an SAE's are kept. Those from before its weights were read, when nothing but its
 * name told it from others, become those of the weights. @param {string} name */
function keyOf(name) {
  const hash = hashOf(name);
  const before = `${KEPT}named-${name}`;
  if (!hash) return before;
  const kept = recalled(before);
  if (kept) {
    keep(KEPT + hash, numbersIn(`${recalled(KEPT + hash)}.${kept}`).join("."));
    keep(before, "");
  }
  return KEPT + hash;
}

/** @param {string} name */
const gathered = (name) => numbersIn(recalled(keyOf(name)));

/** @param {string} name @param {number[]} numbers */
function setGathered(name, numbers) {
  keep(keyOf(name), numbers.join("."));
  draw();
}

/** @param {string | Node} words */
const say = (words) => tray?.querySelector("[data-said]")?.replaceChildren(words);

/** The SAE that addresses leave out. */
const firstSae = () => document.getElementById("sae")?.dataset.first ?? "";

/** Gather a feature, or let it go. @param {string} name an SAE @param {number} feature */
function toggle(name, feature) {
  const numbers = toggled(gathered(name), feature);
  shown = name;
  setGathered(name, numbers);
  say(numbers.includes(feature) ? `#${feature} gathered.` : `#${feature} is let go.`);
}

/* The tray */

/** How many edits a steering can have. */
const mostEdits = () => Number(document.body.dataset.mostEdits) || Infinity;

/** @param {number[]} numbers */
function steering(numbers) {
  const few = numbers.slice(0, mostEdits());
  // The Steer page knows a strength for each to begin with.
  const edits = JSON.stringify(few.map((feature) => ({ feature, mode: "set" })));
  const words = few.length < numbers.length ? `Steer with the first ${few.length}` : "Steer with them";
  return el("a", { class: "button primary", href: address("steer", { sae: saeInAddress(shown), edits }) }, words);
}

/** @param {number} feature */
function chip(feature) {
  const href = address("features", { sae: saeInAddress(shown), feature });
  const onclick = () => {
    toggle(shown, feature);
    /** @type {HTMLElement | null | undefined} */ (tray?.querySelector("li button"))?.focus();
  };
  const name = `Let #${feature} go`;
  return el("li", {}, [
    el("a", { href }, `#${feature}`),
    el("button", { type: "button", class: "plain", "aria-label": name, onclick }, "×"),
  ]);
}

/** @param {string} label @param {(button: HTMLButtonElement) => void} press */
const action = (label, press) =>
  el("button", { type: "button", onclick: (/** @type {any} */ { currentTarget }) => press(currentTarget) }, label);

/** @param {number[]} numbers */
function body(numbers) {
  const tap = el("input", { type: "checkbox", checked: tapping, autocomplete: "off" });
  tap.addEventListener("change", () => (tapping = tap.checked));
  return el("div", { class: "tray-body", id: "tray-body" }, [
    el("ul", { "aria-label": "Gathered features" }, numbers.map(chip)),
    el("div", { class: "tray-actions" }, [
      steering(numbers),
      action("Add to a list", () => void openLists()),
      action("Copy numbers", (button) => void copy(numbers.map((each) => `#${each}`).join(" "), button)),
      action("Clear", () => setGathered(shown, [])),
      el("label", {}, tap, "every click on a feature gathers it"),
    ]),
    el("div", { "data-lists": true }),
    el("p", { class: "quiet", role: "status", "data-said": true }),
  ]);
}

/** Whether it is folded to its first line: by choice, and at first where there is little room. */
function isClosed() {
  const chosen = recalled(CLOSED);
  return chosen ? chosen === "1" : matchMedia(NARROW).matches;
}

function draw() {
  const numbers = gathered(shown);
  for (const button of document.querySelectorAll("button[data-gather]")) {
    const { gather, sae: name } = /** @type {HTMLElement} */ (button).dataset;
    button.setAttribute("aria-pressed", String(gathered(name ?? "").includes(Number(gather))));
  }
  if (!numbers.length) {
    tray?.remove();
    tray = null;
    tapping = false;
    return;
  }
  const closed = isClosed();
  const many = `${numbers.length} ${numbers.length === 1 ? "feature" : "features"} gathered`;
  const other = shown === sae() ? "" : ` · ${saeLabel(shown)}`;
  const onclick = () => {
    keep(CLOSED, closed ? "0" : "1");
    draw();
    tray?.querySelector("button")?.focus();
  };
  const head = el(
    "button",
    { type: "button", class: "plain", "aria-expanded": String(!closed), "aria-controls": "tray-body", onclick },
    `${many}${other}`,
    el("span", { "aria-hidden": "true" }, closed ? " ▴" : " ▾"),
  );
  const fresh = el("aside", { class: "tray", "aria-label": "Features that you gather" }, head);
  const inside = body(numbers);
  inside.hidden = closed;
  fresh.append(inside);
  if (tray) tray.replaceWith(fresh);
  else document.body.append(fresh);
  tray = fresh;
}

/* Lists */

/** @param {() => Promise<void>} act */
async function attempt(act) {
  try {
    await busy(act());
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    say(problem(error.message));
  }
}

/** Ask into which list. */
async function openLists() {
  await attempt(async () => {
    const { lists, can_keep: canKeep, problem: refused } = await call("lists", {});
    if (!canKeep || refused) {
      say(problem(refused || "Lists would be lost, since notes are off: start without --notes off."));
      return;
    }
    const choice = el("select", { name: "list", autocomplete: "off" }, [
      .../** @type {{id: string, name: string}[]} */ (lists).map(({ id, name }) => el("option", { value: id }, name)),
      el("option", { value: "" }, "a new list"),
    ]);
    const name = el("input", { name: "name", maxlength: 100, dir: "auto", autocomplete: "off", placeholder: "Its name" });
    const named = el("label", {}, el("span", { class: "vh" }, "Name of the new list"), name);
    const chosen = () => {
      named.hidden = Boolean(choice.value);
      name.required = !choice.value;
    };
    choice.addEventListener("change", chosen);
    chosen();
    const form = el("form", { class: "line" }, [el("label", {}, "Add to ", choice), named, el("button", {}, "Add")]);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      void attempt(() => add(choice.value, name.value));
    });
    tray?.querySelector("[data-lists]")?.replaceChildren(form);
    (lists.length ? choice : name).focus();
  });
}

/** Put all into a list, a new one where `id` is empty. @param {string} id @param {string} name */
async function add(id, name) {
  const of = shown; // as it was when it was asked for: the page may turn to another SAE meanwhile
  const numbers = gathered(of);
  const list_id = id || (await call("lists", { action: "make", name })).list.id;
  // By its hash, where it is known: the weights may have been replaced since the page was made.
  const { list } = await call("lists", { action: "add", list_id, features: numbers, sae: hashOf(of) || of });
  tray?.querySelector("[data-lists]")?.replaceChildren();
  const link = el("a", { href: address("lists", { list: list_id }) }, el("bdi", {}, list.name));
  say(el("span", {}, `${numbers.length} in `, link, "."));
}

/* The page */

/** @param {MouseEvent} event */
function pressed(event) {
  if (!(event.target instanceof Element)) return;
  const button = event.target.closest("button[data-gather]");
  if (button instanceof HTMLElement) {
    toggle(button.dataset.sae ?? "", Number(button.dataset.gather));
    return;
  }
  if (!(event.shiftKey || tapping) || event.ctrlKey || event.metaKey || event.altKey) return;
  const node = event.target.closest("a[href*='feature='], button[data-feature]");
  if (!node || node.closest(".tray, .walk, .buttons")) return;
  const stop = stopOf(node, saeInAddress(sae()));
  if (!stop) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  // A press that shows what is pressed selects no text.
  getSelection()?.removeAllRanges();
  toggle(stop.sae || firstSae(), Number(stop.feature));
}

/** Show the features of the page's SAE. */
function follow() {
  if (shown !== sae()) tapping = false;
  shown = sae();
  draw();
}

let started = false;

/** Listen, and show what is gathered already; once a page. */
export function startGathering() {
  if (started) return;
  started = true;
  document.addEventListener("click", pressed, { capture: true });
  // The navigation's links change with the page's SAE; buttons come with another feature.
  const brand = document.querySelector(".brand");
  if (brand) new MutationObserver(follow).observe(brand, { attributes: true, attributeFilter: ["href"] });
  const saes = document.getElementById("sae");
  if (saes) new MutationObserver(draw).observe(saes, { subtree: true, attributeFilter: ["data-hash"] });
  const main = document.getElementById("content");
  const marks = () => main?.querySelector("button[data-gather]") && draw();
  if (main) new MutationObserver(marks).observe(main, { childList: true });
  follow();
}
