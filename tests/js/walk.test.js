// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";

import { orderAround, originOf } from "../../app/web/js/walk.js";

test("an order holds each number once, and of a long one those around the feature", () => {
  assert.deepEqual(orderAround(["5", "5", "3", "5"], "3"), ["5", "3"]);
  const long = Array.from({ length: 30 }, (_, i) => String(i));
  assert.deepEqual(orderAround(long, "0", 4), ["0", "1", "2", "3"]);
  assert.deepEqual(orderAround(long, "10", 4), ["8", "9", "10", "11"]);
  assert.deepEqual(orderAround(long, "29", 4), ["26", "27", "28", "29"]);
});

test("the way back is this page's address, without where it was itself opened from", () => {
  const here = (/** @type {string} */ pathname, search = "") => originOf({ pathname, search }, "/app/");
  assert.equal(here("/app/"), "./");
  assert.equal(here("/app/", "?sae=b"), "./?sae=b");
  assert.equal(here("/app/features", "?q=a+b&page=2"), "features?q=a+b&page=2");
  assert.equal(here("/app/features", "?feature=3&from=find&at=2&walk=1.2&tour=2"), "features?feature=3");
  assert.equal(here("/app/prompt", `?sae=b&text=${"a".repeat(3000)}`), "prompt?sae=b");
});
