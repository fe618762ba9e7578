// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";

import { scale } from "../../app/web/js/ladder-charts.js";
import { restriction, restrictionOf } from "../../app/web/js/steer-settings.js";
import { sizeWords, warningsOf } from "../../app/web/js/steer-run.js";
import { strengthsOf } from "../../app/web/js/steer-ladder.js";
import { keepBand } from "../../app/web/js/bands.js";

test("strengths as written; what is no number is left to the server", () => {
  assert.deepEqual(strengthsOf(" 0.25, 1; 2  -1"), [0.25, 1, 2, -1]);
  assert.deepEqual(strengthsOf("1, much"), [1, "much"]);
  assert.deepEqual(strengthsOf(""), []);
});

test("places on a chart", () => {
  assert.equal(scale(1, 3)(2), 50);
  assert.equal(scale(0, 4)(1), 25);
  assert.equal(scale(2, 2)(2), 50);
});

test("an edit's condition and fading, in words", () => {
  assert.deepEqual(restrictionOf({ feature: 1, fade: 3, condition_sae: "" }), { fade: 3 });
  assert.equal(restriction({}), "");
  assert.equal(restriction({ condition_feature: 4, fade: 1 }), "only where #4 fires, fading over 1 new token");
  assert.equal(restriction({ condition_feature: 4, condition_above: 2.5 }), "only where #4 fires above 2.5");
});

const SIZE = { sae: "first", tokens: 4, asked: 0.4, realised: 0.4, deviation: 1e-7 };

test("how far the edits went, with what a low precision left of it", () => {
  assert.equal(sizeWords([SIZE], String, 1), "It changes the activation by 0.400 times its norm.");
  assert.match(sizeWords([{ ...SIZE, realised: 0.396, deviation: 0.02 }], String, 1), /0\.396 as the model's precision keeps it/);
  assert.match(sizeWords([SIZE, { ...SIZE, sae: "second" }], String, 2), /^Together they change the activation by 0.400 times that of first, 0\.400 times that of second/);
  assert.equal(sizeWords([{ ...SIZE, tokens: 0, asked: null }], String, 1), "");
});

test("the size of a known band is the limit in place of the usual one", () => {
  const edit = { feature: 12, mode: "set", value: 20, positions: "all", sae: "first", max_act: 20, signature: "" };
  const usual = { about: "size", sentence: "Too large." };
  const rough = { about: "dtype", sentence: "Rough." };
  /** @type {any} */
  const run = {
    edits: [edit],
    edited: [{ applied: 1, changed: 0, sentence: "Edit 1 changed no token." }],
    sizes: [SIZE],
    warnings: [usual, rough],
  };
  assert.deepEqual(warningsOf(run), ["Edit 1 changed no token.", "Too large.", "Rough."]);
  keepBand("first", 12, "set", 20, { low: 1, high: 2, best: 1, size: 0.6 });
  assert.deepEqual(warningsOf(run), ["Edit 1 changed no token.", "Rough."]);
  keepBand("first", 12, "set", 20, { low: 1, high: 2, best: 1, size: 0.3 });
  assert.match(warningsOf(run)[1], /the usable strengths end at 0\.300/);
});
