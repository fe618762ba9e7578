// @ts-check
/* Features by example: two boxes of texts, one a line, which the address holds; the features that
   tell them apart, each with its strongest token in both. */

import { address, el, featureName, shows, tokenNodes, unbroken } from "./dom.js";
import * as frame from "./frame.js";
import { count, fixed, number } from "./numbers.js";
import { ServerError, call } from "./server.js";

/**
 * @typedef {{text: number, token: number, activation: number, tokens: string[], bytes: string[],
 *   peak: number}} Strongest
 * @typedef {{feature: number, signature: string, label?: string | null, auroc: number,
 *   positive_mean: number, negative_mean: number, positive: Strongest | null,
 *   negative: Strongest | null}} Row
 * @typedef {{sae: string, positives: number, negatives: number, stand_in: boolean, features: Row[],
 *   firing: number, chance: {sentence: string, longer: string},
 *   definitions: Record<string, string>}} Answer
 */

const BOXES = ["positives", "negatives"];

/** The texts of a box: its lines that are not empty. @param {string} written */
export const textsOf = (written) =>
  written
    .split(/\r\n|\r|\n/)
    .map((line) => line.trim())
    .filter(Boolean);

/** @param {number} many */
const texts = (many) => (many === 1 ? "1 text" : `${many} texts`);

/** How many features of those that fire are shown. @param {Answer} answer */
export function shownWords({ features, firing, positives, negatives, stand_in: standIn }) {
  const others = standIn ? `${negatives} passages of the check’s text` : texts(negatives);
  const all = features.length < firing ? ` of the ${count(firing)} that fire anywhere` : "";
  const noun = features.length === 1 ? "feature" : "features";
  return `${features.length} ${noun}${all}, by AUROC between ${texts(positives)} and ${others}.`;
}

/** @param {string} id */
const at = (id) => /** @type {HTMLElement} */ (document.getElementById(id));
/** @param {string} id */
const box = (id) => /** @type {HTMLTextAreaElement} */ (document.getElementById(id));

/** @type {AbortController | null} */
let asking = null;

/** Ask for the features of the texts that are written. @param {{push: boolean, focus?: boolean}} how */
async function ask({ push, focus = false }) {
  const written = Object.fromEntries(BOXES.map((name) => [name, textsOf(box(name).value)]));
  const lines = Object.fromEntries(BOXES.map((name) => [name, written[name].join("\n")]));
  frame.setQuery({ sae: frame.saeInAddress(frame.sae()), ...lines }, { push });
  asking?.abort();
  const mine = (asking = new AbortController());
  complain(null);
  wait("Finding…");
  const asked = {
    positives: written.positives,
    negatives: written.negatives.length ? written.negatives : null,
    sae: frame.sae(),
  };
  try {
    const answer = await frame.busy(
      call("find", asked, {
        signal: mine.signal,
        onQueue: (place) => wait(frame.placeWords(place)),
        onStart: () => wait("Finding…"),
      }),
    );
    if (asking !== mine) return;
    wait("");
    draw(answer);
    shows(at("found"), "find", asked, answer);
  } catch (error) {
    if (asking !== mine) return;
    wait("");
    at("found").hidden = true;
    if (mine.signal.aborted) at("status").textContent = "Stopped.";
    else if (error instanceof ServerError) complain(error, focus);
    else throw error;
  }
}

/** Say what the page waits for; "" for nothing. @param {string} words */
function wait(words) {
  at("status").textContent = words;
  at("stop").hidden = !words;
  if (!words) asking = null;
}

/** Put a sentence under the boxes, and mark the one it is about; null takes it back.
 * @param {ServerError | null} error @param {boolean} [focus] */
function complain(error, focus = false) {
  at("problem").replaceChildren(...(error ? [frame.problem(error.message)] : []));
  for (const name of BOXES) {
    const blamed = error?.field.split(".")[0] === name;
    if (blamed) box(name).setAttribute("aria-invalid", "true");
    else box(name).removeAttribute("aria-invalid");
    if (blamed && focus) box(name).focus();
  }
}

/** A word with its definition. @param {string} word @param {string} tip */
const term = (word, tip) =>
  el("button", { type: "button", class: "term", "data-tip": tip, "aria-description": tip }, word);

/** @param {Answer} answer */
function draw(answer) {
  const place = at("found");
  const { chance, features } = answer;
  place.replaceChildren(
    el("p", { class: "quiet", role: "status" }, shownWords(answer)),
    el(
      "p",
      { class: "quiet" },
      "Each has its ",
      term("AUROC", answer.definitions.auroc),
      ", the ",
      term("means", answer.definitions.mean),
      " of both boxes, and its strongest token in both, underlined.",
    ),
    el("p", {}, chance.sentence),
    ...(chance.longer ? [el("p", {}, chance.longer)] : []),
    ...(features.length
      ? [el("ol", { class: "panel by-example" }, features.map((row) => drawn(row, answer)))]
      : [el("p", {}, "No feature fires in any of these texts.")]),
  );
  place.hidden = false;
}

/** @param {Row} row @param {Answer} answer */
function drawn(row, { sae, stand_in: standIn }) {
  const named = frame.saeInAddress(sae);
  const page = address("features", { sae: named, feature: row.feature });
  const edits = JSON.stringify([{ feature: row.feature, mode: "set" }]);
  return el(
    "li",
    {},
    el(
      "div",
      { class: "about" },
      el("a", { class: "id", href: page }, `#${row.feature}`),
      el("bdi", { class: "name" }, unbroken(featureName(row))),
      el("span", { class: "value" }, `AUROC ${fixed(row.auroc, 3)}`),
      el("span", { class: "value quiet" }, `mean ${number(row.positive_mean)} and ${number(row.negative_mean)}`),
      el("a", { href: address("steer", { sae: named, edits }) }, "Steer", el("span", { class: "vh" }, ` with #${row.feature}`)),
    ),
    el("dl", {}, seen("has it", "text", row.positive), seen("does not", standIn ? "passage" : "text", row.negative)),
  );
}

/**
 * The strongest token of a box among those around it.
 * @param {string} words
 * @param {string} noun what the box holds
 * @param {Strongest | null} place
 */
function seen(words, noun, place) {
  if (!place) return [el("dt", {}, words), el("dd", { class: "quiet" }, `fires in none of these ${noun}s`)];
  const around = place.tokens.flatMap((text, i) =>
    tokenNodes(el(i === place.peak ? "u" : "span"), text, place.bytes[i]),
  );
  return [
    el("dt", {}, `${words}, ${number(place.activation)} in ${noun} ${place.text + 1}`),
    el("dd", {}, el("bdi", {}, ...around)),
  ];
}

/* The page */

/** Make the page what the address says. */
function restore() {
  frame.carrySae();
  const query = frame.query();
  for (const name of BOXES) box(name).value = query[name] ?? "";
  if (textsOf(query.positives ?? "").length) void ask({ push: false });
  else {
    asking?.abort();
    wait("");
    complain(null);
    at("found").hidden = true;
  }
}

/** Another SAE, for the texts that are there. @param {string} name */
function onSae(name) {
  frame.setQuery({ ...frame.query(), sae: frame.saeInAddress(name) }, { push: true });
  if (textsOf(box("positives").value).length) void ask({ push: false });
  else at("found").hidden = true; // of the SAE before
}

function begin() {
  const form = /** @type {HTMLFormElement} */ (at("find-form"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void ask({ push: true, focus: true });
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  at("stop").addEventListener("click", () => asking?.abort());
  addEventListener("popstate", restore);
  frame.start({ onSae });
  restore();
}

if (globalThis.document) begin();
