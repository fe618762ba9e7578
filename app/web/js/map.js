// @ts-check
/* The page of the map: reads the points once, draws them, and lists those that are chosen. What is
   coloured and marked stands in the address; where one looks does not. */

import { address, copy, el, featureName, unbroken } from "./dom.js";
import * as frame from "./frame.js";
import { Plot } from "./map-plot.js";
import { decoded, startMoving } from "./map-view.js";
import { count, number, oneIn } from "./numbers.js";
import { ServerError, call } from "./server.js";

/** @typedef {{feature: number, signature: string, label?: string | null, frequency: number,
 *   output_score: number | null, source: string | null}} Row */
/** @typedef {{words: string, look: string, count: number}} Class `look` is a class of map.css */
/** @typedef {{classOf: Uint8Array, classes: Class[]}} Classes */

const LISTED = 200; // where one answer may list as many

/* The classes that points are coloured by: steps of a number, or sources of text. Each is an entry of
   the legend, which says its bounds and how many features it has. */

const FREQUENCIES = [1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 1e-1];
const FREQUENCY_WORDS = [
  "under 0.001 % of tokens",
  "0.001 % to 0.01 %",
  "0.01 % to 0.1 %",
  "0.1 % to 0.3 %",
  "0.3 % to 1 %",
  "1 % to 10 %",
  "10 % and more",
];
const SCORES = [0.01, 0.05, 0.2, 0.5, 0.9];
const SCORE_WORDS = ["under 0.01", "0.01 to 0.05", "0.05 to 0.2", "0.2 to 0.5", "0.5 to 0.9", "0.9 and more"];
const SOURCES = 7; // told apart; more share one colour

/** @param {ArrayLike<number>} values @param {number[]} bounds @param {string[]} words @returns {Classes} */
function steps(values, bounds, words) {
  const classOf = Uint8Array.from(values, (value) =>
    Number.isNaN(value) ? words.length : bounds.filter((bound) => value >= bound).length,
  );
  const looks = words.map((_, i) => `step-${i}`);
  return counted(classOf, [...words, "not defined"], [...looks, "rest"]);
}

/** @param {ArrayLike<number>} values @param {string[]} names @returns {Classes} */
function sources(values, names) {
  const counts = names.map(() => 0);
  for (let i = 0; i < values.length; i++) counts[values[i]]++;
  const order = [...counts.keys()].sort((a, b) => counts[b] - counts[a] || a - b);
  const told = order.filter((source) => counts[source]).slice(0, SOURCES);
  const classOf = Uint8Array.from(values, (source) => {
    const place = told.indexOf(source);
    return place < 0 ? told.length : place;
  });
  const looks = told.map((_, i) => `kind-${i}`);
  return counted(classOf, [...told.map((i) => names[i]), "other sources"], [...looks, "rest"]);
}

/** @param {Uint8Array} classOf @param {string[]} words @param {string[]} looks @returns {Classes} */
function counted(classOf, words, looks) {
  const counts = words.map(() => 0);
  for (const each of classOf) counts[each]++;
  return { classOf, classes: words.map((word, i) => ({ words: word, look: looks[i], count: counts[i] })) };
}

/**
 * @param {string} colour
 * @param {{frequency: ArrayLike<number>, source: ArrayLike<number>, output_score?: ArrayLike<number>}} columns
 * @param {string[]} names of the sources
 * @returns {Classes}
 */
export function classesOf(colour, columns, names) {
  if (colour === "source") return sources(columns.source, names);
  if (colour === "score" && columns.output_score) {
    return steps(columns.output_score, SCORES, SCORE_WORDS);
  }
  return steps(columns.frequency, FREQUENCIES, FREQUENCY_WORDS);
}

/* The page */

/** @param {string} id */
const at = (id) => /** @type {HTMLElement} */ (document.getElementById(id));
/** @param {string} words */
const say = (words) => at("map-status").replaceChildren(words);
const control = () => ({
  search: /** @type {HTMLInputElement} */ (at("map-search")),
  colour: /** @type {HTMLSelectElement} */ (at("map-colour")),
});

/** @type {Plot} */
let plot;
/** @type {any} the server's answer */
let data;
/** @type {Record<string, any>} its columns */
let columns;
/** @type {number[]} the points that are listed */
let listed = [];
/** How many features are listed, at most. */
const most = () => Math.min(LISTED, Number(at("map-plot").dataset.mostRows) || LISTED);
let listings = 0; // how often points were listed
let asked = 0; // so that an answer that was overtaken is not drawn

/** How many features are drawn and left out, in a sentence. @param {any} answer */
export function drawnWords({ total, shown, dead }) {
  const left = total - shown - dead;
  const more = left > 0 ? ` ${count(left)} that fire least are left out.` : "";
  const silent = dead === 1 ? "1 feature never fires and is" : `${count(dead)} features never fire and are`;
  return `${count(shown)} of ${count(total)} features.${dead ? ` ${silent} left out.` : ""}${more}`;
}

/** Why a feature is not among the points. @param {any} answer */
export function absentWords({ total, shown, dead }) {
  return total - shown - dead > 0 ? "it fires too seldom, or never" : "it never fires";
}

/** The address's values, with changes. @param {Record<string, string>} changes */
const addressed = (changes) => ({ ...frame.query(), ...changes });

function paint() {
  const { classOf, classes } = classesOf(control().colour.value, /** @type {any} */ (columns), data.sources);
  plot.classOf = classOf;
  plot.looks = classes.map(({ look }) => look);
  plot.only = new Set();
  at("map-legend").replaceChildren(
    ...classes.flatMap(({ words, look, count: many }, i) => {
      if (!many) return [];
      const button = el(
        "button",
        { type: "button", "aria-pressed": "false", onclick: () => alone(i) },
        el("i", { class: look, "aria-hidden": "true" }),
        el("bdi", { class: "words" }, words),
        el("span", { class: "count" }, count(many)),
      );
      button.dataset.class = String(i);
      return [el("li", {}, button)];
    }),
  );
  plot.draw();
}

/** Show a class alone or with others that are, or no longer. @param {number} i */
function alone(i) {
  if (!plot.only.delete(i)) plot.only.add(i);
  for (const button of at("map-legend").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(plot.only.has(Number(button.dataset.class))));
  }
  plot.draw();
}

/** @param {number} feature */
const page = (feature) => address("features", { sae: frame.saeInAddress(data.sae), feature });

/** @param {Row} each */
const row = (each) =>
  el(
    "tr",
    {},
    el("td", {}, el("a", { class: "id", href: page(each.feature) }, `#${each.feature}`)),
    el("td", { class: "words" }, el("bdi", {}, unbroken(featureName(each)))),
    el("td", { class: "n" }, oneIn(each.frequency)),
    data.scored && el("td", { class: "n" }, each.output_score === null ? "–" : number(each.output_score)),
    el("td", {}, el("bdi", {}, each.source ?? "–")),
  );

/** List these points. @param {number[]} points */
async function list(points) {
  listed = points;
  listings += 1;
  const first = points.slice(0, most());
  plot.selected = new Set(points.length <= 5000 ? points : first);
  plot.draw();
  at("map-listed").hidden = !points.length;
  if (!points.length) return;
  const more = points.length > first.length ? `; the first ${first.length} are listed` : "";
  at("map-count").textContent = `${count(points.length)} ${points.length === 1 ? "feature" : "features"}${more}`;
  const features = first.map((i) => columns.feature[i]);
  try {
    const answer = await frame.busy(call("map", { sae: data.sae, features }));
    if (listed === points) at("map-rows").replaceChildren(...answer.features.map(row));
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    if (listed === points) at("map-count").replaceChildren(frame.problem(error.message));
  }
}

/** Mark what a search finds. @param {string} query */
async function mark(query) {
  const mine = ++asked;
  const before = listings;
  const had = plot.matches.size;
  plot.matches = new Set();
  plot.draw();
  if (!query.trim()) {
    say(drawnWords(data));
    if (had) void list([]); // what was found is no longer asked for
    return;
  }
  say("Searching…");
  try {
    const answer = await frame.busy(call("search_features", { query, sae: data.sae, limit: most() }));
    if (asked !== mine) return;
    const places = new Map([...columns.feature].map((feature, i) => [feature, i]));
    const found = answer.features.flatMap((/** @type {Row} */ { feature }) => places.get(feature) ?? []);
    plot.matches = new Set(found);
    const best = answer.total > most() ? `the ${most()} best of ${count(answer.total)}` : count(found.length);
    // What somebody has listed since is what they want to read.
    const lists = listings === before;
    const listedWords = lists ? ", listed below" : "";
    say(found.length ? `Marked with rings: ${best} that match${listedWords}.` : "No feature on the map matches.");
    plot.draw();
    if (lists) await list(found);
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    if (asked === mine) at("map-status").replaceChildren(frame.problem(error.message));
  }
}

/** The features that are in the window and drawn in full. */
function inView() {
  const { width, height } = plot.size;
  return [...columns.feature.keys()].filter((i) => {
    const [x, y] = plot.at(i);
    return x >= 0 && y >= 0 && x <= width && y <= height && plot.isBright(i);
  });
}

/** Only some points of the SAE's are there. @param {number} feature @param {number} i */
function markOne(feature, i) {
  plot.marked = i;
  plot.markedWords = i < 0 ? "" : `#${feature}`;
  if (i < 0) say(`#${feature} is not drawn: ${absentWords(data)}. ${drawnWords(data)}`);
}

async function begin() {
  frame.start();
  if (!document.getElementById("map-plot")) return;
  const host = at("map-plot");
  const { search, colour: choice } = control();
  choice.addEventListener("change", () => {
    frame.setQuery(addressed({ colour: choice.value === "frequency" ? "" : choice.value }));
    if (columns) paint();
  });
  const canvas = (/** @type {string} */ id) => /** @type {HTMLCanvasElement} */ (at(id));
  plot = new Plot(host, canvas("map-dots"), canvas("map-marks"));
  try {
    data = await frame.busy(call("map", { sae: frame.sae() }));
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    at("map-status").replaceChildren(frame.problem(error.message));
    return;
  }
  columns = Object.fromEntries(
    Object.entries(data.columns).map(([name, column]) => [name, decoded(/** @type {any} */ (column))]),
  );
  const [x, y] = [columns.x, columns.y].map((column) => Float32Array.from(column, (value) => value / 65535));
  plot.places = { x, y };
  say(drawnWords(data));
  at("map-score").hidden = !data.scored;
  paint();
  if (host.dataset.marked) {
    const feature = Number(host.dataset.marked);
    markOne(feature, columns.feature.indexOf(feature));
  }
  startMoving(plot, {
    here: /** @type {HTMLAnchorElement} */ (at("map-here")),
    lasso: /** @type {HTMLButtonElement} */ (at("map-lasso")),
    pageOf: (i) => page(columns.feature[i]),
    numberOf: (i) => columns.feature[i],
    choose: (points) => void list(points),
    inView: () => void list(inView()),
  });
  at("map-form").addEventListener("submit", (event) => {
    event.preventDefault();
    frame.setQuery(addressed({ q: search.value }), { push: true });
    void mark(search.value);
  });
  at("map-in-view").addEventListener("click", () => void list(inView()));
  at("map-clear").addEventListener("click", () => {
    void list([]);
    host.focus();
  });
  at("map-copy").addEventListener("click", ({ currentTarget }) => {
    const numbers = listed.map((i) => columns.feature[i]).join(" ");
    void copy(numbers, /** @type {HTMLElement} */ (currentTarget));
  });
  addEventListener("popstate", () => {
    search.value = frame.query().q ?? "";
    choice.value = frame.query().colour ?? "frequency";
    paint();
    void mark(search.value);
  });
  // They would do nothing before.
  at("map-tools").inert = false;
  if (search.value) await mark(search.value);
  host.dataset.ready = "";
}

if (globalThis.document) void begin();
