import assert from "node:assert/strict";
import { test } from "node:test";

import { shownWords, textsOf } from "../../app/web/js/find.js";
import { jaccardWords, measuredOn } from "../../app/web/js/neighbours.js";
import { oneLine } from "../../app/web/js/prompt-beside.js";

test("a box holds one text a line, and empty lines are none", () => {
  assert.deepEqual(textsOf(" one \r\n\n two\t\nthree"), ["one", "two", "three"]);
  assert.deepEqual(textsOf("\n  \n"), []);
});

test("a text of several lines becomes one", () => {
  assert.equal(oneLine("The ship↵\n  sails.\t On\n"), "The ship sails. On");
  assert.equal(oneLine("\n↵ "), "");
});

const NAMED = { feature: 5, signature: "ship" };
const ROW = {
  ...NAMED,
  auroc: 1,
  positive_mean: 2,
  negative_mean: 0,
  positive: null,
  negative: null,
};
const ANSWER = {
  sae: "first",
  features: [ROW, ROW],
  firing: 1234,
  positives: 1,
  negatives: 3,
  stand_in: false,
  chance: { sentence: "", longer: "" },
  definitions: {},
};

test("what is shown says of how many, and between which texts", () => {
  assert.equal(
    shownWords(ANSWER),
    "2 features of the 1,234 that fire anywhere, by AUROC between 1 text and 3 texts.",
  );
  assert.equal(
    shownWords({ ...ANSWER, features: [ROW], firing: 1, negatives: 40, stand_in: true }),
    "1 feature, by AUROC between 1 text and 40 passages of the check’s text.",
  );
});

test("what fires together is an estimate, of so many tokens", () => {
  const row = { ...NAMED, jaccard: 0.005, lift: 2, both: 5, either: 1000, low: 0.002, high: 0.0117 };
  const known = { sae: "first", feature: 5, other: null, definitions: {} };
  const answer = { ...known, fires: 20, tokens: 4000, together: [row] };
  assert.equal(measuredOn(answer), "It fires on 20 of 4,000 tokens of the check’s text: an estimate.");
  assert.match(measuredOn({ ...answer, together: [] }), /no other feature there\.$/);
  assert.match(measuredOn({ ...answer, fires: 0, together: [] }), /nothing fires together with it/);
  assert.equal(jaccardWords(row), "both on 5 of 1,000 tokens, 0.00 to 0.01 (95 %)");
});
