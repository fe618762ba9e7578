// @ts-check
import assert from "node:assert/strict";
import test from "node:test";

test("the card is of what a link to a feature leads to", async () => {
  class Anchor {
    /** @param {string} href */
    constructor(href) {
      this.href = href;
    }
    closest() {
      return this;
    }
  }
  const node = { setAttribute() {}, append() {} };
  Object.assign(globalThis, { HTMLAnchorElement: Anchor, document: { createElement: () => node } });
  const { glanceOf } = await import("../../app/web/js/glance.js");
  const of = (/** @type {string} */ path) => glanceOf(/** @type {any} */ (new Anchor(`http://x/app/${path}`)));
  assert.equal(of("features?feature=12"), "glance?feature=12");
  assert.equal(of("features?sae=a+b&feature=0"), "glance?sae=a+b&feature=0");
  assert.equal(of("features?feature=random"), "");
  assert.equal(of("features?q=12"), "");
  assert.equal(of("steer?feature=12"), "");
});
