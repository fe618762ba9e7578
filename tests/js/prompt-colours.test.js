import assert from "node:assert/strict";
import { test } from "node:test";

import { messagesProblem } from "../../app/web/js/given.js";
import {
  colours,
  featuresWords,
  listed,
  oftenWords,
  pairsOn,
  predictionOf,
  share,
  totalsOf,
} from "../../app/web/js/prompt-colours.js";

/** @typedef {import("../../app/web/js/prompt-colours.js").Feature} Feature */
/** @typedef {import("../../app/web/js/prompt-colours.js").State} State */
/** @typedef {import("../../app/web/js/prompt-colours.js").Token} Token */

/** @param {number} number @param {Partial<Feature>} [more] @returns {Feature} */
const feature = (number, more = {}) => ({
  feature: number,
  signature: `signature ${number}`,
  frequency: 0.01 * number,
  max_act: 10,
  peak: 5,
  peak_token: 1,
  tokens: [[1, 5]],
  ...more,
});

/** @param {number} i @param {[number, number][]} active @param {Partial<Token>} [more]
 * @returns {Token} */
const token = (i, active, more = {}) => ({
  i,
  id: i,
  text: `t${i}`,
  special: false,
  loss: 2,
  spliced_loss: 2.25,
  delta: 0.25,
  kl: 0.0625,
  active: active.length,
  active_features: active,
  ...more,
});

const FIRST = { special: true, loss: null, spliced_loss: null, delta: null, kl: null };
const ROWS = [feature(1), feature(3, { tokens: [[1, 8], [2, 2]], peak: 8 }), feature(2)];
const FEATURES = new Map(ROWS.map((row) => [row.feature, row]));
const DATA = {
  sae: "first",
  tokens: [
    token(0, [], FIRST),
    token(1, [[3, 8], [1, 5]]),
    token(2, [[3, 2]], { loss: 3, spliced_loss: 1.5, delta: -1.5 }),
  ],
  totals: { tokens: 2, l0: 1.5, fvu: 0.125, ce_base: 2.5, ce_spliced: 1.875, delta_lm_loss: -0.625, kl: null },
  definitions: {},
  missing: null,
  features: ROWS,
};

/** @type {State} */
const STATE = {
  text: "t",
  messages: null,
  other: null,
  parts: {},
  view: "cost",
  token: null, peak: false,
  feature: null,
  last: "token",
  sort: "activation",
  hide: 1,
};

/** @param {Partial<State>} state */
const seen = (state) => {
  const view = colours(DATA, FEATURES, { ...STATE, ...state });
  return { ...view, words: DATA.tokens.map(view.words) };
};

test("a share is of the largest activation in the index, or else on this text", () => {
  assert.equal(share(5, feature(1)), 0.5);
  assert.equal(share(5, feature(1, { max_act: 0 })), 1);
  assert.equal(share(4, feature(1, { max_act: null, peak: 8 })), 0.5);
});

test("orders: by activation, by share of the maximum, by rarity", () => {
  /** @type {[Feature, number][]} */
  const pairs = [
    [feature(2, { max_act: 4 }), 3],
    [feature(1, { max_act: 100 }), 9],
    [feature(3, { max_act: 10 }), 6],
  ];
  const order = (/** @type {State["sort"]} */ sort) =>
    listed(pairs, { sort, hide: 1 }).shown.map(([{ feature: number }]) => number);
  assert.deepEqual(order("activation"), [1, 3, 2]);
  assert.deepEqual(order("share"), [2, 3, 1]);
  assert.deepEqual(order("frequency"), [1, 2, 3]);
});

test("frequent features are hidden and counted; the limit itself is shown", () => {
  const pairs = ROWS.map((row) => /** @type {[Feature, number]} */ ([row, row.peak]));
  const { shown, hidden } = listed(pairs, { sort: "frequency", hide: 0.02 });
  assert.deepEqual(shown.map(([row]) => row.feature), [1, 2]);
  assert.equal(hidden, 1);
  assert.equal(listed(pairs, { sort: "activation", hide: 1 }).hidden, 0);
});

test("features on a token are joined with their rows, in the answer's order", () => {
  const pairs = pairsOn(DATA.tokens[1], FEATURES);
  assert.deepEqual(pairs, [
    [ROWS[1], 8],
    [ROWS[0], 5],
  ]);
});

test("cost: red up, blue down, full at the largest of at least half a nat", () => {
  const { kind, values, words } = seen({ view: "cost" });
  assert.equal(kind, "cost");
  assert.deepEqual(values, [0, 0.25 / 1.5, -1]);
  assert.deepEqual(words, [
    "first token, nothing predicts it",
    "predicted: +0.25 nats (2.00 → 2.25)",
    "predicted: −1.50 nats (3.00 → 1.50)",
  ]);
  const weak = { ...DATA, tokens: [token(0, [], { delta: 0.05 })] };
  assert.deepEqual(colours(weak, FEATURES, STATE).values, [0.1]);
  const strong = { ...DATA, tokens: [token(0, [], { delta: 9 })] };
  assert.deepEqual(colours(strong, FEATURES, STATE).values, [1]);
});

test("features active: counted as far as they are shown", () => {
  assert.deepEqual(seen({ view: "active" }).values, [0, 1, 0.5]);
  const { values, words, legend } = seen({ view: "active", hide: 0.02 });
  assert.deepEqual(values, [0, 1, 0]);
  assert.deepEqual(words, ["special token, left alone", "1 feature active", "0 features active"]);
  assert.match(String(legend[0]), /^Read here: .*frequent ones left out; at most 1\.$/);
});

test("one feature: its activations; before one is chosen the counts, and that one is to be", () => {
  const { kind, values, words } = seen({ view: "feature", feature: 3 });
  assert.equal(kind, "act");
  assert.deepEqual(values, [0, 0.8, 0.2]);
  assert.deepEqual(words.slice(1), ["activation 8.00", "activation 2.00"]);
  const before = seen({ view: "feature" });
  assert.deepEqual(before.values, [0, 1, 0.5]);
  assert.match(String(before.legend[0]), /^Choose a feature/);
});

test("numbers of a text and of predicting a token; what is undefined is a dash", () => {
  assert.deepEqual(
    totalsOf(DATA).map(([, , value]) => value),
    ["2", "1.50", "0.125", "−0.63", "–"],
  );
  assert.deepEqual(
    predictionOf(DATA.tokens[2]).map(([, , value]) => value),
    ["3.00", "1.50", "−1.50", "0.063"],
  );
  assert.deepEqual(predictionOf(DATA.tokens[0]), []);
  assert.equal(featuresWords(1), "1 feature");
  assert.equal(featuresWords(1200), "1,200 features");
  assert.equal(oftenWords(feature(1, { frequency: null })), "");
});

test("why a value is no conversation, in words for a person", () => {
  assert.equal(messagesProblem([{ role: "assistant", content: "a" }]), "");
  assert.equal(messagesProblem([]), "it has no turns");
  assert.equal(messagesProblem(7), "it has no turns");
  assert.equal(messagesProblem([null]), "turn 1 says neither who speaks nor what");
  const user = { role: "user", content: "a" };
  assert.equal(
    messagesProblem([user, { role: "toString", content: "a" }]),
    "turn 2 is by “toString”, which is none of system, user, model",
  );
  assert.equal(messagesProblem([{ role: "user" }]), "turn 1 has no text");
});
