import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { fixed, number, oneIn } from "../../app/web/js/numbers.js";
import { format } from "./number_formats.js";

const TABLE = JSON.parse(readFileSync(new URL("../number_formats.json", import.meta.url), "utf8"));

test("every row of the shared table", () => {
  for (const [name, values, expected] of TABLE) {
    assert.equal(format(name, values), expected, `${name}(${values.join(", ")})`);
  }
});

test("what an answer of the server leaves out is a dash", () => {
  assert.equal(number(undefined), "–");
  assert.equal(fixed(undefined, 2), "–");
  assert.equal(oneIn(undefined), "–");
});
