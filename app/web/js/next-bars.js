// @ts-check
/* Next tokens with their probabilities as bars: a few distributions side by side, each named. */

import { el, quoted } from "./dom.js";
import { percent } from "./numbers.js";

/**
 * @typedef {{id: number, text: string, bytes?: string, values: (number | null)[]}} NextToken
 * probabilities, one for each series; null where there is none
 */
/** @typedef {{name: string, words: string}} Series a short name, and what it stands for */

/* A bar of no width would look like a missing one. */
const THINNEST = 0.5;

/**
 * A list of next tokens. Bars are measured against the largest of them.
 * @param {NextToken[]} tokens
 * @param {Series[]} series at most four; colours and patterns follow their order
 * @param {{label: string, chosen?: number | null, choose?: (id: number) => void}} how `choose` makes
 * the tokens buttons, `chosen` is the id of the one that is pressed
 */
export function nextBars(tokens, series, { label, chosen = null, choose }) {
  const largest = Math.max(...tokens.flatMap(({ values }) => values.map((value) => value ?? 0)));
  const rows = tokens.map(({ id, text, bytes, values }) => {
    const name = el("bdi", { class: "mono" }, quoted(text, bytes));
    const lines = series.map(({ name: short, words }, i) =>
      el(
        "div",
        { class: `next-line s${i}` },
        el("dt", {}, el("span", { "aria-hidden": "true" }, short), el("span", { class: "vh" }, words)),
        el("dd", {}, bar(values[i], largest), el("span", { class: "n" }, percent(values[i]))),
      ),
    );
    const pressed = { "aria-pressed": String(id === chosen), "data-next": id };
    return el(
      "li",
      { "aria-current": choose && id === chosen && "true" },
      choose
        ? el("button", { type: "button", class: "pick", ...pressed, onclick: () => choose(id) }, name)
        : name,
      el("dl", {}, lines),
    );
  });
  return el("ol", { class: "next-bars", "aria-label": label }, rows);
}

/** @param {number | null} value @param {number} largest */
function bar(value, largest) {
  const width = value === null || !largest ? 0 : Math.max(THINNEST, (100 * value) / largest);
  return el(
    "span",
    { class: "next-bar", "aria-hidden": "true" },
    el("i", { style: `width:${width.toFixed(1)}%` }),
  );
}

/** What stands for what, beside bars. @param {Series[]} series */
export const legendOf = (series) =>
  el(
    "p",
    { class: "quiet next-legend" },
    series.map(({ name, words }, i) =>
      el(
        "span",
        { class: `next-key s${i}` },
        el("i", { "aria-hidden": "true" }),
        words === name ? name : `${name}: ${words}`,
      ),
    ),
  );
