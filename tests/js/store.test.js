import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { recall, remember } from "../../app/web/js/store.js";

/**
 * Make `get` what touching localStorage does.
 * @param {() => Partial<Storage>} get
 */
function storage(get) {
  Object.defineProperty(globalThis, "localStorage", { configurable: true, get });
}

/**
 * A storage that works, over `entries`.
 * @param {Map<string, string>} entries
 */
function working(entries) {
  return {
    getItem: (/** @type {string} */ key) => entries.get(key) ?? null,
    setItem: (/** @type {string} */ key, /** @type {string} */ value) => {
      entries.set(key, value);
    },
    removeItem: (/** @type {string} */ key) => {
      entries.delete(key);
    },
  };
}

/** @returns {never} */
function refuse() {
  throw new DOMException("The operation is insecure.", "SecurityError");
}

afterEach(() => {
  storage(() => working(new Map()));
  for (const key of ["theme", "colour"]) remember(key, null);
});

test("what is remembered is recalled, under a name of the app's own", () => {
  const entries = new Map();
  storage(() => working(entries));
  assert.equal(recall("theme"), null);
  remember("theme", "dark");
  assert.equal(recall("theme"), "dark");
  assert.deepEqual([...entries], [["jumpscope-theme", "dark"]]);
  remember("theme", null);
  assert.equal(recall("theme"), null);
  assert.equal(entries.size, 0);
});

test("without storage a choice lasts as long as the page", () => {
  storage(refuse);
  assert.equal(recall("theme"), null);
  remember("theme", "dark");
  assert.equal(recall("theme"), "dark");
  remember("theme", null);
  assert.equal(recall("theme"), null);
});

test("a full storage loses no choice, and the next that fits is stored", () => {
  const entries = new Map([["jumpscope-colour", "loss"]]);
  storage(() => ({ ...working(entries), setItem: refuse }));
  remember("colour", "effect");
  assert.equal(recall("colour"), "effect");
  storage(() => working(entries));
  assert.equal(recall("colour"), "effect");
  remember("colour", "activation");
  assert.equal(recall("colour"), "activation");
  assert.equal(entries.get("jumpscope-colour"), "activation");
});
