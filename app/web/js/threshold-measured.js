// @ts-check
/* What the model says about a threshold, on the check's text: L0, FVU and delta LM loss with it, and
   the two terms of its gradient in training as curves, with fields for lambda and bandwidth. */

import { el, shows } from "./dom.js";
import { markProblem } from "./given.js";
import { busy, placeWords, problem, query, setQuery } from "./frame.js";
import { count, number, percent, signed } from "./numbers.js";
import { ServerError, call } from "./server.js";
import { drawCurves } from "./threshold-curves.js";

/* Tokens that the losses are measured on: four runs of the model. The curves take one, to the SAE. */
const LOSS_TOKENS = 1000;
/* How the answer calls the row of a threshold that is not the feature's own. */
const MOVED = "this threshold";

/**
 * @typedef {import("./threshold-numbers.js").Lab} Lab
 * @typedef {{name: string, threshold: number, frequency: number, l0: number | null,
 *   fvu: number | null, delta_lm_loss: number | null}} Variant
 * @typedef {{lambda: number, lambda_from: string, bandwidth: number, bandwidth_from: string,
 *   kernel: string, scale: number, other_penalties: string[], sentence: string}} Units
 * @typedef {{thresholds: number[], reconstruction: number[], sparsity: number[],
 *   in_window: number[], standard_error: number[], rests: number[], sentence: string,
 *   at: {in_window: number, tendency: string}, units: Units}} Gradient
 * @typedef {{threshold: number, own_threshold: number, tokens: number, variants: Variant[],
 *   gradient: Gradient, definitions: Record<string, string>}} Measured
 */

/** @type {AbortController | null} */
let asking = null;

/**
 * Ask the model, the curves first, and show what it answers under the lab.
 * @param {HTMLElement} root
 * @param {Lab} lab
 * @param {number} threshold
 */
export async function measure(root, lab, threshold) {
  const place = root.querySelector(".measured");
  if (!place) return;
  asking?.abort();
  const mine = (asking = new AbortController());
  const curves = el("div", { class: "terms" }, el("p", { class: "quiet" }, "Measuring …"));
  const table = el("div", {}, el("p", { class: "quiet" }, "Measuring losses …"));
  place.replaceChildren(table, curves);
  try {
    await showTerms(curves, lab, threshold, mine.signal);
    const answer = await ask(lab, threshold, { measured: true, tokens: LOSS_TOKENS }, table, mine.signal);
    table.replaceChildren(...drawTable(answer));
  } catch (error) {
    if (mine.signal.aborted) return;
    if (!(error instanceof ServerError)) throw error;
    place.replaceChildren(problem(error.message));
  }
}

/**
 * @param {Lab} lab
 * @param {number} threshold
 * @param {Record<string, unknown>} more
 * @param {HTMLElement} place
 * @param {AbortSignal} signal
 * @returns {Promise<Measured>}
 */
async function ask({ sae, feature, threshold: own }, threshold, more, place, signal) {
  const onQueue = (/** @type {{rank: number, eta: number | null}} */ waiting) => {
    if (waiting.rank > 0) place.replaceChildren(el("p", { class: "quiet" }, placeWords(waiting)));
  };
  const { lambda, bandwidth } = query();
  const asked = {
    sae,
    feature,
    threshold: threshold === own ? null : threshold,
    penalty: given(lambda),
    bandwidth: given(bandwidth),
    measured: false,
    ...more,
  };
  const answer = await busy(call("threshold", asked, { onQueue, signal }));
  // The curves are in the answer with the losses too.
  if (asked.measured) shows(place, "threshold", asked, answer);
  return answer;
}

/**
 * A number of the address; what is none is left for the server to refuse.
 * @param {string | undefined} text
 */
function given(text) {
  if (!text) return null;
  return Number.isNaN(Number(text)) ? text : Number(text);
}

/**
 * The curves, and fields that draw them anew.
 * @param {HTMLElement} place
 * @param {Lab} lab
 * @param {number} threshold
 * @param {AbortSignal} signal
 */
async function showTerms(place, lab, threshold, signal) {
  const answer = await ask(lab, threshold, { measured: false }, place, signal);
  const { gradient } = answer;
  const again = async (/** @type {Event} */ event) => {
    const changed = event.target;
    if (!(changed instanceof HTMLInputElement)) return;
    if (Number.isNaN(Number(changed.value))) {
      markProblem(changed, `${changed.name} must be a number.`, changed.closest(".units") ?? changed);
      return;
    }
    setQuery({ ...query(), [changed.name]: changed.value.trim() });
    try {
      await showTerms(place, lab, threshold, signal);
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof ServerError)) throw error;
      place.querySelector(".problem")?.remove();
      place.append(problem(error.message));
    }
    const fresh = place.querySelector(`[name="${changed.name}"]`);
    if (fresh instanceof HTMLElement) fresh.focus();
  };
  const { units } = gradient;
  const lambda = field("lambda", "lambda", units.lambda);
  const bandwidth = field("bandwidth", "bandwidth", units.bandwidth);
  for (const each of [lambda, bandwidth]) each.addEventListener("change", again);
  place.replaceChildren(
    el("h3", {}, "What holds it in training"),
    drawCurves(answer),
    el("p", {}, gradient.sentence),
    restsSay(gradient.rests, answer.threshold, units.other_penalties),
    el("p", { class: "line units" }, lambda, bandwidth),
    el("p", { class: "quiet" }, units.sentence),
  );
}

/** @param {string} name @param {string} words @param {number} value */
function field(name, words, value) {
  const input = el("input", { name, inputmode: "decimal", autocomplete: "off", value: Number(value.toPrecision(3)), size: "8" });
  return el("label", {}, words, " ", input);
}

/**
 * Where training would come to rest, the crossing that is nearest to the threshold.
 * @param {number[]} rests
 * @param {number} threshold
 * @param {string[]} others penalties of the run that the curves leave out
 */
export function restsSay(rests, threshold, others) {
  if (!rests.length) return el("p", { class: "quiet" }, "The curves cross nowhere here on enough tokens.");
  const nearest = rests.reduce((best, each) =>
    Math.abs(each - threshold) < Math.abs(best - threshold) ? each : best,
  );
  const more = rests.length > 1 ? `, the nearest of ${rests.length} crossings` : "";
  const by = others.length ? "Training by these two terms alone" : "Training";
  return el("p", {}, `${by} comes to rest at ${number(nearest)}${more}.`);
}

/** @param {Measured} measured */
function drawTable({ variants, tokens, definitions }) {
  const head = (/** @type {string} */ name, /** @type {string} */ words) => {
    const of = { type: "button", class: "term", "data-tip": definitions[name], "aria-description": definitions[name] };
    return el("th", { scope: "col", class: "n" }, el("button", of, words));
  };
  const row = (/** @type {Variant} */ each) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, each.name === MOVED ? `threshold ${number(each.threshold)}` : each.name),
      el("td", { class: "n" }, percent(each.frequency)),
      el("td", { class: "n" }, number(each.l0)),
      el("td", { class: "n" }, number(each.fvu, 4)),
      el("td", { class: "n" }, signed(each.delta_lm_loss, 4)),
    );
  return [
    el(
      "table",
      { class: "variants" },
      el("thead", {}, el("tr", {}, el("td"), head("frequency", "fires"), head("l0", "L0"), head("fvu", "FVU"), head("delta_lm_loss", "Δ loss"))),
      el("tbody", {}, variants.map(row)),
    ),
    el("p", { class: "quiet" }, `Spliced into the model on ${count(tokens)} tokens of the check’s text; Δ loss in nats per token.`),
  ];
}
