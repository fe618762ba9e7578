// Addresses and waiting of the frame, without a browser.

import assert from "node:assert/strict";
import { test } from "node:test";

import { parted, placeWords } from "../../app/web/js/frame.js";

test("values too long for a link are kept apart", () => {
  const [short, long] = parted({ text: "abc", long: "x".repeat(20), none: null, one: 1 }, 10);
  assert.deepEqual(short, { text: "abc", none: null, one: 1 });
  assert.deepEqual(long, { long: "x".repeat(20) });
});

test("what counts is the length in the address, where a letter may take nine characters", () => {
  const [short, long] = parted({ text: "日本" }, 17);
  assert.deepEqual(short, {});
  assert.deepEqual(long, { text: "日本" });
});

test("a place in the queue is a sentence", () => {
  assert.equal(placeWords({ rank: 0, eta: null }), "Waiting: next in the queue.");
  assert.equal(placeWords({ rank: 3, eta: 12.2 }), "Waiting: 3 before this one, about 13 s.");
  assert.equal(placeWords({ rank: 9, eta: 240 }), "Waiting: 9 before this one, about 4 min.");
});
