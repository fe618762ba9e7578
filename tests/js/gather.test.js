// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";

import { numbersIn, toggled } from "../../app/web/js/gather.js";

test("what is kept is numbers, each once, and what is none is left out", () => {
  assert.deepEqual(numbersIn("3.1.3.x..12"), [3, 1, 12]);
  assert.deepEqual(numbersIn(""), []);
});

test("a feature that is gathered again is let go", () => {
  assert.deepEqual(toggled([3], 5), [3, 5]);
  assert.deepEqual(toggled([3, 5], 3), [5]);
});
