// What a proof's plot says and where its marks stand, without a browser.

import assert from "node:assert/strict";
import { test } from "node:test";

import { median, placeOf, runWords, scaleEnd, spread } from "../../app/web/js/proof-plot.js";
import { fileName, progressWords } from "../../app/web/js/steer-proof.js";

test("a mark stands at its share of the scale, the largest within it", () => {
  assert.equal(placeOf(0.2, 0.8), 25);
  assert.equal(placeOf(0, 0.8), 0);
  assert.equal(placeOf(2, 0.8), 100);
  assert.equal(placeOf(1, 0), 0);
});

test("marks at one place are set apart, others stay in the middle", () => {
  assert.deepEqual(spread([0, 50, 0, null, 0, 0.5]), [0, 0, 1, 0, -1, 2]);
});

test("a scale ends at a round number that no value is above", () => {
  assert.equal(scaleEnd([0.38, 0.05, null]), 0.4);
  assert.equal(scaleEnd([3.41, 2]), 3.5);
  assert.equal(scaleEnd([0.4]), 0.4);
  assert.equal(scaleEnd([7.2]), 8);
  assert.equal(scaleEnd([0, null]), 1);
  assert.equal(scaleEnd([]), 1);
});

test("the middle value, of an even number the mean of two, undefined ones left out", () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, null, 1, 2, 3]), 2.5);
  assert.equal(median([null]), null);
});

test("a run in words says its numbers and whether it passes, not by a colour", () => {
  const run = { seed: 3, share: 0.25, nll: 2.914, passed: true, edited_tokens: 40, size: 0.3, tokens: [] };
  assert.equal(runWords(run), "seed 3: fires on 25\u00a0%, 2.91 nats per token, passes");
  assert.equal(runWords({ ...run, share: null, nll: null, passed: false }), "seed 3: fires on –, – nats per token");
});

test("how far the texts are, and the file's name", () => {
  assert.equal(progressWords({ tokens: 12, of: 60, runs: 54 }), "54 texts: 12 of 60 tokens…");
  const proof = /** @type {any} */ ({ target: { edit: { feature: 542 } } });
  assert.equal(fileName(proof), "proof-542.json");
});
