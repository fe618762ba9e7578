// @ts-check
/* What an analysis says of its tokens and features: shares, orders, and the views by which the tokens
   are coloured.

   A view gives each token a value from -1 to 1, the words that say it, and a legend. What belongs to
   predicting a token (its losses) and what to reading it (the features on it, which act on what
   comes after it) is named as that. */

import { fixed, number, percent, signed } from "./numbers.js";

/**
 * @typedef {{i: number, id: number, text: string, special: boolean, loss: number | null,
 *   spliced_loss: number | null, delta: number | null, kl: number | null, active: number,
 *   active_features: [number, number][], bytes?: string, turn?: number, template?: boolean}} Token
 * as the endpoint prompt_features answers it; active_features are [feature, activation]
 */
/**
 * @typedef {{feature: number, signature: string, label?: string | null, frequency: number | null, max_act: number | null,
 *   peak: number, peak_token: number, tokens: [number, number][]}} Feature
 * tokens are [token, activation]
 */
/**
 * @typedef {{sae: string, text?: string, messages?: any[], tokens: Token[],
 *   totals: Record<string, number | null>, definitions: Record<string, string>,
 *   missing: {reason: string, command: string, does: string} | null, features: Feature[]}} Analysis
 */
/** @typedef {"cost" | "active" | "feature"} View */
/** @typedef {"activation" | "share" | "frequency"} Sort */
/**
 * @typedef {{text: string, messages: any[] | null, other: string | null,
 *   parts: Record<string, string>, view: View, token: number | null,
 *   peak: boolean, feature: number | null, last: "token" | "feature", sort: Sort, hide: number}} State
 * what the address says; `peak` where the token is to be the feature's strongest, which the analysis
 * will tell; `last` was chosen after the other, `hide` is the highest frequency shown;
 * `other` is a second text, `parts` are values of parts that read and write them themselves
 */
/** @typedef {[Feature, number]} Pair a feature with an activation of it */
/**
 * @typedef {{kind: "act" | "cost", values: number[], words: (token: Token) => string,
 *   legend: (string | {key: "worse" | "better", words: string})[]}} Colours
 */

/** @type {View[]} */
export const VIEWS = ["cost", "active", "feature"];

/** @type {Sort[]} */
export const SORTS = ["activation", "share", "frequency"];

const SPECIAL = "special token, left alone";

/* A nat or two is a strong effect; a text without any is not painted as if it had one. */
const WEAKEST = 0.5;
const STRONGEST = 2;

/** @param {number} many */
export const featuresWords = (many) => `${fixed(many, 0)} ${many === 1 ? "feature" : "features"}`;

/**
 * An activation as a share of the feature's largest in the index; 1 where it never fired there.
 * Without an index, of its largest on this text.
 * @param {number} activation
 * @param {Feature} feature
 */
export function share(activation, { max_act: largest, peak }) {
  if (largest === null) return activation / peak;
  return largest > 0 ? activation / largest : 1;
}

/** Orders of pairs; what is equal stays in the order of the answer. */
/** @type {Record<Sort, (a: Pair, b: Pair) => number>} */
export const ORDERS = {
  activation: (a, b) => b[1] - a[1],
  share: (a, b) => share(b[1], b[0]) - share(a[1], a[0]),
  frequency: (a, b) => (a[0].frequency ?? 0) - (b[0].frequency ?? 0),
};

/**
 * Whether a feature fires rarely enough to be shown.
 * @param {Feature} feature
 * @param {number} hide
 */
export const isShown = ({ frequency }, hide) => hide >= 1 || (frequency ?? 0) <= hide;

/**
 * Those pairs that are shown, in order, and how many are hidden.
 * @param {Pair[]} pairs
 * @param {{sort: Sort, hide: number}} state
 * @returns {{shown: Pair[], hidden: number}}
 */
export function listed(pairs, { sort, hide }) {
  const shown = pairs.filter(([feature]) => isShown(feature, hide)).sort(ORDERS[sort]);
  return { shown, hidden: pairs.length - shown.length };
}

/**
 * The features on a token, strongest first.
 * @param {Token} token
 * @param {Map<number, Feature>} features
 * @returns {Pair[]}
 */
export function pairsOn(token, features) {
  return token.active_features.flatMap(([feature, activation]) => {
    const row = features.get(feature);
    return row ? [/** @type {Pair} */ ([row, activation])] : [];
  });
}

/**
 * @param {Analysis} data
 * @param {Map<number, Feature>} features
 * @param {State} state
 * @returns {Colours}
 */
export function colours(data, features, state) {
  const chosen = state.feature === null ? undefined : features.get(state.feature);
  if (state.view === "feature" && chosen) return byFeature(data, chosen);
  if (state.view === "cost") return byCost(data);
  return byCount(data, features, state);
}

/** @param {Analysis} data @param {Feature} feature @returns {Colours} */
function byFeature({ tokens }, feature) {
  const acts = new Map(feature.tokens);
  const own = feature.max_act === null;
  const largest = `${own ? " here" : ""}, ${number(own ? feature.peak : feature.max_act)}`;
  return {
    kind: "act",
    values: tokens.map(({ i }) => share(acts.get(i) ?? 0, feature) * Number(acts.has(i))),
    words: ({ i, special }) => (special ? SPECIAL : `activation ${number(acts.get(i) ?? 0)}`),
    legend: [
      `Read here: activation of #${feature.feature}; full colour is its largest${largest}.`,
    ],
  };
}

/** @param {Analysis} data @param {Map<number, Feature>} features @param {State} state
 * @returns {Colours} */
function byCount({ tokens }, features, { view, hide }) {
  const counts = tokens.map(
    (token) => pairsOn(token, features).filter(([feature]) => isShown(feature, hide)).length,
  );
  const most = Math.max(1, ...counts);
  // The view of one feature, before one is chosen.
  const hint = view === "feature" ? "Choose a feature from a table. Until then: " : "Read here: ";
  const filtered = hide < 1 ? ", frequent ones left out" : "";
  return {
    kind: "act",
    values: counts.map((many) => many / most),
    words: ({ i, special }) => (special ? SPECIAL : `${featuresWords(counts[i])} active`),
    legend: [`${hint}features active on each token${filtered}; at most ${most}.`],
  };
}

/** A token's loss without and with the splice. @param {Token} token */
const lossWords = ({ loss, spliced_loss: spliced }) => `${fixed(loss, 2)} → ${fixed(spliced, 2)}`;

/** @param {Analysis} data @returns {Colours} */
function byCost({ tokens }) {
  const largest = Math.max(...tokens.map(({ delta }) => Math.abs(delta ?? 0)));
  const full = Math.max(WEAKEST, Math.min(largest, STRONGEST));
  return {
    kind: "cost",
    values: tokens.map(({ delta }) => Math.max(-1, Math.min(1, (delta ?? 0) / full))),
    words: (token) =>
      token.delta === null
        ? "first token, nothing predicts it"
        : `predicted: ${signed(token.delta)} nats (${lossWords(token)})`,
    legend: [
      "Predicted here: ",
      { key: "worse", words: "red" },
      ", the splice makes this token harder to predict; ",
      { key: "better", words: "blue" },
      ", easier.",
    ],
  };
}

/**
 * The strip of numbers above the text: [key of its definition, name, value].
 * @param {Analysis} analysis
 * @returns {[string, string, string][]}
 */
export function totalsOf({ totals }) {
  const losses = `${fixed(totals.ce_base, 2)} to ${fixed(totals.ce_spliced, 2)}`;
  return [
    ["tokens", "tokens", fixed(totals.tokens, 0)],
    ["l0", "features per token (L0)", number(totals.l0)],
    ["fvu", "variance unexplained (FVU)", fixed(totals.fvu, 3)],
    ["delta_lm_loss", `delta LM loss (${losses})`, signed(totals.delta_lm_loss)],
    ["kl", "KL divergence, nats per token", fixed(totals.kl, 3)],
  ];
}

/**
 * What belongs to predicting a token, in nats: [key of its definition, name, value]; none where
 * nothing predicts it.
 * @param {Token} token
 * @returns {[string, string, string][]}
 */
export function predictionOf(token) {
  if (token.loss === null) return [];
  return [
    ["loss", "loss", fixed(token.loss, 2)],
    ["spliced_loss", "with the SAE", fixed(token.spliced_loss, 2)],
    ["delta", "change", signed(token.delta)],
    ["kl", "KL divergence", fixed(token.kl, 3)],
  ];
}

/** How often a feature fires, where an index knows it. @param {Feature} feature */
export const oftenWords = ({ frequency }) => (frequency === null ? "" : percent(frequency));
