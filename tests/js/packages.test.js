import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const read = (/** @type {string} */ name) => readFileSync(new URL(name, import.meta.url), "utf8");

test("every tool has one version", () => {
  for (const [name, version] of Object.entries(JSON.parse(read("package.json")).devDependencies)) {
    assert.match(version, /^\d+\.\d+\.\d+$/, name);
  }
});

test("the lock file has hashes and names no host", () => {
  const text = read("package-lock.json");
  assert.doesNotMatch(text, /:\/\//);
  for (const [path, entry] of Object.entries(JSON.parse(text).packages)) {
    if (path) assert.match(entry.integrity, /^sha512-/, path);
  }
});
