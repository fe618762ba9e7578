// @ts-check
/* What every page stands in: the SAE and the rest of the address, the badge, what the server is at.

   A page's script calls `start` first. The page came whole from the server, with the state it was
   in; that is asked for again (`GET /state`) while something is being loaded or checked, when the
   window is looked at again, and while the server does not answer. */

import { address, copy, el } from "./dom.js";
import { ServerError, state as askState } from "./server.js";
import { startSteps } from "./steps.js";

/** @typedef {{state: string, badge: string, doubt: string, panel?: string}} Check */
/** @typedef {{system: boolean, end: string}} Chat how conversations are written */
/**
 * @typedef {{
 *   loading: boolean,
 *   loaded: boolean,
 *   problem: string | null,
 *   chat: Chat | null,
 *   memory?: string,
 *   checks: Record<string, Check>,
 * }} State `badge`, `doubt`, `panel`, `memory` are markup of the server's templates
 */

const RENEWED = 3000; // ms until it is first asked whether the index is still the same
const PAUSES = [300, 600, 1000, 2000]; // ms between questions; the last is kept

/** @type {State} */
let current = { loading: false, loaded: false, problem: null, chat: null, checks: {} };
let asked = ""; // the SAEs asked about
let timer = 0;
let times = 0;
let gone = false;
let leaving = false;
/** @type {Set<(state: State) => void>} */
const listeners = new Set();
/** @type {((name: string) => void) | null} */
let chosen = null;

/**
 * Begin. `onSae` is told when another SAE is chosen; without it the page is loaded anew for that SAE.
 * `refresh` draws the page anew when its index was renewed.
 * @param {{onSae?: (name: string) => void, refresh?: () => Promise<void>}} [options]
 */
export function start({ onSae, refresh } = {}) {
  chosen = onSae ?? chosen;
  startSteps();
  select()?.addEventListener("change", (event) => {
    const name = /** @type {HTMLSelectElement} */ (event.target).value;
    if (chosen) chosen(name);
    else location.assign(addressWith(name));
  });
  document.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    const button = target?.closest("button[data-copy]");
    if (button instanceof HTMLButtonElement) copy(button.dataset.copy ?? "", button);
  });
  document.getElementById("theme")?.addEventListener("click", nextTheme);
  document.getElementById("export")?.addEventListener("click", async () => (await import("./export.js")).openExport());
  carrySae();
  current = JSON.parse(document.getElementById("state")?.textContent ?? "null") ?? current;
  asked = asking();
  // Once the page's script has run to its end.
  const early = [...listeners];
  queueMicrotask(() => early.forEach((listener) => listener(current)));
  if (asked !== JSON.stringify(Object.keys(current.checks))) look();
  else if (isPending(current)) again();
  watchIndex(refresh ?? null);
  document.addEventListener("jumpscope:gone", () => setGone(true));
  document.addEventListener("visibilitychange", look);
  for (const kind of ["focus", "online", "offline"]) addEventListener(kind, look);
  addEventListener("pagehide", () => {
    leaving = true;
    clearTimeout(timer);
  });
  // From the browser's cache of pages, as it was left.
  addEventListener("pageshow", (event) => {
    leaving = false;
    if (event.persisted) look();
  });
}

/* The SAE, and the rest of the address */

function select() {
  return /** @type {HTMLSelectElement | null} */ (document.getElementById("sae"));
}

const firstSae = () => select()?.dataset.first ?? "";

/** The SAE on the page; none in the address stands for the bundle's first. */
export const sae = () => query().sae || firstSae();

/** How an SAE stands in addresses: the bundle's first as "". @param {string} name */
export const saeInAddress = (name) => (name === firstSae() ? "" : name);

/** Names and labels of all SAEs. @returns {[string, string][]} */
export const saes = () =>
  [...(select()?.options ?? [])].map((option) => [option.value, option.textContent ?? ""]);

/** Whether the bundle has such an SAE. @param {string} name */
export const hasSae = (name) => saes().some(([each]) => each === name);

/** Where an SAE reads, as the choice says it; its name where two read at one place.
 * @param {string} name */
export function saeLabel(name) {
  const place = (/** @type {string} */ words) => words.replace(/ · [0-9,]+ features$/, "");
  const words = place(saes().find(([each]) => each === name)?.[1] ?? name);
  return saes().filter(([, label]) => place(label) === words).length > 1 ? name : words;
}

/* Values too long for a link (a server takes 64 KB in all) are kept in the history instead: back,
   forward and reloading bring them back, a link leaves them out. */
const LONGEST = 6000;

/** The values of this page's address. @returns {Record<string, string>} */
export function query() {
  return { ...history.state?.long, ...Object.fromEntries(new URLSearchParams(location.search)) };
}

/**
 * Make these the values of this page's address; empty ones are left out. `push` makes it a step to
 * go back from.
 * @param {Record<string, string | number | null | undefined>} values
 * @param {{push?: boolean}} [options]
 */
export function setQuery(values, { push = false } = {}) {
  const [short, long] = parted({ tour: query().tour, ...values }, LONGEST);
  const target = address(location.pathname, short);
  const same = target === location.pathname + location.search;
  if (push && !same) history.pushState({ long }, "", target);
  else history.replaceState({ ...history.state, long }, "", target);
  carrySae();
}

/**
 * Values that fit a link, and those that do not.
 * @param {Record<string, string | number | null | undefined>} values
 * @param {number} longest characters of a value in a link
 * @returns {Record<string, string | number | null | undefined>[]}
 */
export function parted(values, longest) {
  const entries = Object.entries(values);
  /** @param {[string, string | number | null | undefined]} entry */
  const fits = ([, value]) => encodeURIComponent(value ?? "").length <= longest;
  return [entries.filter(fits), entries.filter((entry) => !fits(entry))].map((each) =>
    Object.fromEntries(each),
  );
}

/** This page's address with another SAE. A feature's number means nothing there. @param {string} name */
export function addressWith(name) {
  const values = { ...query(), feature: "", page: "", from: "", at: "", walk: "", sae: saeInAddress(name) };
  return address(location.pathname, values);
}

/** After a change of the address: links of the navigation keep the SAE, its badge is shown. */
export function carrySae() {
  const name = hasSae(sae()) ? saeInAddress(sae()) : "";
  for (const link of document.querySelectorAll("a[data-page-link]")) {
    const [page] = (link.getAttribute("href") ?? "").split("?");
    link.setAttribute("href", address(page, { sae: name, tour: link.getAttribute("data-tour") }));
  }
  const choice = select();
  if (choice && hasSae(sae())) choice.value = sae();
  if (asked && asking() !== asked) look();
}

/* What the server is at */

/** Hear of the state: now, and after each change. @param {(state: State) => void} listener */
export function onState(listener) {
  listeners.add(listener);
  if (asked) listener(current);
}

/* The page's SAE first, then those that edits in the address name. */
function names() {
  let edits = [];
  try {
    edits = JSON.parse(query().edits ?? "[]");
  } catch {
    // The page says itself that it cannot read them.
  }
  const others = Array.isArray(edits) ? edits.map((edit) => edit?.sae) : [];
  return [...new Set([sae(), ...others])].filter((name) => name && hasSae(name));
}

function asking() {
  return JSON.stringify(names());
}

/** Ask what the server is at, now. */
export function look() {
  if (document.hidden) return;
  times = 0;
  ask();
}

async function ask() {
  clearTimeout(timer);
  const now = names();
  const key = JSON.stringify(now);
  asked = key;
  // Looking at a page is a reason to try again what failed before; waiting is none.
  const question = [...now.map((name) => ["sae", name]), ["again", times ? "" : "1"]];
  try {
    const answer = await askState(question);
    if (key === asked) take(answer);
  } catch (error) {
    if (leaving || !(error instanceof ServerError)) return;
    setGone(error.gone);
  }
}

/** @param {State} state */
function take(state) {
  current = state;
  asked = asking();
  setGone(false);
  drawState();
  for (const listener of listeners) listener(state);
  if (isPending(state)) again();
}

/** @param {State} state */
function isPending({ loading, checks }) {
  return loading || Object.values(checks).some((check) => check.state === "checking");
}

function again() {
  clearTimeout(timer);
  timer = window.setTimeout(ask, PAUSES[Math.min(times, PAUSES.length - 1)]);
  times += 1;
}

/* Only what has changed, so that the focus and an opened part stay. */
const drawn = new WeakMap();

/** Put markup of the server's templates into an element, if it is other markup than before.
 * @param {Element | null} slot @param {string} html */
export function fill(slot, html) {
  if (!slot || drawn.get(slot) === html) return;
  drawn.set(slot, html);
  slot.replaceChildren(markup(html));
}

/**
 * Nodes of markup that the server's templates made, which escape what comes from outside; for
 * nothing else.
 * @param {string} html
 */
export function markup(html) {
  const nodes = document.createDocumentFragment();
  nodes.append(...new DOMParser().parseFromString(html, "text/html").body.childNodes);
  return nodes;
}

/** Show the badge, the doubts wherever there is a place for them, and whether the model is there. */
export function drawState() {
  const { checks } = current;
  fill(document.getElementById("badge"), checks[sae()]?.badge ?? "");
  const doubts = names().map((name) => checks[name]?.doubt ?? "");
  for (const slot of document.querySelectorAll("[data-doubt]")) fill(slot, doubts.join(""));
  const loading = document.getElementById("loading");
  if (loading) loading.hidden = !current.loading || current.loaded;
}

/** An index that is renewed is heard of some seconds after the page is there.
 * @param {(() => Promise<void>) | null} refresh */
function watchIndex(refresh) {
  setTimeout(() => {
    const renewed = import("./renewed.js");
    renewed.then((it) => it.watch(() => names()[0] ?? "", refresh)).catch(() => watchIndex(refresh));
  }, RENEWED);
}

/* When nothing answers. Links would lead to the browser's own page, and what was typed be lost. */

/** @param {boolean} now */
function setGone(now) {
  if (now) again();
  if (now === gone) return;
  gone = now;
  const notice = document.getElementById("gone");
  if (notice) notice.hidden = !now;
  if (now) document.addEventListener("click", stay, { capture: true });
  else document.removeEventListener("click", stay, { capture: true });
}

/** @param {MouseEvent} event */
function stay(event) {
  const target = event.target instanceof Element ? event.target : null;
  if (target?.closest("#gone button, a[href]:not([href^='#'])")) {
    event.preventDefault();
    event.stopPropagation();
    look();
  }
}

/* Words and waiting */

let waiting = 0;

/**
 * Show that the page waits for `promise`: a thin line under the navigation after a moment.
 * @template T
 * @param {Promise<T>} promise
 * @returns {Promise<T>}
 */
export async function busy(promise) {
  const mark = (/** @type {number} */ change) => {
    waiting += change;
    document.documentElement.toggleAttribute("data-busy", waiting > 0);
    document.getElementById("content")?.setAttribute("aria-busy", String(waiting > 0));
  };
  mark(1);
  try {
    return await promise;
  } finally {
    mark(-1);
    // What has answered may have been loaded for it.
    if (current.loading) look();
  }
}

/**
 * Where a question stands in the queue, as a sentence.
 * @param {{rank: number, eta: number | null}} place `rank` are before it; `eta` in seconds
 */
export function placeWords({ rank, eta }) {
  const before = rank > 0 ? `${rank} before this one` : "next in the queue";
  if (!eta || eta < 1) return `Waiting: ${before}.`;
  const time = eta < 90 ? `${Math.ceil(eta)} s` : `${Math.round(eta / 60)} min`;
  return `Waiting: ${before}, about ${time}.`;
}

/** The window's title; "" is the app's name alone. @param {string} text */
export function title(text) {
  document.title = text ? `${text} · Jumpscope` : "Jumpscope";
}

/** A sentence that says what went wrong. @param {string} sentence */
export const problem = (sentence) => el("p", { class: "problem", role: "alert" }, sentence);

/**
 * That an SAE has no index, and the command that comes next, as the server's templates write it.
 * @param {{reason: string, command: string, does: string}} missing
 */
export function missingIndex({ reason, command, does }) {
  return el(
    "div",
    { class: "panel notice", role: "note" },
    el("p", {}, `${reason}, so what its features fire on is not known. This ${does}:`),
    el(
      "div",
      { class: "command" },
      el("code", {}, command),
      el("button", { type: "button", class: "plain", "data-copy": command }, "Copy"),
    ),
  );
}

/* Colours: as the system, light or dark. A cookie keeps the choice, so that the server draws the page
   in it from the first moment on; where cookies are blocked it lasts as long as the page. */

/** @type {Record<string, string>} as templates/base.html has them */
const THEMES = { system: "as the system", light: "light", dark: "dark" };

/** @param {Event} event */
function nextTheme({ currentTarget }) {
  const all = Object.keys(THEMES);
  const { dataset } = document.documentElement;
  const name = all[(all.indexOf(dataset.theme ?? "") + 1) % all.length];
  dataset.theme = name;
  const button = /** @type {HTMLElement} */ (currentTarget);
  button.ariaLabel = button.dataset.tip = `Colours: ${THEMES[name]}`;
  const path = new URL(dataset.root || "./", document.baseURI).pathname;
  try {
    document.cookie = `jumpscope-theme=${name}; path=${path}; max-age=31536000; samesite=lax`;
  } catch {
    // In a frame that may keep nothing.
  }
}
