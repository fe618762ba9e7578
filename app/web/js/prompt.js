// @ts-check
/* The prompt page: one answer of the server holds everything; choosing, sorting, hiding and colouring
   happen here, and stand in the address. What was chosen last is on top. */

import { shows } from "./dom.js";
import * as frame from "./frame.js";
import { given as fields, listInAddress, messagesProblem } from "./given.js";
import { findLink, saeSwitch, secondText } from "./prompt-beside.js";
import { ServerError, call } from "./server.js";

/** @typedef {import("./prompt-colours.js").Analysis} Analysis */
/** @typedef {import("./prompt-colours.js").State} State */
/** @typedef {import("./prompt-colours.js").View} View */
/** @typedef {import("./prompt-colours.js").Sort} Sort */
/** @typedef {import("./prompt-tables.js").Reading} Reading */

/** @param {string} id */
const at = (id) => /** @type {HTMLElement} */ (document.getElementById(id));
/** @param {string} id */
const field = (id) => /** @type {HTMLInputElement} */ (document.getElementById(id));

const main = at("content");
const form = /** @type {HTMLFormElement} */ (at("prompt-form"));
const text = /** @type {HTMLTextAreaElement} */ (document.getElementById("prompt-text"));
const given = fields(main, { field: text, changed: () => {} });

/* What draws an analysis is fetched while that is asked for; after a failure it is fetched again. */
/** @type {Promise<typeof import("./prompt-drawing.js")> | null} */
let fetched = null;
const fetchDrawing = () =>
  import("./prompt-drawing.js").catch(() => {
    fetched = null;
    throw new ServerError("A part of this page could not be fetched: try again.");
  });
/** @type {ReturnType<typeof import("./prompt-drawing.js").drawing> | null} */
let page = null;

/* Values of the address that parts of the page read and write themselves. */
const PARTS = ["pair", "only", "patch", "at", "switch", "next", "by", "earlier", "off"];

let state = stateOfAddress();
/** @type {(Reading & {of: string}) | null} */
let reading = null;
let compared = ""; // the texts and the SAE of the comparison that is shown
/** @type {AbortController | null} */
let asking = null;

/* All that the model reads, to compare. */
const read = () => JSON.stringify([state.messages ?? state.text, state.other]);
const said = () => (state.messages?.at(-1)?.content ?? state.text).trim();
const isEmpty = () => !state.messages && !state.text;
const asked = () => ({ text: state.text, messages: state.messages, sae: frame.sae() });

/* Whether the page shows what its address says. */
const isShown = () =>
  compared === `${read()} ${frame.sae()}` ||
  (reading?.of === read() && reading.data.sae === frame.sae());

const parts = {
  get: (/** @type {string} */ name) => state.parts[name] ?? "",
  /** @param {Record<string, string>} values @param {{push?: boolean}} [how] */
  set(values, { push = false } = {}) {
    Object.assign(state.parts, values);
    write(push);
  },
};
const second = secondText(main, parts);
const like = findLink(main, () => given.messages()?.at(-1)?.content ?? given.text());
const switches = saeSwitch(
  /** @type {HTMLDetailsElement} */ (at("switch")),
  parts,
  () => reading && asked(),
);

/* State and address */

/** @returns {State} */
function stateOfAddress() {
  const query = frame.query();
  const whole = (/** @type {string | undefined} */ words) =>
    /^\d+$/.test(words ?? "") ? Number(words) : null;
  const hide = Number(query.hide);
  const names = Object.keys(query);
  return {
    text: query.text ?? "",
    messages: conversation().value ?? null,
    other: query.other ?? null,
    parts: Object.fromEntries(PARTS.map((name) => [name, query[name] ?? ""])),
    view: oneOf("view", query.view, "cost"),
    token: whole(query.token),
    peak: query.token === "peak",
    feature: whole(query.feature),
    last: names.indexOf("feature") > names.indexOf("token") ? "feature" : "token",
    sort: oneOf("sort", query.sort, "activation"),
    hide: hide > 0 && hide < 1 ? hide : 1,
  };
}

/**
 * A value of the address, if it is among the page's choices.
 * @template {string} T
 * @param {string} name
 * @param {string | undefined} value
 * @param {T} usual
 * @returns {T}
 */
function oneOf(name, value, usual) {
  const choices = main.querySelectorAll(`[name="${name}"], #${name} option`);
  const values = [...choices].map((choice) => choice.getAttribute("value"));
  return /** @type {T} */ (value && values.includes(value) ? value : usual);
}

/** @returns {{value?: any[], problem?: string}} */
function conversation() {
  return listInAddress("messages", "conversation", messagesProblem);
}


/** @param {boolean} push */
function write(push) {
  const { feature, last } = state;
  const token = state.peak ? "peak" : state.token;
  frame.setQuery(
    {
      sae: frame.saeInAddress(frame.sae()),
      text: state.text,
      messages: state.messages && JSON.stringify(state.messages),
      view: state.view === "cost" ? "" : state.view,
      // In the order in which they were chosen.
      ...(last === "feature" ? { token, feature } : { feature, token }),
      sort: state.sort === "activation" ? "" : state.sort,
      hide: state.hide < 1 ? String(Number(state.hide.toPrecision(3))) : "",
      other: state.other,
      ...state.parts,
    },
    { push },
  );
  like.update();
}

/**
 * Change something that the address remembers, and redraw what depends on it.
 * @param {Partial<State>} changes
 * @param {{push?: boolean}} [options]
 */
function set(changes, { push = true } = {}) {
  Object.assign(state, changes);
  write(push);
  draw();
}

/* The view to go back to when no feature is chosen any more. */
const withoutFeature = () => ({
  feature: null,
  view: /** @type {View} */ (state.view === "feature" ? "cost" : state.view),
});

/* The analysis */

/** @param {{push: boolean, focus?: boolean}} how `focus`: a field that is refused gets the focus */
async function analyse({ push, focus = false }) {
  const messages = given.messages();
  const other = second.text();
  Object.assign(state, { text: messages ? "" : given.text(), messages, other });
  write(push);
  complain("");
  asking?.abort();
  const mine = (asking = new AbortController());
  const options = {
    signal: mine.signal,
    onQueue: (/** @type {import("./server.js").Place} */ place) => wait(frame.placeWords(place)),
    onStart: () => wait("Analysing…"),
  };
  wait("Analysing…");
  at("start").hidden = true;
  try {
    const show = await frame.busy(
      other === null ? alone(options) : beside(other, options),
    );
    if (asking !== mine) return;
    wait("");
    show();
  } catch (error) {
    if (asking !== mine) return;
    if (mine.signal.aborted) stopped();
    else if (error instanceof ServerError) refuse(error, focus);
    else throw error;
  }
}

/** @typedef {Parameters<typeof call>[2]} Options */

/** What fires on this text, as a function that shows it. @param {Options} options */
async function alone(options) {
  fetched ??= fetchDrawing();
  const [answer, { drawing }] = await Promise.all([
    call("prompt_features", { ...asked(), limit: 0 }, options),
    fetched,
  ]);
  page ??= drawing(main, () => set({ token: null, ...withoutFeature() }), parts);
  const shown = page;
  return () => take(answer, shown);
}

/** What another text has beside this one, the same. @param {string} other @param {Options} options */
async function beside(other, options) {
  const show = await second.compare(asked(), other, options);
  return () => {
    forget();
    compared = `${read()} ${frame.sae()}`;
    at("start").hidden = true;
    at("comparison").hidden = false;
    frame.title(`Prompt: ${said().slice(0, 24)} / ${other.trim().slice(0, 24)}`);
    show();
  };
}

/** Say what the page waits for; "" for nothing. @param {string} words */
function wait(words) {
  at("status").textContent = words;
  at("stop").hidden = !words;
  if (!words) asking = null;
}

/* What is on the page is of another text, unless it is of this one. */
function stopped() {
  wait("");
  if (isShown()) return;
  forget();
  at("status").textContent = "Stopped; this text was not analysed.";
}

function forget() {
  [reading, compared] = [null, ""];
  at("result").hidden = true;
  at("comparison").hidden = true;
  at("start").hidden = false;
  frame.title("Prompt");
}

/** @param {ServerError} error @param {boolean} focus */
function refuse(error, focus) {
  wait("");
  forget();
  const refused = given.complain(error) ?? second.complain(error);
  if (!refused) complain(error.message);
  else if (focus) refused.focus();
}

/** @param {string} sentence none of any field's; "" takes all back */
function complain(sentence) {
  given.clear();
  at("problem").replaceChildren(...(sentence ? [frame.problem(sentence)] : []));
}

/** @param {Analysis} data @param {NonNullable<typeof page>} shown */
function take(data, shown) {
  compared = "";
  const features = new Map(data.features.map((row) => [row.feature, row]));
  if (state.token !== null && state.token >= data.tokens.length) state.token = null;
  // How often features fire, and their largest activations, only an index knows.
  if (data.missing) Object.assign(state, { sort: "activation", hide: 1 });
  if (state.feature === null || !features.has(state.feature)) Object.assign(state, withoutFeature());
  const chosen = state.feature === null ? undefined : features.get(state.feature);
  if (chosen && state.peak) Object.assign(state, { token: chosen.peak_token, view: "feature" });
  state.peak = false;
  write(false);
  reading = { data, features, state, of: read() };
  shown.begin(data);
  shows(at("result"), "prompt_features", { ...asked(), limit: 0 }, data);
  switches.update();
  at("start").hidden = true;
  at("result").hidden = false;
  at("comparison").hidden = true;
  frame.title(`Prompt: ${said().slice(0, 40)}`);
  draw();
}

function draw() {
  if (reading) page?.draw(Object.assign(reading, { state }));
}

/* What people do */

/** @param {number} token */
const chooseToken = (token) =>
  set({ token: state.token === token ? null : token, last: "token" });

/** @param {HTMLElement} node */
function chooseFeature(node) {
  const feature = Number(node.dataset.feature);
  if (state.feature === feature) set(withoutFeature());
  else set({ feature, view: "feature", last: "feature" });
  // The tables have been drawn anew: the focus goes back to where it was.
  const same = `[data-feature="${feature}"][data-where="${node.dataset.where}"]`;
  /** @type {HTMLElement | null} */ (main.querySelector(same))?.focus({ preventScroll: true });
}

/** @type {Record<string, (node: HTMLElement) => void>} */
const CLICKS = {
  "[data-example]": (node) => {
    given.set(null, node.dataset.example);
    form.requestSubmit();
  },
  "#stop": () => asking?.abort(),
  "#open-other": () => {
    const first = given.messages()?.at(-1)?.content ?? given.text();
    set({ other: first });
    second.open(first);
  },
  "#close-other": () => {
    second.close();
    if (given.isChat() || given.text().trim()) analyse({ push: true });
    else set({ other: null });
  },
  "#tokens [data-i]": (node) => chooseToken(Number(node.dataset.i)),
  "[data-feature]": chooseFeature,
  "[data-token]": (node) => set({ token: Number(node.dataset.token), last: "token" }),
  "[data-close=token]": () => set({ token: null }),
  "[data-close=feature]": () => set(withoutFeature()),
  "[data-unhide]": () => set({ hide: 1 }, { push: false }),
};

main.addEventListener("click", (event) => {
  for (const [selector, act] of Object.entries(CLICKS)) {
    const node = event.target instanceof Element ? event.target.closest(selector) : null;
    if (node instanceof HTMLElement) act(node);
  }
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  Object.assign(state, withoutFeature(), { token: null });
  Object.assign(state.parts, { pair: "", patch: "", at: "", next: "", off: "" });
  analyse({ push: true, focus: true });
});
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
main.addEventListener("change", ({ target }) => {
  if (!(target instanceof HTMLInputElement || target instanceof HTMLSelectElement)) return;
  if (target.name === "view") set({ view: /** @type {View} */ (target.value) });
  if (target.id === "sort") set({ sort: /** @type {Sort} */ (target.value) });
});
at("hide").addEventListener("input", () => {
  set({ hide: 10 ** Number(field("hide").value) }, { push: false });
});

/** Another SAE, for the text that is there. @param {string} name */
function onSae(name) {
  Object.assign(state, withoutFeature());
  Object.assign(state.parts, { pair: "", patch: "", at: "", next: "", off: "" });
  frame.setQuery({ ...frame.query(), sae: frame.saeInAddress(name) }, { push: true });
  if (given.isChat() || given.text().trim()) analyse({ push: false });
  else write(false);
}

/* Make the page what the address says. */
function restore() {
  frame.carrySae();
  state = stateOfAddress();
  const { problem = "" } = conversation();
  given.set(state.messages, state.text);
  second.set(state.other);
  if (isEmpty()) {
    asking?.abort();
    wait("");
    forget();
    complain(problem);
  } else if (isShown()) {
    draw();
    switches.update();
    second.update();
  } else {
    analyse({ push: false });
  }
}

frame.start({ onSae });
frame.onState(({ chat }) => chat && given.offer(chat));
addEventListener("popstate", restore);
restore();
