// @ts-check
// Lists on a feature's page: what is ticked last stays, whatever the server's haste.

import assert from "node:assert/strict";
import { test } from "node:test";

class Node {
  dataset = /** @type {Record<string, string>} */ ({});
  append() {}
  setAttribute() {}
}
const endpoints = { lists: { index: 3, parameters: ["list_id", "action"] } };
Object.assign(globalThis, {
  Element: Node,
  HTMLElement: Node,
  document: {
    baseURI: "http://x/",
    documentElement: new Node(),
    createElement: () => new Node(),
    getElementById: () => ({ textContent: JSON.stringify(endpoints) }),
  },
});
const { listChosen } = await import("../../app/web/js/feature-lists.js");
const { notesSent } = await import("../../app/web/js/notes.js");

test("ticks are sent one after another, outlive the page, and whoever moves on waits for them", async () => {
  /** @type {string[]} */
  const seen = [];
  /** @type {(() => void)[]} */
  const answers = [];
  globalThis.fetch = /** @type {any} */ (
    async (/** @type {string} */ address, /** @type {any} */ options) => {
      if (String(address).includes("queue/join")) {
        const [, action] = JSON.parse(options.body).data;
        seen.push(`${action} ${options.keepalive}`);
        return { ok: true };
      }
      const message = { msg: "process_completed", success: true, output: { data: [{}] } };
      const text = new TextEncoder().encode(`data: ${JSON.stringify(message)}\n\n`);
      const body = new ReadableStream({
        start(controller) {
          answers.push(() => {
            seen.push("answered");
            controller.enqueue(text);
            controller.close();
          });
        },
      });
      return { ok: true, body };
    }
  );
  const answered = async () => {
    while (!answers.length) {
      await new Promise((resolve) => {
        setTimeout(resolve, 1);
      });
    }
    answers.pop()?.();
  };
  const box = { checked: true, dataset: { inList: "a" }, closest: () => null };
  void listChosen(/** @type {any} */ (box));
  box.checked = false;
  void listChosen(/** @type {any} */ (box));
  const moved = notesSent().then(() => seen.push("moved on"));
  await answered();
  await answered();
  await moved;
  assert.deepEqual(seen, ["add true", "answered", "take true", "answered", "moved on"]);
  assert.equal(box.checked, false);
});
