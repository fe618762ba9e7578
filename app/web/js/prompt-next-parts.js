// @ts-check
/* The pieces of "What comes next": bars, features by their effect, what is ticked, the sentences. */

import { reproduceButton } from "./card.js";
import { el, featureName, quoted, unbroken } from "./dom.js";
import { isTicked, ordered } from "./effects.js";
import { nextBars } from "./next-bars.js";
import { fixed, number, percent, signed } from "./numbers.js";
import { bar, button, head, hiddenNote, name, term, tokenButton } from "./prompt-tables.js";

/** @typedef {import("./effects.js").Choice} Choice */
/** @typedef {import("./effects.js").Effect} Effect */
/** @typedef {import("./effects.js").Joint} Joint */
/** @typedef {import("./effects.js").NextToken} NextToken */
/** @typedef {import("./effects.js").Order} Order */
/** @typedef {import("./effects.js").Prediction} Prediction */
/** @typedef {import("./effects.js").Tick} Tick */
/** @typedef {import("./prompt-colours.js").Token} Token */
/** @typedef {import("./prompt-tables.js").Reading} Reading */

/** @type {[Order, string][]} */
const ORDERS = [
  ["kl", "effect (KL)"],
  ["change", "change of that token"],
  ["estimate", "estimated change"],
  ["activation", "activation"],
  ["share", "share of maximum"],
  ["lift", "lift over the corpus"],
];

/** @param {Effect} effect @returns {Tick} */
export const pairOf = ({ position, feature }) => [position, feature];

/** @param {NextToken} token */
const named = ({ text, bytes }) => el("bdi", { class: "mono" }, quoted(text, bytes));

/**
 * All below the heading.
 * @param {Reading} reading
 * @param {Token} token
 * @param {Choice} choice
 * @param {Prediction} answer
 * @param {{most: number, follow: (id: number) => void}} how how many effects to list at most, and what
 * a click on a next token does
 * @returns {Node[]}
 */
export function drawn(reading, token, choice, answer, { most, follow }) {
  const { rows, hidden } = ordered(answer.effects, choice.order, reading.state.hide);
  const rest = rows.length - most;
  const more = { "data-rest": true, "data-place": "rest" };
  const nodes = [
    nextTokens(answer, follow),
    following(reading.data.tokens[token.i + 1], answer, follow),
    el("p", { class: "quiet arm" }, ""),
    controls(choice),
    choice.ticks.length > 0 && ticked(answer, choice),
    rows.length > 0 && effectTable(reading, choice, answer, rows.slice(0, most)),
    rest > 0 && button("plain", more, `Show the other ${fixed(rest, 0)}`),
    hiddenNote(reading.state, hidden),
    note(answer, token, choice),
  ];
  return /** @type {Node[]} */ (nodes.filter((each) => each instanceof Node));
}

/** The likeliest next tokens, each a button that makes the features follow it.
 * @param {Prediction} answer @param {(id: number) => void} follow */
function nextTokens({ base, target, definitions }, follow) {
  const series = [
    { name: "model", words: "the model as it is" },
    { name: "SAE", words: "the SAE spliced in" },
    { name: "without", words: "without what is pointed at" },
  ];
  const tokens = base.map(({ id, text, bytes, p, p_spliced: spliced }) => ({
    id,
    text,
    bytes,
    values: [p, spliced, null],
  }));
  const told = [definitions.p, definitions.p_spliced, ""];
  const heads = series.map(({ name: short }, i) =>
    el("span", { class: `next-key s${i}` }, el("i", { "aria-hidden": "true" }), term(short, told[i])),
  );
  const label = "Likeliest next tokens; choose one to follow it";
  return el(
    "div",
    { class: "next-tokens" },
    el("p", { class: "next-head" }, el("span"), heads),
    nextBars(tokens, series, { label, chosen: target.id, choose: follow }),
  );
}

/** The token with which the text goes on. @param {Token | undefined} next @param {Prediction} answer
 * @param {(id: number) => void} follow */
function following(next, { base }, follow) {
  if (!next || next.special) return null;
  const rank = base.findIndex(({ id }) => id === next.id);
  const words = el("p", { class: "quiet" }, "The text goes on with ", name(next));
  if (rank >= 0) {
    words.append(` (${percent(base[rank].p)}).`);
    return words;
  }
  const choose = () => follow(next.id);
  const act = { onclick: choose, type: "button", class: "plain", "data-place": "follow" };
  words.append(": ", el("button", act, "follow it"), ".");
  return words;
}

/** What the arm does to the likeliest. @param {Effect | Joint | null} arm @returns {(string | Node)[]} */
export function armWords(arm) {
  if (!arm) return ["Point at a feature below to take it away."];
  const what = "feature" in arm ? `#${arm.feature}` : `the ${arm.pairs.length} ticked`;
  if (!arm.becomes) return [`${what} is only estimated, not taken away.`];
  return [`Without ${what} the likeliest is `, named(arm.becomes), ` (${percent(arm.becomes.p)}).`];
}

/** @param {Choice} choice */
function controls({ order, earlier }) {
  const options = ORDERS.filter(([value]) => value !== "estimate" || earlier).map(
    ([value, words]) => el("option", { value, selected: value === order }, words),
  );
  const box = { type: "checkbox", checked: earlier, autocomplete: "off", "data-place": "earlier" };
  return el(
    "div",
    { class: "choices" },
    el("label", {}, "features by ", el("select", { autocomplete: "off", "data-place": "order" }, options)),
    el("label", {}, el("input", box), " earlier tokens too"),
  );
}

/** What is ticked: all at once, beside the sum of each alone. @param {Prediction} answer
 * @param {Choice} choice */
function ticked({ joint, definitions, target }, { ticks }) {
  const clear = button("plain", { "data-untick": true, "data-place": "untick" }, "Clear");
  if (ticks.length === 1) {
    return el("p", { class: "quiet" }, "1 ticked: tick another to take both away at once. ", clear);
  }
  if (!joint) return el("p", { class: "quiet" }, `${ticks.length} ticked… `, clear);
  /** @param {string} words @param {string} kl @param {number} change */
  const row = (words, kl, change) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, words),
      el("td", { class: "n" }, kl),
      el("td", { class: "n" }, signed(change)),
    );
  return el(
    "div",
    { class: "joint" },
    el("p", { class: "quiet" }, term(`${joint.pairs.length} ticked`, definitions.joint), ". ", clear),
    el(
      "table",
      {},
      el("caption", { class: "vh" }, "What the ticked features do together"),
      el("thead", {}, el("tr", {}, el("td"), head("KL", "n"), changeHead(target, definitions))),
      el(
        "tbody",
        {},
        row("all at once", fixed(joint.kl, 3), joint.dlogp),
        row("sum of each alone", fixed(joint.sum_kl, 3), joint.sum_dlogp),
        row("beyond the sum", signed(joint.beyond_kl, 3), joint.beyond_dlogp),
      ),
    ),
  );
}

/** @param {NextToken} target @param {Record<string, string>} definitions */
function changeHead(target, definitions) {
  const node = term("", definitions.effect_dlogp);
  if (node instanceof Node) node.append("change of ", named(target));
  return el("th", { scope: "col", class: "n change" }, node);
}

/** @param {Reading} reading @param {Choice} choice @param {Prediction} answer @param {Effect[]} rows */
function effectTable(reading, choice, answer, rows) {
  const { definitions, target } = answer;
  const full = Math.max(...answer.effects.map(({ kl }) => kl ?? 0)) || 1;
  const heads = [
    el("th", { scope: "col" }, el("span", { class: "vh" }, "take away together")),
    head("feature"),
    el("th", { scope: "col", class: "n" }, term("KL", definitions.effect_kl)),
    changeHead(target, definitions),
    choice.earlier &&
      el("th", { scope: "col", class: "n" }, term("estimate", definitions.effect_estimate)),
  ];
  return el(
    "table",
    { class: choice.earlier ? "effects estimated" : "effects" },
    el("caption", { class: "vh" }, "Features by their effect on what comes next"),
    el("thead", {}, el("tr", {}, heads)),
    el(
      "tbody",
      {},
      rows.map((effect) => effectRow(reading, choice, answer, effect, full)),
    ),
  );
}

/** @param {Reading} reading @param {Choice} choice @param {Prediction} answer @param {Effect} effect
 * @param {number} full the KL of a full bar */
function effectRow({ data, state }, choice, { base, definitions }, effect, full) {
  const { feature, position, kl, dlogp, estimate, exact, becomes } = effect;
  const pair = `${position}.${feature}`;
  const tick = el("input", {
    type: "checkbox",
    checked: isTicked(choice.ticks, [position, feature]),
    disabled: !exact,
    "data-tick": pair,
    "data-place": `tick${pair}`,
    "aria-label": `Take away #${feature} on token ${position}`,
    autocomplete: "off",
  });
  const chosen = state.feature === feature;
  const pick = button(
    "pick id",
    {
      "data-feature": feature,
      "data-where": `next${position}`,
      "data-place": `pick${pair}`,
      "aria-pressed": String(chosen),
      "aria-label": `#${feature} ${featureName(effect)}`,
    },
    `#${feature}`,
  );
  const other = becomes && becomes.id !== base[0].id && [" · makes ", named(becomes), " likeliest"];
  const on = choice.earlier && ["on ", tokenButton(data.tokens[position]), ` token ${position} · `];
  return el(
    "tr",
    { "data-row": pair, "aria-current": chosen && "true" },
    el("td", {}, tick),
    el(
      "td",
      {},
      pick,
      " ",
      el("span", { class: "signature-text", dir: "auto" }, unbroken(featureName(effect))),
      bar((kl ?? 0) / full),
      el("span", { class: "quiet beside" }, on || null, strength(effect), other || null),
    ),
    el("td", { class: "n" }, fixed(kl, 3)),
    el("td", { class: "n" }, signed(dlogp)),
    choice.earlier && el("td", { class: "n", "data-tip": definitions.effect_estimate }, signed(estimate)),
  );
}

/** How strongly a feature fires. @param {Effect} effect */
function strength({ activation, share, lift }) {
  const part = share === null ? "" : ` · ${percent(share)} of max`;
  return `act ${number(activation)}${part}${lift === null ? "" : ` · lift ${number(lift, 2)}`}`;
}

/** @param {Prediction} answer @param {Token} token @param {Choice} choice */
function note(answer, token, { earlier }) {
  const { definitions, uniformity, rank_correlation: rank, effects, effects_total: total } = answer;
  if (token.special && !earlier) {
    return el("p", { class: "quiet" }, "A special token keeps its activation: nothing to take away.");
  }
  const few = effects.length < total;
  return el(
    "p",
    { class: "quiet" },
    earlier && few && `The largest ${fixed(effects.length, 0)} of ${fixed(total, 0)}. `,
    earlier && [
      term("Rank correlation", definitions.rank_correlation),
      ` of estimates and measured changes: ${fixed(rank, 2)}. `,
    ],
    uniformity !== null && [
      term("Uniformity", definitions.uniformity),
      ` of this token’s effects: ${fixed(uniformity, 2)}.`,
    ],
  );
}

/** The button of the card of measured effects; null where there are none. @param {Reading} reading
 * @param {Token} token @param {Choice} choice @param {Prediction} answer */
export function reproduce({ data, state }, token, choice, answer) {
  const { target } = answer;
  const given = data.messages ? { messages: data.messages } : { text: data.text };
  const { rows } = ordered(answer.effects, choice.order, state.hide);
  const followed = quoted(target.text, target.bytes);
  /** @param {Effect} row @returns {import("./card.js").Choice[]} */
  const choices = (row) =>
    [
      ["kl", "KL"],
      ["dlogp", `change of ${followed}`],
      ["estimate", `estimated change of ${followed}`],
    ].map(([effect, words]) => ({
      words: `${words}, #${row.feature} on token ${row.position}`,
      group: `#${row.feature} ${featureName(row)}`,
      asked: {
        effect,
        sae: data.sae,
        ...given,
        token: token.i,
        position: row.position,
        feature: row.feature,
        target: target.id,
      },
    }));
  const measured = rows.filter(({ exact }) => exact);
  if (!measured.length) return null;
  return reproduceButton(() => measured.flatMap(choices), "effects on this prediction");
}
