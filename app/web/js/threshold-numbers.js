// @ts-check
/* What another threshold of a feature would do, by the histogram of its pre-activations alone. A bin
   that a threshold cuts is shared out by width; at the feature's own threshold all is exact. */

import { count, number, percent } from "./numbers.js";

/**
 * @typedef {object} Lab What the server writes beside the histogram (app/web/threshold_view.py).
 * @property {string} sae
 * @property {number} feature
 * @property {number} threshold
 * @property {number[]} edges
 * @property {number[]} counts
 * @property {number} below
 * @property {number} above
 * @property {number} tokens
 * @property {number} active
 * @property {number} mass the sum of its activations
 * @property {string[]} places one for each edge
 * @property {Record<string, string>} sentences what each place is, in words
 */

/** @typedef {"" | "relu" | "shifted"} Kind JumpReLU, ReLU, or ReLU of what is above the threshold */

/**
 * Tokens, and the sum of their pre-activations, between two values within the histogram.
 * @param {Lab} lab
 * @param {number} low
 * @param {number} high
 */
export function between({ edges, counts }, low, high) {
  let [tokens, mass] = [0, 0];
  counts.forEach((value, k) => {
    const from = Math.max(low, edges[k]);
    const to = Math.min(high, edges[k + 1]);
    if (to <= from) return;
    const inside = (value * (to - from)) / (edges[k + 1] - edges[k]);
    tokens += inside;
    mass += (inside * (from + to)) / 2;
  });
  return { tokens, mass };
}

/**
 * What fires above `cut` instead of above the feature's own threshold.
 * @param {Lab} lab
 * @param {number} cut
 */
export function firing(lab, cut) {
  const moved = between(lab, Math.min(cut, lab.threshold), Math.max(cut, lab.threshold));
  const sign = cut < lab.threshold ? 1 : -1;
  const fires = Math.max(0, lab.active + sign * moved.tokens);
  return {
    fires,
    share: fires / lab.tokens,
    moved: moved.tokens,
    mass: moved.mass,
    mean: fires > 0 ? Math.max(0, lab.mass + sign * moved.mass) / fires : 0,
  };
}

/** A count that is about so many. @param {number} value */
const about = (value) => count(Number(value.toPrecision(2)));

/** Whether the histogram reaches down to 0, so that it knows what plain ReLU lets through.
 * @param {Lab} lab */
const reachesZero = (lab) => lab.edges[0] <= 0 || lab.below === 0;

/**
 * What moving the threshold gains and loses, in words.
 * @param {Lab} lab
 * @param {number} cut
 */
export function reading(lab, cut) {
  const own = lab.active / lab.tokens;
  if (cut === lab.threshold) {
    return `Its own threshold, ${number(cut)}: it fires on ${percent(own)} of tokens.`;
  }
  const { share, moved, mass } = firing(lab, cut);
  const part = lab.mass > 0 ? ` (${percent(mass / lab.mass)} of its activation)` : "";
  const change =
    moved < 0.5
      ? "no token changes sides"
      : `about ${about(moved)} tokens${part} ${cut > lab.threshold ? "lost" : "gained"}`;
  return `Threshold ${number(cut)}: about ${percent(share)} of tokens instead of ${percent(own)}, ${change}.`;
}

/**
 * What the activation function does to false positives and to magnitudes, in words.
 * @param {Lab} lab
 * @param {number} threshold
 * @param {Kind} kind
 */
export function functionSays(lab, threshold, kind) {
  const kept = firing(lab, threshold);
  const mean = number(kept.mean);
  if (kind === "relu") {
    const zero = firing(lab, 0);
    const more = Math.max(0, zero.fires - kept.fires);
    const times = kept.fires >= 1 ? `, ${number(more / kept.fires, 2)} for each that it keeps` : "";
    const least = reachesZero(lab) ? "about" : "at least";
    return (
      `ReLU has no threshold: magnitudes stay, but ${least} ${about(more)} tokens between 0 and ` +
      `${number(threshold)} come in as false positives${times}. It would fire on ${least} ` +
      `${percent(zero.share)} of tokens.`
    );
  }
  if (kept.fires < 0.5) return "Nothing lies above the threshold: all of it is screened out.";
  if (kind === "shifted") {
    const lost = kept.mean > 0 ? Math.min(1, threshold / kept.mean) : 0;
    const left = number(Math.max(0, kept.mean - threshold));
    return (
      `A bias lower by the threshold screens out the same false positives, but makes every ` +
      `activation smaller by ${number(threshold)}: the mean falls from ${mean} to ${left} ` +
      `(${percent(lost)} less), and the weakest to almost nothing.`
    );
  }
  return (
    `JumpReLU screens out what is not above the threshold and passes on the rest unchanged: no ` +
    `false positives from below, and the mean stays ${mean}.`
  );
}

/**
 * Where a threshold lies in the histogram, in words: what holds at the nearest edge.
 * @param {Lab} lab
 * @param {number} cut
 */
export function placeSays({ edges, places, sentences }, cut) {
  let nearest = 0;
  edges.forEach((edge, k) => {
    if (Math.abs(edge - cut) < Math.abs(edges[nearest] - cut)) nearest = k;
  });
  return `It lies ${sentences[places[nearest]]}.`;
}

/**
 * How a context changes: "enters", "leaves", or "" if it fires or not as before.
 * @param {number} value the pre-activation at its peak
 * @param {boolean} nearMiss whether it is one that does not fire
 * @param {number} own
 * @param {number} cut
 */
export function changed(value, nearMiss, own, cut) {
  const would = cut === own ? !nearMiss : value > cut;
  if (would === !nearMiss) return "";
  return would ? "enters" : "leaves";
}

/**
 * What a function makes of pre-activations from `low` to `high`, as the points of a line in a box of
 * 100 x 100 whose top is `high`.
 * @param {Kind} kind
 * @param {number} threshold
 * @param {number} low
 * @param {number} high
 */
export function outline(kind, threshold, low, high) {
  const cut = kind === "relu" ? 0 : threshold;
  const lowered = kind === "shifted" ? threshold : 0;
  const x = (/** @type {number} */ value) => (100 * (value - low)) / (high - low);
  const y = (/** @type {number} */ value) => 100 - (97 * Math.max(0, value)) / high;
  const start = Math.max(cut, low);
  const points = [[0, 100]];
  if (cut > low) points.push([x(cut), 100]);
  points.push([x(start), y(start - lowered)], [100, y(high - lowered)]);
  return points.map(([px, py], k) => `${k ? "L" : "M"}${px.toFixed(2)} ${py.toFixed(2)}`).join("");
}
