// @ts-check
/* The tables and panels of the prompt page: features of the text, of one token, tokens of a feature.

   Buttons say what they choose by data-feature, data-token, data-close, data-unhide, data-all and
   data-more; prompt.js listens. */

import { openCard, reproduceButton } from "./card.js";
import { knownBand } from "./bands.js";
import { address, el, featureName, quoted, unbroken } from "./dom.js";
import { sae, saeInAddress } from "./frame.js";
import { fixed, number, percent } from "./numbers.js";
import {
  ORDERS,
  featuresWords,
  listed,
  oftenWords,
  pairsOn,
  predictionOf,
  share,
  totalsOf,
} from "./prompt-colours.js";

/** @typedef {import("./prompt-colours.js").Analysis} Analysis */
/** @typedef {import("./prompt-colours.js").Feature} Feature */
/** @typedef {import("./prompt-colours.js").Pair} Pair */
/** @typedef {import("./prompt-colours.js").State} State */
/** @typedef {import("./prompt-colours.js").Token} Token */
/** @typedef {import("./card.js").Choice} Choice */
/** @typedef {{data: Analysis, features: Map<number, Feature>, state: State}} Reading */

/* Tokens of a feature that are listed at once. */
const FEW = 12;

/* A longer text would make a link that no browser opens. */
const LONGEST = 2000;

/** @param {string} kind @param {Record<string, string | number | boolean | null>} attributes
 * @param {string} words */
export const button = (kind, attributes, words) =>
  el("button", { type: "button", class: kind, ...attributes }, words);

/** @param {string} words @param {string} [definition] */
export const term = (words, definition = "") =>
  definition
    ? el(
        "button",
        { type: "button", class: "term", "data-tip": definition, "aria-description": definition },
        words,
      )
    : words;

/** @param {number} part */
export const bar = (part) =>
  el(
    "span",
    { class: "mini", "aria-hidden": "true" },
    el("i", { style: `width:${Math.min(100, 100 * part).toFixed(1)}%` }),
  );

/** @param {string} words @param {string} [kind] */
export const head = (words, kind) => el("th", { scope: "col", class: kind }, words);

/** @param {Token} token */
export const name = (token) => el("bdi", { class: "mono" }, quoted(token.text, token.bytes));

/**
 * A table of features, and how many it leaves out.
 * @param {Reading} reading
 * @param {Pair[]} pairs
 * @param {{caption: string, where: "text" | "token", most?: number}} how
 */
function featureTable({ data, state }, pairs, { caption, where, most = Infinity }) {
  const { shown, hidden } = listed(pairs, state);
  const indexed = !data.missing;
  const strongest = Math.max(...pairs.map(([, activation]) => activation));
  const rows = shown.slice(0, most).map(([feature, activation]) => {
    // Without an index, beside the others.
    const part = indexed ? share(activation, feature) : activation / strongest;
    const chosen = state.feature === feature.feature;
    const what = {
      "data-feature": feature.feature,
      "data-where": where,
      "aria-pressed": String(chosen),
      "aria-label": `#${feature.feature} ${featureName(feature)}`,
    };
    return el(
      "tr",
      { "aria-current": chosen && "true" },
      el(
        "td",
        {},
        el(
          "div",
          { class: "feature" },
          button("pick id", what, `#${feature.feature}`),
          el("span", { class: "signature-text", dir: "auto" }, unbroken(featureName(feature))),
          bar(part),
        ),
      ),
      el("td", { class: "n" }, number(activation)),
      indexed && el("td", { class: "n" }, percent(part)),
      indexed && el("td", { class: "n often" }, oftenWords(feature)),
    );
  });
  const heads = el(
    "tr",
    {},
    head("feature"),
    head(where === "text" ? "peak" : "act", "n"),
    indexed && head("of max", "n"),
    indexed && head("fires on", "n often"),
  );
  const node = el(
    "table",
    { class: "features" },
    el("caption", { class: "vh" }, caption),
    el("thead", {}, heads),
    el("tbody", {}, rows),
  );
  return { node, passing: shown.length, hidden };
}

/** @param {State} state @param {number} hidden */
export function hiddenNote({ hide }, hidden) {
  if (!hidden) return null;
  const words = `Hidden: ${featuresWords(hidden)} firing on more than ${percent(hide)} of tokens. `;
  return el("p", { class: "quiet" }, words, button("plain", { "data-unhide": true }, "Show"));
}

/**
 * All features of the text, the first `most` of them, and how many pass the filter.
 * @param {Reading} reading
 * @param {number} most
 */
export function featuresOfText(reading, most) {
  const { node, passing, hidden } = featureTable(
    reading,
    reading.data.features.map((feature) => [feature, feature.peak]),
    { caption: "Features on this text", where: "text", most },
  );
  const rest = passing - most;
  const more = `Show the other ${fixed(rest, 0)}`;
  const nodes = [
    node,
    rest > 0 && button("plain", { "data-all": true }, more),
    hiddenNote(reading.state, hidden),
  ];
  return { passing, nodes: nodes.filter((each) => each instanceof Node) };
}

/**
 * The strip of numbers above the text; the last is measured when it is asked for.
 * @param {Analysis} data
 */
export function totalsNodes(data) {
  const { uniformity } = data.totals;
  const ask = { "data-measure": true, "aria-label": "Measure the uniformity of effects" };
  const last = uniformity === undefined ? button("plain", ask, "Measure") : fixed(uniformity, 2);
  /** @type {[string, string, string | HTMLElement][]} */
  const stats = [...totalsOf(data), ["uniformity", "uniformity of effects", last]];
  return stats.map(([key, words, value]) =>
    el(
      "div",
      { class: "stat" },
      el("dt", {}, term(words, data.definitions[key])),
      el("dd", {}, value),
    ),
  );
}

/** @param {string} label @param {Parameters<typeof el>[2][]} content */
const panel = (label, ...content) =>
  el("section", { class: "panel", "aria-label": label }, ...content);

/** @param {"token" | "feature"} what @param {Parameters<typeof el>[2][]} content */
const heading = (what, ...content) =>
  el(
    "div",
    { class: "chosen-head" },
    el("h2", { class: "in-panel" }, ...content),
    button("close", { "data-close": what, "aria-label": `Close this ${what}` }, "×"),
  );

/**
 * What belongs to a token: how well it is predicted, what comes next, and what fires on it, which acts
 * on what comes after it; one apart from the other.
 * @param {Reading} reading
 * @param {Token} token
 * @param {HTMLElement} next what comes next
 */
export function tokenPanel(reading, token, next) {
  const title = heading("token", name(token), ` token ${token.i}`);
  return panel("Selected token", title, predicted(reading, token), next, read(reading, token));
}

/** @param {Reading} reading @param {Token} token */
function predicted({ data }, token) {
  const numbers = predictionOf(token);
  const words = numbers.length
    ? "How hard this token is to predict from those before it, in nats."
    : "Nothing is before this token to predict it from.";
  const strip = numbers.map(([key, label, value]) =>
    el("div", {}, el("dt", {}, term(label, data.definitions[key])), el("dd", {}, value)),
  );
  return el(
    "section",
    { class: "part", "aria-label": "Predicted here" },
    el(
      "div",
      { class: "part-head" },
      el("h3", {}, "Predicted here"),
      numbers.length > 0 && reproduceButton(() => lossChoices(data, token), "losses of this token"),
    ),
    el("p", { class: "quiet" }, words),
    numbers.length > 0 && el("dl", { class: "numbers" }, strip),
  );
}

/** @param {Reading} reading @param {Token} token */
function read(reading, token) {
  const { data, features, state } = reading;
  const pairs = pairsOn(token, features);
  const next = data.tokens[token.i + 1];
  const { node, hidden } = featureTable(reading, pairs, {
    caption: "Features on the selected token",
    where: "token",
  });
  const choices = () => activationChoices(data, token, pairs);
  const act = pairs.length === 1 ? "It acts" : "They act";
  const after = next ? [": ", tokenButton(next), data.tokens[token.i + 2] ? " and on." : "."] : ".";
  return el(
    "section",
    { class: "part", "aria-label": "Read here" },
    el(
      "div",
      { class: "part-head" },
      el("h3", {}, "Read here"),
      pairs.length > 0 && reproduceButton(choices, "activations on this token"),
    ),
    token.special
      ? el("p", { class: "quiet" }, "A special token: the SAE leaves it alone.")
      : el(
          "p",
          { class: "quiet" },
          `${featuresWords(pairs.length)} active on this token. `,
          pairs.length > 0 && [`${act} on what is predicted after it`, ...after],
        ),
    pairs.length > 0 && node,
    hiddenNote(state, hidden),
  );
}

/** @param {Token} token */
export function tokenButton(token) {
  const node = button("pick", { "data-token": token.i }, "");
  node.append(name(token));
  return node;
}

/**
 * A feature, and the tokens that it fires on: the first of them, or all.
 * @param {Reading} reading
 * @param {Feature} feature
 * @param {boolean} all
 */
export function featurePanel({ data }, feature, all) {
  const tokens = [...feature.tokens].sort((a, b) => b[1] - a[1]);
  const listedTokens = all ? tokens : tokens.slice(0, FEW);
  const rows = listedTokens.map(([i, activation]) => {
    const part = share(activation, feature);
    return el(
      "tr",
      {},
      el("td", { class: "token" }, tokenButton(data.tokens[i]), bar(part)),
      el("td", { class: "n" }, number(activation)),
      !data.missing && el("td", { class: "n" }, percent(part)),
    );
  });
  const often = data.missing ? "" : `${oftenWords(feature)} of all tokens, and on `;
  const rest = tokens.length - listedTokens.length;
  return panel(
    "Selected feature",
    heading(
      "feature",
      el("b", { class: "id" }, `#${feature.feature}`),
      " ",
      el("span", { dir: "auto" }, unbroken(featureName(feature))),
    ),
    links(data, feature, tokens),
    el(
      "p",
      { class: "quiet" },
      `It is active on ${often}${tokens.length} of these ${fixed(data.totals.tokens, 0)}.`,
    ),
    el(
      "table",
      {},
      el("caption", { class: "vh" }, "Tokens of the selected feature"),
      el(
        "thead",
        {},
        el("tr", {}, head("token"), head("act", "n"), !data.missing && head("of max", "n")),
      ),
      el("tbody", {}, rows),
    ),
    rest > 0 && button("plain", { "data-more": true }, `Show the other ${rest}`),
  );
}

/** @param {Analysis} data @param {Feature} feature @param {[number, number][]} tokens */
function links(data, feature, tokens) {
  const { feature: id, max_act: largest, peak } = feature;
  const inAddress = saeInAddress(sae());
  // As strong as is known to be usable, as it ever was in the index, or as it is here.
  const best = knownBand(sae(), id, "set", largest)?.best ?? 1;
  const much = largest === null ? { value: Number(peak.toPrecision(3)) } : { strength: best };
  const edits = JSON.stringify([{ feature: id, mode: "set", ...much }]);
  const short = (/** @type {string} */ text) => (text.length < LONGEST ? text : "");
  const given = data.messages
    ? { messages: short(JSON.stringify(data.messages)) }
    : { prompt: short(data.text ?? "") };
  return el(
    "p",
    { class: "links" },
    el("a", { href: address("features", { sae: inAddress, feature: id }) }, "Open its page"),
    el("a", { href: address("steer", { sae: inAddress, ...given, edits }) }, "Steer with it"),
    reproduceButton(() => featureChoices(data, feature, tokens), "activations of this feature"),
  );
}

/* What the card can be about; app/service/provenance.py has the form of the questions. */

/** @param {Analysis} data @param {string} words @param {Record<string, unknown>} asked
 * @returns {Choice} */
function choice(data, words, asked) {
  const given = data.messages ? { messages: data.messages } : { text: data.text };
  return { words, asked: { sae: data.sae, ...given, ...asked } };
}

/** Open the card of the strip's numbers. @param {Analysis} data */
export const reproduceTotals = (data) =>
  openCard(
    [
      ["l0", "features per token (L0)"],
      ["fvu", "variance unexplained (FVU)"],
      ["ce_base", "cross-entropy as it is"],
      ["ce_spliced", "cross-entropy, spliced"],
      ["delta_lm_loss", "delta LM loss"],
      ["kl_mean", "KL divergence"],
      ["uniformity", "uniformity of effects"],
    ].map(([quantity, words]) => choice(data, words, { quantity })),
  );

/** @param {Analysis} data @param {Token} token */
function lossChoices(data, { i }) {
  return [
    ["loss", "loss"],
    ["spliced_loss", "loss, spliced"],
    ["delta", "spliced loss minus loss"],
    ["kl", "KL divergence"],
  ].map(([quantity, words]) => choice(data, words, { quantity, token: i }));
}

/** @param {Analysis} data @param {Token} token @param {Pair[]} pairs */
function activationChoices(data, { i }, pairs) {
  return [...pairs].sort(ORDERS.activation).map(([row]) => {
    const words = `activation of #${row.feature} ${featureName(row)}`;
    return choice(data, words, { quantity: "activation", token: i, feature: row.feature });
  });
}

/** @param {Analysis} data @param {Feature} feature @param {[number, number][]} tokens */
function featureChoices(data, { feature }, tokens) {
  return tokens.map(([token]) => {
    const { text, bytes } = data.tokens[token];
    const words = `activation on ${quoted(text, bytes)}, token ${token}`;
    return choice(data, words, { quantity: "activation", token, feature });
  });
}
