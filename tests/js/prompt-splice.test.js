import assert from "node:assert/strict";
import { test } from "node:test";

import { switchesOf, written } from "../../app/web/js/prompt-splice.js";

const NAMES = ["first", "second"];
const SPLICED = { state: "spliced", features: [], mode: "ablate", amount: 1 };

test("SAEs that an address does not name are spliced", () => {
  const all = NAMES.map((sae) => ({ sae, ...SPLICED }));
  for (const words of ["", "[]", "[[", "7", "null", '[["third","off"]]', '[["first","on"]]']) {
    assert.deepEqual(switchesOf(words, NAMES), all, words);
  }
});

test("states go to an address and come back", () => {
  const words = '[["first","off"],["second","edited",[12,40],"scale",0.5]]';
  const switches = switchesOf(words, NAMES);
  assert.deepEqual(switches, [
    { ...SPLICED, sae: "first", state: "off" },
    { sae: "second", state: "edited", features: [12, 40], mode: "scale", amount: 0.5 },
  ]);
  assert.equal(written(switches), words);
});

test("what of an edit cannot be used is left out", () => {
  const [first] = switchesOf('[["first","edited",[3,"x",1.5],"boost","much"]]', NAMES);
  assert.deepEqual(first, { ...SPLICED, sae: "first", state: "edited", features: [3] });
});
