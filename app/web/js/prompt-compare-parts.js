// @ts-check
/* What a comparison of two texts shows: their tokens, features with both activations, and what comes
   next after two tokens, patched or not. prompt-compare.js decides what is shown. */

import { address, el, featureName, quoted, tokenNodes, unbroken } from "./dom.js";
import { sae, saeInAddress } from "./frame.js";
import { legendOf, nextBars } from "./next-bars.js";
import { fixed, number, signed } from "./numbers.js";
import { setValue } from "./steps.js";

/** @typedef {{i: number, id: number, text: string, special: boolean, bytes?: string}} Token */
/** @typedef {"a" | "b"} Side */
/** @typedef {{a: number, b: number}} Place a token of each text */
/** @typedef {Place & {same: boolean, kl: number}} Pair */
/** @typedef {{id: number, text: string, bytes?: string, a: number, b: number, patched?: number}} Next */
/**
 * @typedef {{at: Place, kl: number, tokens: Next[], moved?: number, kl_patched?: number}} Prediction
 */
/**
 * @typedef {{feature: number, signature: string, label?: string | null, a: number, b: number, difference: number,
 *   fires_in: "a" | "b" | "both", widest: Place}} Row
 */
/**
 * @typedef {{sae: string, token: number | null, a: {tokens: Token[]}, b: {tokens: Token[]},
 *   pairs: Pair[], predictions: Prediction[], features: Row[], definitions: Record<string, string>,
 *   missing: {reason: string, command: string, does: string} | null}} Comparison
 */
/**
 * @typedef {{patched: {feature: number, a: number, b: number, moved: number[],
 *   kl_patched: number[]}[], predictions: Prediction[]}} Patch
 */

/* Nats that are a strong effect: less is not painted in full. */
const FULL = 0.5;

/** @param {string} words @param {string} [definition] */
export const term = (words, definition = "") =>
  el(
    "button",
    { type: "button", class: "term", "data-tip": definition, "aria-description": definition },
    words,
  );

/** @param {Token} token */
const name = (token) => el("bdi", { class: "mono" }, quoted(token.text, token.bytes));

/** @param {Comparison} data @param {Place} place */
export const pairNodes = ({ a, b }, place) => {
  const [first, second] = [a.tokens[place.a], b.tokens[place.b]];
  return first.id === second.id ? [name(first)] : [name(first), " and ", name(second)];
};

/**
 * The tokens of one text. Those that are aligned and count are buttons.
 * @param {Comparison} data
 * @param {Side} side
 */
export function tokensOf(data, side) {
  const pairs = new Map(data.pairs.map((pair) => [pair[side], pair]));
  const full = Math.max(FULL, ...data.pairs.map(({ kl }) => kl));
  return data[side].tokens.flatMap((token) => {
    const pair = pairs.get(token.i);
    const span = el("span", {});
    const nodes = tokenNodes(span, token.text, token.bytes);
    if (!pair) {
      span.className = "only-here";
      span.dataset.v = `only in ${side.toUpperCase()}`;
      return nodes;
    }
    const other = data[side === "a" ? "b" : "a"].tokens[pair[side === "a" ? "b" : "a"]];
    if (!pair.same) span.className = "instead";
    if (token.special || other.special) {
      span.classList.add("special");
      return nodes;
    }
    span.setAttribute("role", "button");
    span.setAttribute("aria-pressed", "false");
    span.dataset.pair = String(pair.a);
    span.style.setProperty("--a", (pair.kl / full).toFixed(3));
    const instead = pair.same ? "" : `in place of ${quoted(other.text, other.bytes)}; `;
    setValue(span, `${instead}predictions after it differ by ${number(pair.kl)} nats`);
    return nodes;
  });
}

/** What the colours and lines of the tokens mean. @param {Comparison} data */
export function legendNodes(data) {
  const largest = Math.max(0, ...data.pairs.map(({ kl }) => kl));
  const alone = data.a.tokens.length + data.b.tokens.length - 2 * data.pairs.length;
  return [
    "Colour: how far apart the predictions after two aligned tokens are; at most ",
    term(`${number(largest)} nats`, data.definitions.kl),
    ". ",
    el("span", { class: "instead" }, "Underlined"),
    ": one token in place of another.",
    ...(alone > 0 ? [" ", el("span", { class: "only-here" }, "Dashed"), ": only in this text."] : []),
  ];
}

/**
 * A table of features, with a tick each.
 * @param {Comparison} data
 * @param {Row[]} rows
 */
export function featureTable(data, rows) {
  const of = data.definitions;
  const columns = /** @type {[string, string][]} */ ([
    ["A", of.a],
    ["B", of.b],
    ["B − A", of.difference],
  ]);
  const heads = el(
    "tr",
    {},
    el(
      "th",
      { scope: "col" },
      el("input", { type: "checkbox", "data-tick-all": true, "aria-label": "Patch all that are listed" }),
    ),
    el("th", { scope: "col" }, "feature"),
    columns.map(([words, definition]) => el("th", { scope: "col", class: "n" }, term(words, definition))),
  );
  const body = rows.map((row) =>
    el(
      "tr",
      { "data-row": row.feature },
      el(
        "td",
        {},
        el("input", {
          type: "checkbox",
          "data-tick": row.feature,
          "aria-label": `Patch #${row.feature} ${featureName(row)}`,
        }),
      ),
      el(
        "td",
        { class: "words" },
        featureLink(row.feature),
        " ",
        el("span", { class: "signature-text", dir: "auto" }, unbroken(featureName(row))),
        data.token === null && widest(data, row),
      ),
      el("td", { class: "n" }, number(row.a)),
      el("td", { class: "n" }, number(row.b)),
      el("td", { class: "n" }, difference(row.difference)),
    ),
  );
  return el(
    "table",
    { class: "compared" },
    el("caption", { class: "vh" }, "Features of the two texts"),
    el("thead", {}, heads),
    el("tbody", {}, body),
  );
}

/** @param {number} value */
function difference(value) {
  return value > 0 ? `+${number(value)}` : number(value);
}

/** @param {number} feature */
function featureLink(feature) {
  const href = address("features", { sae: saeInAddress(sae()), feature });
  return el("a", { class: "id", href }, `#${feature}`);
}

/** Where two activations are furthest apart. @param {Comparison} data @param {Row} row */
function widest(data, row) {
  return el(
    "button",
    { type: "button", class: "plain beside", "data-pair": row.widest.a },
    "most at ",
    pairNodes(data, row.widest),
  );
}

/** @param {Node} words @param {string} value */
const stat = (words, value) => el("div", {}, el("dt", {}, words), el("dd", {}, value));

/**
 * What comes next, by both texts and, where features are ticked, by B with A's values.
 * @param {Comparison} data
 * @param {Prediction} prediction
 */
export function predictionNodes(data, prediction) {
  const { definitions } = data;
  const { kl, kl_patched: after, moved } = prediction;
  const isPatched = after !== undefined && moved !== undefined;
  const series = [
    { name: "A", words: "text A" },
    { name: "B", words: "text B" },
    ...(isPatched ? [{ name: "B′", words: "B with A’s values" }] : []),
  ];
  const tokens = prediction.tokens.map(({ a, b, patched = null, ...token }) => ({
    ...token,
    values: isPatched ? [a, b, patched] : [a, b],
  }));
  return [
    el(
      "dl",
      { class: "numbers", "aria-live": "polite" },
      stat(term("KL, A to B", definitions.kl), number(kl)),
      isPatched && stat(term("KL, A to B′", definitions.kl_patched), number(after)),
      isPatched && stat(term("nearer by", definitions.kl_patched), nearer(kl, after)),
      isPatched && stat(term("B moved by", definitions.moved), number(moved)),
    ),
    legendOf(series),
    nextBars(tokens, series, { label: "Likeliest next tokens" }),
  ];
}

/** How much nearer to A, in nats and in parts of what was between. @param {number} kl @param {number} after */
function nearer(kl, after) {
  const part = kl > 0 ? `, ${fixed((100 * (kl - after)) / kl, 0)}\u00a0%` : "";
  return `${signed(kl - after, 3)}${part}`;
}

/**
 * What each ticked feature does alone, and what all do beyond the sum.
 * @param {Patch} patch
 * @param {number} at which of the predictions
 * @param {Map<number, Row>} rows
 */
export function patchTable({ patched, predictions }, at, rows) {
  const { kl, kl_patched: together = kl } = predictions[at];
  const alone = patched.map(({ kl_patched: after }) => kl - after[at]);
  const beyond = kl - together - alone.reduce((sum, each) => sum + each, 0);
  const body = patched.map(({ feature, a, b }, i) =>
    el(
      "tr",
      {},
      el(
        "td",
        { class: "words" },
        featureLink(feature),
        " ",
        el("span", { class: "signature-text", dir: "auto" }, unbroken(featureName(rows.get(feature)))),
      ),
      el("td", { class: "n" }, `${number(b)} → ${number(a)}`),
      el("td", { class: "n" }, signed(alone[i], 3)),
      el(
        "td",
        {},
        el(
          "button",
          { type: "button", class: "close", "data-untick": feature, "aria-label": `Patch #${feature} no more` },
          "×",
        ),
      ),
    ),
  );
  const sum =
    patched.length > 1 &&
    el(
      "tr",
      {},
      el("td", { colspan: 2 }, "all together beyond the sum"),
      el("td", { class: "n" }, signed(beyond, 3)),
      el("td", {}),
    );
  return el(
    "table",
    { class: "patched" },
    el("caption", { class: "quiet" }, "Each alone: how much nearer to A it brings B, in nats"),
    el("tbody", {}, body, sum),
  );
}
