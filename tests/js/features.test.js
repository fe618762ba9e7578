import assert from "node:assert/strict";
import { test } from "node:test";

import { choicesOnText, numberIn, verdict } from "../../app/web/js/features.js";

const TESTED = {
  sae: "first",
  feature: 12,
  tokens: ["<bos>", "He", " said", "", "!"],
  bytes: ["", "", "", "F0", ""],
  special: [true, false, false, false, false],
  activations: [0, 0, 4, 1, 0],
  pre_activations: [null, -1, 4, 1, 0.5],
  threshold: 0.8,
  max_act: 8,
};

test("a number is searched for with or without its sign, and words are none", () => {
  assert.equal(numberIn(" #12 "), "12");
  assert.equal(numberIn("0"), "0");
  for (const words of ["", "river", "1.5", "12 a", "-3"]) assert.equal(numberIn(words), "");
});

test("it says on how many tokens it fires and how strongly", () => {
  const { peak, words } = verdict(TESTED);
  assert.equal(peak, 2);
  assert.equal(words, "Fires on 2 tokens, at most 4.00 (50\u00a0% of its largest).");
  const once = verdict({ ...TESTED, activations: [0, 0, 4, 0, 0], max_act: null });
  assert.equal(once.words, "Fires on 1 token, at most 4.00.");
});

test("where it fires nowhere it says how close it came", () => {
  const silent = { ...TESTED, activations: [0, 0, 0], pre_activations: [null, -1, 0.5] };
  const { peak, words } = verdict(silent);
  assert.equal(peak, -1);
  assert.equal(
    words,
    "It fires nowhere here. Closest: 0.500, against a threshold of 0.800.",
  );
  // BOS alone has no pre-activation.
  assert.match(verdict({ ...silent, pre_activations: [null] }).words, /Closest: –,/);
});

test("the strongest activation is the first that can be reproduced", () => {
  const choices = choicesOnText(TESTED, "He said");
  assert.deepEqual(
    choices.map(({ words }) => words),
    ["4.00 on “ said”, token 2", "1.00 on “⟨F0⟩”, token 3"],
  );
  const common = { quantity: "activation", sae: "first", feature: 12, text: "He said" };
  assert.deepEqual(choices[0].asked, { ...common, token: 2 });
});
