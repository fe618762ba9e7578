// @ts-check
/* What fires together with a feature, measured on the check's text, and the same feature in another
   SAE of the bundle. */

import { address, el, featureName, shows, unbroken } from "./dom.js";
import { busy, placeWords, problem, saeInAddress, saeLabel } from "./frame.js";
import { count, fixed, number } from "./numbers.js";
import { ServerError, call } from "./server.js";

/**
 * @typedef {{feature: number, signature: string, label?: string | null}} Named
 * @typedef {Named & {jaccard: number, low: number, high: number, lift: number, both: number,
 *   either: number}} Together
 * @typedef {{sae: string, by: string, sentence: string, features: (Named & {value: number})[]}} Other
 * @typedef {{sae: string, feature: number, tokens: number, fires: number, together: Together[],
 *   other: Other | null, definitions: Record<string, string>}} Answer
 */

/** @type {AbortController | null} */
let asking = null;

/** What a press of the button does. @param {Element} target within the part */
export async function measureNeighbours(target) {
  const part = target.closest("[data-together]");
  const view = target.closest("[data-view]");
  const place = part?.querySelector("[data-together-answer]");
  if (!(view instanceof HTMLElement) || !(place instanceof HTMLElement)) return;
  const choice = /** @type {HTMLSelectElement | null} */ (part?.querySelector("[data-other-sae]") ?? null);
  const asked = { feature: Number(view.dataset.feature), sae: view.dataset.sae ?? "", other_sae: choice?.value ?? "" };
  asking?.abort();
  const mine = (asking = new AbortController());
  const say = (/** @type {string} */ words) => place.replaceChildren(el("p", { class: "quiet" }, words));
  say("Measuring …");
  try {
    const onQueue = (/** @type {import("./server.js").Place} */ waiting) => {
      if (waiting.rank > 0) say(placeWords(waiting));
    };
    const answer = await busy(call("co_activation", asked, { onQueue, signal: mine.signal }));
    place.replaceChildren(...drawn(answer));
    shows(place, "co_activation", asked, answer);
  } catch (error) {
    if (mine.signal.aborted) return;
    if (!(error instanceof ServerError)) throw error;
    place.replaceChildren(problem(error.message));
  }
}

/** What the counts are of, as a sentence. @param {Answer} answer */
export function measuredOn({ fires, tokens, together }) {
  const on = `It fires on ${count(fires)} of ${count(tokens)} tokens of the check’s text`;
  if (!fires) return `${on}, so nothing fires together with it there.`;
  return together.length ? `${on}: an estimate.` : `${on}, and no other feature there.`;
}

/** @param {Together} row */
export const jaccardWords = ({ both, either, low, high }) =>
  `both on ${count(both)} of ${count(either)} tokens, ${fixed(low, 2)} to ${fixed(high, 2)} (95 %)`;

/** @param {HTMLElement[]} heads @param {HTMLElement[]} rows */
const table = (heads, rows) =>
  el(
    "table",
    {},
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "feature"), el("td"), heads)),
    el("tbody", {}, rows),
  );

/** @param {Answer} answer */
function drawn(answer) {
  const { sae, together, other, definitions } = answer;
  const head = (/** @type {string} */ name, tip = definitions[name]) =>
    el("th", { scope: "col", class: "n" }, el("button", { type: "button", class: "term", "data-tip": tip, "aria-description": tip }, name));
  const rows = together.map((row) =>
    line(row, sae, [`${fixed(row.jaccard, 2)}`, `${number(row.lift, 2)}x`], jaccardWords(row)),
  );
  return [
    ...(rows.length ? [table([head("jaccard"), head("lift")], rows)] : []),
    el("p", { class: "quiet" }, measuredOn(answer)),
    ...(other ? otherPart(other, head) : []),
  ];
}

/** @param {Other} other @param {(name: string) => HTMLElement} head */
function otherPart(other, head) {
  const rows = other.features.map((row) => line(row, other.sae, [fixed(row.value, 2)]));
  return [
    el("h3", {}, `In ${saeLabel(other.sae)}`),
    ...(rows.length ? [table([head(other.by)], rows)] : [el("p", {}, "None is like it.")]),
    el("p", { class: "quiet" }, other.sentence),
  ];
}

/** @param {Named} row @param {string} sae @param {string[]} values @param {string} [more] */
function line(row, sae, values, more) {
  const href = address("features", { sae: saeInAddress(sae), feature: row.feature });
  return el(
    "tr",
    {},
    el("td", { class: "id" }, el("a", { href }, `#${row.feature}`)),
    el("td", { class: "words" }, el("bdi", {}, unbroken(featureName(row))), more && el("span", { class: "quiet counted" }, more)),
    values.map((value) => el("td", { class: "n" }, value)),
  );
}
