import assert from "node:assert/strict";
import { test } from "node:test";

import { aboutWords, placeAfter } from "../../app/web/js/lists.js";
import { relativeAddress } from "../../app/web/js/save-page.js";

test("a feature moves by one place and not out of its list", () => {
  assert.equal(placeAfter(0, -1, 3), null);
  assert.equal(placeAfter(0, 1, 3), 1);
  assert.equal(placeAfter(2, 1, 3), null);
  assert.equal(placeAfter(2, -1, 3), 1);
});

test("a conflict says what it is about", () => {
  const both = { yours: "a", theirs: "b", key: "k" };
  assert.equal(aboutWords({ what: "name", feature: null, ...both }), "The name of the list");
  assert.equal(aboutWords({ what: "label", feature: 0, ...both }), "The label of #0");
});

test("what is saved leads to the page wherever the app is served", () => {
  const values = { text: "a b&c", token: "2", sae: "" };
  assert.equal(relativeAddress("/some/proxy/prompt", values), "prompt?text=a+b%26c&token=2");
  assert.equal(relativeAddress("/steer", {}), "steer");
});
