// @ts-check
// What is kept is kept one after another; one that fails is said and stops none of the others.

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

/** A node as far as the script looks at it. */
class Node {
  /** @param {Record<string, any>} [given] */
  constructor(given = {}) {
    this.textContent = "";
    this.dataset = /** @type {Record<string, string>} */ ({});
    /** @type {any[]} */
    this.children = [];
    Object.assign(this, given);
  }
  /** @param {...any} nodes */
  append(...nodes) {
    this.children.push(...nodes);
  }
  /** @param {...any} nodes */
  replaceChildren(...nodes) {
    this.textContent = "";
    this.children = nodes;
  }
  setAttribute() {}
}
class Input extends Node {}

const endpoints = { notes: { index: 7, parameters: ["feature", "sae", "label"] } };
Object.assign(globalThis, {
  Element: Node,
  HTMLElement: Node,
  HTMLInputElement: Input,
  HTMLSelectElement: class {},
  HTMLTextAreaElement: class {},
  document: {
    baseURI: "http://x/",
    documentElement: new Node(),
    createElement: () => new Node(),
    dispatchEvent() {},
    getElementById: () => ({ textContent: JSON.stringify(endpoints) }),
  },
});
const { keepNotes } = await import("../../app/web/js/notes.js");
const { ServerError, call } = await import("../../app/web/js/server.js");

const whole = globalThis.fetch;
afterEach(() => {
  globalThis.fetch = whole;
});

/** A stream of one message that then ends or breaks. @param {object} message @param {boolean} breaks */
function stream(message, breaks) {
  const text = new TextEncoder().encode(`data: ${JSON.stringify(message)}\n\n`);
  return new ReadableStream({
    start(controller) {
      if (breaks) return controller.error(new TypeError("network error"));
      controller.enqueue(text);
      return controller.close();
    },
  });
}

/**
 * The server: answers each question, but breaks off the streams of the first `broken`.
 * @param {number} broken
 */
function serve(broken) {
  /** @type {{label: string, keepalive: boolean}[]} */
  const joined = [];
  globalThis.fetch = /** @type {any} */ (
    async (/** @type {string} */ address, /** @type {any} */ options) => {
      if (String(address).includes("queue/join")) {
        joined.push({ label: JSON.parse(options.body).data[2], keepalive: options.keepalive });
        return { ok: true };
      }
      const output = { data: [{ label: joined.at(-1)?.label }] };
      const message = { msg: "process_completed", success: true, output };
      return { ok: true, body: stream(message, joined.length <= broken) };
    }
  );
  return joined;
}

test("a stream that breaks off is a sentence", async () => {
  serve(1);
  await assert.rejects(
    call("notes", { feature: 1 }),
    (error) => error instanceof ServerError && error.message.includes("did not answer"),
  );
});

test("only what asks for it outlives the page", async () => {
  const joined = serve(0);
  await call("notes", { feature: 1, label: "a" });
  await call("notes", { feature: 1, label: "b" }, { keepalive: true });
  assert.deepEqual(
    joined.map((each) => each.keepalive),
    [false, true],
  );
});

test("a change after one that failed is kept, and outlives the page", async () => {
  const joined = serve(1);
  const status = new Node();
  const view = new Node({ dataset: { feature: "12", sae: "" }, querySelector: () => null });
  const form = new Node({ closest: () => view, querySelector: () => status });
  const field = new Input({ name: "label", closest: () => form });
  /** @type {Record<string, (event: any) => void>} */
  const on = {};
  const main = { addEventListener: (/** @type {string} */ name, /** @type {any} */ f) => (on[name] = f) };
  keepNotes(/** @type {any} */ (main));
  const change = (/** @type {string} */ value) =>
    on.change({ target: Object.assign(field, { value }) });
  const settled = async () => {
    for (let n = 0; n < 1000 && status.textContent === "Keeping it."; n += 1) {
      await new Promise((resolve) => {
        setTimeout(resolve, 5);
      });
    }
  };
  change("lost");
  await settled();
  assert.equal(status.children.length, 1);
  change("kept");
  await settled();
  assert.equal(status.textContent, "Kept.");
  assert.deepEqual(joined, [
    { label: "lost", keepalive: true },
    { label: "kept", keepalive: true },
  ]);
});
