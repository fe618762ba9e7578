// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";

import {
  inAddress,
  inArm,
  isTicked,
  ofAddress,
  ordered,
  toggled,
} from "../../app/web/js/effects.js";

/** @typedef {import("../../app/web/js/effects.js").Choice} Choice */
/** @typedef {import("../../app/web/js/effects.js").Effect} Effect */

/** @param {number} feature @param {Partial<Effect>} [more] @returns {Effect} */
const effect = (feature, more = {}) => ({
  position: 5,
  feature,
  activation: 1,
  kl: 0.1,
  dlogp: -0.1,
  estimate: -0.1,
  exact: true,
  changes: [0],
  becomes: null,
  signature: "",
  frequency: 0.01,
  max_act: 10,
  share: 0.1,
  lift: 2,
  ...more,
});

const ROWS = [
  effect(1, { kl: 0.5, dlogp: 0.1, estimate: 0.2, activation: 3, share: 0.9, lift: null }),
  effect(2, { kl: 0.3, dlogp: -0.4, estimate: -0.1, activation: 9, frequency: 0.4, lift: 1 }),
  effect(3, { kl: null, dlogp: null, estimate: -0.3, exact: false, share: null, lift: 8 }),
];

/** @param {ReturnType<typeof ordered>} listed */
const features = ({ rows }) => rows.map(({ feature }) => feature);

test("effects are ordered by size, and what is unknown comes last", () => {
  assert.deepEqual(features(ordered(ROWS, "kl", 1)), [1, 2, 3]);
  assert.deepEqual(features(ordered(ROWS, "change", 1)), [2, 1, 3]);
  assert.deepEqual(features(ordered(ROWS, "estimate", 1)), [3, 1, 2]);
  assert.deepEqual(features(ordered(ROWS, "activation", 1)), [2, 1, 3]);
  assert.deepEqual(features(ordered(ROWS, "share", 1)), [1, 2, 3]);
  assert.deepEqual(features(ordered(ROWS, "lift", 1)), [3, 2, 1]);
  assert.deepEqual(ROWS.map(({ feature }) => feature), [1, 2, 3], "the answer stays as it is");
});

test("features that fire often can be left out", () => {
  const listed = ordered(ROWS, "activation", 0.1);
  assert.deepEqual(features(listed), [1, 3]);
  assert.equal(listed.hidden, 1);
});

test("an arm's probabilities are the model's times what changed", () => {
  const [half, most] = inArm([{ p: 0.2 }, { p: 0.9 }], [Math.log(0.5), 3]);
  assert.ok(Math.abs(half - 0.1) < 1e-12);
  assert.equal(most, 1);
});

test("a tick comes and goes", () => {
  const once = toggled([[5, 1]], [6, 1]);
  assert.deepEqual(once, [
    [5, 1],
    [6, 1],
  ]);
  assert.ok(isTicked(once, [6, 1]));
  assert.ok(!isTicked(once, [6, 5]));
  assert.deepEqual(toggled(once, [5, 1]), [[6, 1]]);
});

test("an address holds the choice of one token, and gives it back", () => {
  /** @type {Choice} */
  const choice = {
    target: 439,
    order: "lift",
    earlier: true,
    ticks: [
      [11, 30],
      [12, 2851],
    ],
  };
  const written = inAddress(choice, 12);
  assert.deepEqual(written, { next: "12.439", by: "lift", earlier: "1", off: "12-11.30-12.2851" });
  /** @type {Map<string, string>} */
  const kept = new Map(Object.entries(written));
  const get = (/** @type {string} */ name) => kept.get(name) ?? "";
  assert.deepEqual(ofAddress(get, 12), choice);
  // Of another token the order stays, not what belongs to this one's prediction.
  assert.deepEqual(ofAddress(get, 11), { target: null, order: "lift", earlier: true, ticks: [] });
  /** @type {Choice} */
  const plain = { target: null, order: "kl", earlier: false, ticks: [] };
  assert.deepEqual(inAddress(plain, 12), { next: "", by: "", earlier: "", off: "" });
  assert.deepEqual(ofAddress(() => "", 12), plain);
});

test("what is wrong in an address is left out", () => {
  /** @type {Record<string, string>} */
  const wrong = { next: "12.x", by: "beauty", earlier: "yes", off: "12-1.2.3-7-5.6-<b>.1" };
  assert.deepEqual(ofAddress((name) => wrong[name], 12), {
    target: null,
    order: "kl",
    earlier: false,
    ticks: [[5, 6]],
  });
  wrong.by = "estimate";
  assert.equal(ofAddress((name) => wrong[name], 12).order, "kl", "only with earlier tokens");
});
