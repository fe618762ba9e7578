import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import {
  address,
  el,
  featureName,
  quoted,
  tokenNodes,
  tokenText,
  unbroken,
} from "../../app/web/js/dom.js";

/** As much of an element as dom.js uses. */
class FakeElement {
  /** @type {Map<string, string>} */
  attributes = new Map();
  /** @type {Map<string, Function>} */
  listeners = new Map();
  /** @type {(FakeElement | string)[]} */
  children = [];

  /** @param {string} tag */
  constructor(tag) {
    this.tag = tag;
  }

  /** @type {(name: string, value: string) => void} */
  setAttribute(name, value) {
    this.attributes.set(name, value);
  }

  /** @type {(name: string, listener: Function) => void} */
  addEventListener(name, listener) {
    this.listeners.set(name, listener);
  }

  /** @param {(FakeElement | string)[]} children */
  append(...children) {
    this.children.push(...children);
  }
}

before(() => {
  const createElement = (/** @type {string} */ tag) => new FakeElement(tag);
  Object.defineProperty(globalThis, "document", { configurable: true, value: { createElement } });
});

after(() => {
  Reflect.deleteProperty(globalThis, "document");
});

/**
 * @param {unknown} node
 * @returns {FakeElement}
 */
function fake(node) {
  assert.ok(node instanceof FakeElement);
  return node;
}

test("attributes: true is empty, what is missing or false is left out, zero is kept", () => {
  const attributes = { id: "a", hidden: true, title: null, lang: undefined, open: false, value: 0 };
  assert.deepEqual(Object.fromEntries(fake(el("input", attributes)).attributes), {
    id: "a",
    hidden: "",
    value: "0",
  });
});

test("functions listen to the event that their name says", () => {
  const onclick = () => {};
  const node = fake(el("button", { onclick }));
  assert.equal(node.listeners.get("click"), onclick);
  assert.equal(node.attributes.size, 0);
});

test("children: markup stays text, lists are taken apart, what is missing is left out", () => {
  const child = el("b");
  const node = fake(el("p", {}, "<i>", [child, null, "x"], undefined, false, 0));
  assert.deepEqual(node.children, ["<i>", child, "x", "0"]);
});

test("line breaks of a token are drawn and kept", () => {
  const node = fake(tokenText(el("span"), "a\r\n\n b"));
  const shown = node.children.map((child) =>
    typeof child === "string" ? child : `<${child.tag}>${child.children.join("")}`,
  );
  assert.deepEqual(shown, ["a", "<i>↵", "<br>", "<i>↵", "<br>", " b"]);
  assert.deepEqual(fake(tokenText(el("span"), "")).children, []);
});

/** What stands on the page for a token, its element in brackets.
 * @param {string} text @param {string} [bytes] */
function drawn(text, bytes) {
  const parts = tokenNodes(el("span"), text, bytes);
  return parts.map((part) => {
    if (typeof part === "string") return part;
    const inside = fake(part).children.map((child) =>
      typeof child === "string" ? child : `<${child.tag}>${child.children.join("")}`,
    );
    return `[${inside.join("")}]`;
  });
}

test("spaces around a token stand outside of its element, spaces alone inside", () => {
  assert.deepEqual(drawn("a"), ["[a]"]);
  assert.deepEqual(drawn("  a b "), ["  ", "[a b]", " "]);
  assert.deepEqual(drawn("   "), ["[   ]"]);
  assert.deepEqual(drawn("\n  b"), ["[<i>↵<br>  b]"]);
});

test("marks alone stand on a dotted circle", () => {
  assert.deepEqual(drawn(" \u0e35"), [" ", "[\u25cc\u0e35]"]);
  assert.deepEqual(drawn("e\u0301"), ["[e\u0301]"]);
});

test("a token without a character of its own is drawn by its bytes", () => {
  assert.deepEqual(drawn("", "F0 9F"), ["[<i>⟨F0 9F⟩]"]);
  assert.equal(quoted("", "F0"), "“⟨F0⟩”");
});

test("quoted text stands on one line", () => {
  assert.equal(quoted(" a\n\tb"), "“ a↵⇥b”");
});

test("an address leaves out what is empty, and escapes the rest", () => {
  const missing = { sae: "", q: null, only: undefined };
  assert.equal(address("features", { ...missing, page: 2 }), "features?page=2");
  assert.equal(address("features", { q: 'a&b="ü', n: 0 }), "features?q=a%26b%3D%22%C3%BC&n=0");
  assert.equal(address("./", { sae: "" }), "./");
  assert.equal(address("./"), "./");
});

test("no line of a signature begins with a dot", () => {
  assert.equal(unbroken("sea · ship … → sail"), "sea\u00a0· ship\u00a0… → sail");
});

test("a feature is called by its label, else by its signature", () => {
  assert.equal(featureName({ signature: "sea · ship", label: "voyages" }), "voyages");
  assert.equal(featureName({ signature: "sea · ship", label: null }), "sea · ship");
  assert.equal(featureName({ signature: "sea · ship" }), "sea · ship");
  assert.equal(featureName({ signature: null }), "");
  assert.equal(featureName(undefined), "");
});
