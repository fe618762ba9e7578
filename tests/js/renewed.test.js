// What an open page makes of another index, without a browser.

import assert from "node:assert/strict";
import { test } from "node:test";

import { change } from "../../app/web/js/renewed.js";

test("the same index is nothing to speak of, nor is none that stays none", () => {
  assert.equal(change("a@1", "a@1"), "nothing");
  assert.equal(change("a@", "a@"), "nothing");
});

test("another index of the same SAE was renewed, or has gone", () => {
  assert.equal(change("a@1", "a@2"), "renewed");
  assert.equal(change("a@", "a@2"), "renewed");
  assert.equal(change("a@1", "a@"), "gone");
});

test("the index of another SAE that was chosen is taken over in silence", () => {
  assert.equal(change("a@1", "b@2"), "adopt");
  assert.equal(change("a@1", "b@"), "adopt");
  assert.equal(change("", "a@1"), "adopt");
});

test("names may have any letters", () => {
  assert.equal(change("a@b@1", "a@b@2"), "renewed");
  assert.equal(change("a@b@1", "a@c@1"), "adopt");
});
