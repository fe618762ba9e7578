// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";

import { bandWords, keepBand, knownBand } from "../../app/web/js/bands.js";
import { remember } from "../../app/web/js/store.js";

const BAND = { low: 0.5, high: 1.25, best: 1, size: 0.4 };

test("a band is known again for the feature, what is done with it, and its largest activation", () => {
  keepBand("first", 12, "set", 20, BAND);
  assert.deepEqual(knownBand("first", 12, "set", 20), { ...BAND, largest: 20 });
  assert.equal(knownBand("first", 12, "add", 20), null);
  assert.equal(knownBand("second", 12, "set", 20), null);
  assert.equal(knownBand("first", 12, "set", 21), null, "an SAE of the same name");
  assert.equal(knownBand("first", 12, "set", null), null);
  keepBand("first", 12, "set", 20, null);
  assert.equal(knownBand("first", 12, "set", 20), null);
});

test("what something else wrote is no band", () => {
  for (const written of ["{", "[]", '{"low": 1, "largest": 20}', '{"low": "x"}']) {
    remember("band/first/12/set", written);
    assert.equal(knownBand("first", 12, "set", 20), null);
  }
});

test("a band in words", () => {
  assert.equal(bandWords(BAND), "usable from 0.5 to 1.25");
  assert.equal(bandWords({ ...BAND, high: 0.5 }), "usable at 0.5");
});
