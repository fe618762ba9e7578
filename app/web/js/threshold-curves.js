// @ts-check
/* The two terms of a threshold's gradient over the threshold, with the kernel's window. Lines are
   drawn in a stretched box of 100 x 100 units, words beside them are HTML. */

import { el } from "./dom.js";
import { number } from "./numbers.js";

/** @typedef {import("./threshold-measured.js").Measured} Measured */

const SVG = "http://www.w3.org/2000/svg";
/** Half of a kernel's window over its bandwidth: beyond it tokens have no or next to no weight. */
const REACH = { rectangle: 0.5, triangular: 0.707, epanechnikov: 0.6455, gaussian: 0.866 };

/** @param {string} tag @param {Record<string, string | number>} attributes */
function svg(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  return node;
}

/**
 * The ends of the values that are shown. Near 0 most tokens lie, and the curves leave the picture:
 * it is as high as they are from half of the lower threshold on.
 * @param {number[]} thresholds
 * @param {number[][]} curves
 * @param {number} from
 * @returns {[number, number]}
 */
export function ends(thresholds, curves, from) {
  const shown = curves.flatMap((curve) => curve.filter((_, k) => thresholds[k] >= from));
  const [low, high] = [Math.min(0, ...shown), Math.max(0, ...shown)];
  return [low, high > low ? high : low + 1];
}

/** @param {Measured} measured */
export function drawCurves({ gradient, threshold, own_threshold: own }) {
  const { thresholds, reconstruction, sparsity, units, rests } = gradient;
  const [left, right] = [thresholds[0], thresholds[thresholds.length - 1]];
  const [low, high] = ends(thresholds, [reconstruction, sparsity], Math.min(own, threshold) / 2);
  const x = (/** @type {number} */ value) => (100 * (value - left)) / (right - left);
  const y = (/** @type {number} */ value) => 97 - (94 * (value - low)) / (high - low);
  const path = (/** @type {number[]} */ curve) =>
    curve.map((value, k) => `${k ? "L" : "M"}${x(thresholds[k]).toFixed(2)} ${y(value).toFixed(2)}`).join("");
  const reach = (REACH[/** @type {keyof typeof REACH} */ (units.kernel)] ?? 0.5) * units.bandwidth * units.scale;
  const [from, to] = [Math.max(left, threshold - reach), Math.min(right, threshold + reach)];
  const picture = svg("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none" });
  picture.append(
    svg("rect", { class: "window", x: x(from), y: 0, width: x(to) - x(from), height: 100 }),
    svg("path", { class: "zero", d: `M0 ${y(0)}L100 ${y(0)}` }),
    ...rests.map((each) => svg("path", { class: "rest", d: `M${x(each)} 0L${x(each)} 100` })),
    svg("path", { class: "cost", d: path(reconstruction) }),
    svg("path", { class: "saving", d: path(sparsity) }),
  );
  const label = `Cost in reconstruction and saving in sparsity over thresholds from ${number(left)} to ${number(right)}. ${gradient.sentence}`;
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", label);
  const at = x(threshold);
  const line = el("div", { class: `threshold ${at > 55 ? "left" : "right"}`, style: `left:${at.toFixed(2)}%` });
  line.append(el("span", {}, `threshold ${number(threshold)}`));
  const ticks = [left, right].map((value, k) =>
    el("span", { class: `tick ${k ? "last" : "first"}`, style: `--at:${100 * k};--n:${number(value).length}` }, number(value)),
  );
  return el(
    "div",
    { class: "chart curves" },
    el(
      "p",
      { class: "key" },
      el("span", { class: "cost" }, "costs in reconstruction"),
      el("span", { class: "saving" }, "saves in sparsity"),
      el("span", { class: "window" }, "kernel’s window"),
    ),
    el("div", { class: "plot" }, picture, line),
    el("div", { class: "axis", "aria-hidden": "true" }, ticks),
  );
}
