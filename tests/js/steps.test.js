// Which token an arrow key leads to, and what a tip says, without a browser.

import assert from "node:assert/strict";
import { test } from "node:test";

import { nextStep, words } from "../../app/web/js/steps.js";

/** @param {number} left @param {number} top @param {string} name */
const at = (left, top, name) => ({ name, getClientRects: () => [{ left, top }] });

// Two lines of three, and a token whose box is on neither.
const items = [
  at(0, 0, "a"), at(40, 1, "b"), at(90, 0, "c"),
  at(0, 30, "d"), at(60, 31, "e"), at(95, 30, "f"),
];

/** @param {number} from @param {string} key */
const step = (from, key) => nextStep(items, from, key)?.name;

test("left and right go through the text, and end at its ends", () => {
  assert.equal(step(0, "ArrowRight"), "b");
  assert.equal(step(3, "ArrowLeft"), "c");
  assert.equal(step(5, "ArrowRight"), undefined);
  assert.equal(step(0, "ArrowLeft"), undefined);
});

test("the first step of any key enters at the first item, End at the last", () => {
  assert.equal(step(-1, "ArrowDown"), "a");
  assert.equal(step(-1, "ArrowLeft"), "a");
  assert.equal(step(-1, "End"), "f");
  assert.equal(step(4, "Home"), "a");
});

test("up and down go to the nearest of the next line", () => {
  assert.equal(step(1, "ArrowDown"), "e");
  assert.equal(step(2, "ArrowDown"), "f");
  assert.equal(step(4, "ArrowUp"), "b");
  assert.equal(step(0, "ArrowUp"), undefined);
  assert.equal(step(3, "ArrowDown"), undefined);
});

test("what is folded away has no box and is no line", () => {
  const folded = { name: "gone", getClientRects: () => [] };
  assert.equal(nextStep([...items, folded], 5, "ArrowDown"), undefined);
  assert.equal(nextStep([folded, ...items], 0, "ArrowDown"), undefined);
});

/** @param {Record<string, string>} attributes @param {string} text @param {string | null} before */
const token = (attributes, text, before = null) =>
  /** @type {any} */ ({
    getAttribute: (/** @type {string} */ name) => attributes[name] ?? null,
    textContent: text,
    previousSibling: before === null ? null : { nodeType: 3, nodeValue: before },
  });

test("a tip says a token and its value, the space before it included", () => {
  assert.equal(words(token({ "data-v": "3.2" }, "soul")), "“soul”  3.2");
  assert.equal(words(token({ "data-v": "3.2" }, "soul", " ")), "“ soul”  3.2");
  assert.equal(words(token({ "data-v": "3.2" }, "")), "3.2");
  assert.equal(words(token({ "data-tip": "A sentence.", "data-v": "1" }, "soul")), "A sentence.");
});
