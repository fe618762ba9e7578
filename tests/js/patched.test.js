// How the changes of a stream make its next answer.

import assert from "node:assert/strict";
import { test } from "node:test";

import { ServerError, patched } from "../../app/web/js/server.js";

test("what has changed is put into a copy", () => {
  const before = { done: false, base: [{ text: "a" }], note: "x", gone: 1 };
  const after = patched(before, [
    ["replace", ["done"], true],
    ["add", ["base", 1], { text: "b" }],
    ["append", ["note"], "yz"],
    ["delete", ["gone"], null],
    ["add", ["more"], 2],
  ]);
  assert.deepEqual(after, { done: true, base: [{ text: "a" }, { text: "b" }], note: "xyz", more: 2 });
  assert.deepEqual(before, { done: false, base: [{ text: "a" }], note: "x", gone: 1 });
});

test("the whole value may be another, and an item of a list go", () => {
  assert.deepEqual(patched([1, 2, 3], [["delete", [1], null]]), [1, 3]);
  assert.deepEqual(patched({ a: 1 }, [["replace", [], { b: 2 }]]), { b: 2 });
  assert.throws(() => patched({}, [["move", ["a"], 1]]), /an unknown change: move/);
});

test("an error says its sentence, its field, and whether anything answers", () => {
  const error = new ServerError("Too strong.", "edits.0.strength");
  assert.equal(error.message, "Too strong.");
  assert.equal(error.field, "edits.0.strength");
  assert.equal(error.gone, false);
  assert.equal(new ServerError("", "", { gone: true }).gone, true);
});
