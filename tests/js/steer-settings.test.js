// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";

import {
  editProblem,
  featureNumber,
  ideaWords,
  numbersOf,
  positionsOf,
  queryOf,
  settingsOf,
  tried,
  wish,
} from "../../app/web/js/steer-settings.js";

const USUAL = { max_new_tokens: 60, temperature: 0.8, seed: 0 };

test("an address says what is not as usual, and gives it back", () => {
  const edits = [{ feature: 3, mode: "set", strength: 0.5, positions: "all" }];
  const settings = { prompt: "The", edits, max_new_tokens: 60, temperature: 0, seed: 7 };
  const query = queryOf(settings, USUAL);
  assert.deepEqual(query, {
    prompt: "The",
    messages: "",
    edits: JSON.stringify(edits),
    tokens: "",
    temperature: "0",
    seed: "7",
  });
  const written = Object.fromEntries(Object.entries(query).filter(([, value]) => value !== ""));
  assert.deepEqual(numbersOf(written), { temperature: 0, seed: 7 });
});

test("an empty number is left to the server, a word is no number", () => {
  assert.equal(queryOf({ ...USUAL, seed: null }, USUAL).seed, "");
  assert.ok(Number.isNaN(numbersOf({ tokens: "many" }).max_new_tokens));
});

test("a feature is named by number, with # or without; words are none", () => {
  assert.equal(featureNumber(" #12 "), 12);
  assert.equal(featureNumber("12"), 12);
  for (const words of ["ship", "12 ships", "", "-3", "1.5"]) assert.equal(featureNumber(words), null);
});

test("positions: numbers as numbers, anything else as it is written", () => {
  assert.deepEqual(positionsOf("0, 3  5"), [0, 3, 5]);
  assert.deepEqual(positionsOf("1,-2,x"), [1, "-2", "x"]);
  assert.deepEqual(positionsOf("  "), []);
});

test("edits that are none get the end of a sentence", () => {
  assert.equal(editProblem([{ feature: 1 }, { feature: 2, mode: "ablate", positions: [1] }]), "");
  assert.match(editProblem(7), /no list/);
  assert.match(editProblem([null]), /edit 1 names no feature/);
  assert.match(editProblem([{ feature: 1 }, { mode: "burn" }]), /edit 2 is to “burn”/);
  assert.match(editProblem([{ feature: 1, positions: "odd" }]), /edit 1 is on “odd”/);
  // What an object has by birth is no mode.
  assert.match(editProblem([{ mode: "constructor" }]), /none of set/);
});

test("settings by hand: what is wrong is said, what is right comes back", () => {
  const right = { prompt: "a", edits: [{ feature: 1 }] };
  assert.deepEqual(settingsOf(JSON.stringify(right), () => ""), { settings: right });
  assert.equal(settingsOf("{", () => "").problem, "they are not JSON");
  assert.equal(settingsOf("[]", () => "").problem, "they hold neither a prompt nor edits");
  assert.match(settingsOf('{"edits": 1}', () => "").problem ?? "", /of the edits, they are no list/);
  assert.match(settingsOf('{"messages": 1}', () => "it has no turns").problem ?? "", /it has no turns/);
});

test("what an edit is to do, in words", () => {
  assert.equal(wish({ feature: 1, strength: 0.5 }), "#1 set to 0.5 × its largest");
  assert.equal(wish({ feature: 1, mode: "scale", strength: 2 }), "#1 scaled by 2");
  assert.equal(wish({ feature: 1, mode: "add", value: 4 }), "4 added to #1");
  assert.equal(wish({ feature: 1, mode: "ablate" }), "#1 switched off");
});

test("an idea says its text, and in a conversation its edits alone, which are tried on that", () => {
  const idea = { title: "To sea", prompt: "The old man", edits: [{ feature: 7, mode: "ablate" }] };
  const { title, given, edits } = ideaWords(idea, false);
  assert.deepEqual([title, given], ["To sea", "The old man…"]);
  assert.match(edits, /7/);
  assert.equal(ideaWords(idea, true).given, "");
  assert.equal(ideaWords({ ...idea, title: undefined }, true).title, edits);
  assert.equal(tried(idea, null), idea);
  const messages = [{ role: "user", content: "Who?" }];
  assert.deepEqual(tried(idea, messages).messages, messages);
  assert.equal(tried(idea, messages).prompt, undefined);
  const own = { ...idea, messages: [{ role: "user", content: "Where?" }] };
  assert.equal(ideaWords(own, true).given, "Where?");
  assert.equal(tried(own, messages), own);
});
