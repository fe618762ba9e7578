import assert from "node:assert/strict";
import { test } from "node:test";

import { answerOf, cutSays } from "../../app/web/js/export-answers.js";
import { cellOf, csvOf, jsonOf, literal, plain, rowsTable, tablesOf } from "../../app/web/js/export-tables.js";

const ANSWER = {
  total: 2,
  features: [
    { feature: 1, signature: "a, b", place: { token: 3 }, tokens: [[1, 2.5]] },
    { feature: 2, signature: 'say "no"\n', place: { token: 4 }, tokens: [] },
  ],
  groups: [
    { name: "top", contexts: [{ peak: 1, tokens: ["x"] }, { peak: 0, tokens: ["y"] }] },
    { name: "low", contexts: [] },
  ],
  histogram: { edges: [0, 1, 2], counts: [5, 6] },
  words: ["he", "she"],
  values: [0.5, null],
  sae: "first",
};

test("the tables of an answer: rows, rows within rows, histograms, lists side by side", () => {
  const tables = tablesOf(ANSWER);
  assert.deepEqual(tables.map(({ name }) => name), ["features", "groups", "groups.contexts", "words", "histogram"]);
  const [features, groups, contexts, words, histogram] = tables;
  assert.deepEqual(features.columns, ["feature", "signature", "place.token", "tokens"]);
  assert.deepEqual(features.rows[0], [1, "a, b", 3, "[[1,2.5]]"]);
  assert.deepEqual(groups.rows, [["top"], ["low"]]);
  assert.deepEqual(contexts.columns, ["groups.name", "peak", "tokens"]);
  assert.deepEqual(contexts.rows, [["top", 1, '["x"]'], ["top", 0, '["y"]']]);
  assert.deepEqual(words.rows, [["he", 0.5], ["she", null]]);
  assert.deepEqual(histogram.rows, [[0, 1, 5], [1, 2, 6]]);
  assert.deepEqual(tablesOf(null), []);
});

test("CSV quotes what would end a field, and has no word for what is missing", () => {
  const [features] = tablesOf(ANSWER);
  const csv = csvOf(features);
  assert.equal(
    csv,
    'feature,signature,place.token,tokens\r\n1,"a, b",3,"[[1,2.5]]"\r\n2,"say ""no""\n",4,[]\r\n',
  );
  assert.equal(csvOf({ name: "", columns: ["a", "b"], rows: [[null, 0]] }), "a,b\r\n,0\r\n");
  assert.deepEqual(JSON.parse(jsonOf(features))[1].signature, 'say "no"\n');
});

test("no text of a CSV is a formula, also where it is quoted; numbers and JSON stay as they are", () => {
  const texts = ['=HYPERLINK("http://a")', "+1", "-", "-2", "@SUM(A1)", "\t=1", "\r=1", "a=b", " =1", "'x"];
  const table = { name: "", columns: ["=text", "value"], rows: texts.map((text) => [text, -1.5]) };
  const first = texts.slice(0, 7).map((text) => `'${text}`);
  const quotedFirst = ['"\'=HYPERLINK(""http://a"")"', ...first.slice(1, 6), '"\'\r=1"'];
  const lines = [...quotedFirst, ...texts.slice(7)].map((text) => `${text},-1.5\r\n`);
  assert.equal(csvOf(table), ["'=text,value\r\n", ...lines].join(""));
  assert.equal(JSON.parse(jsonOf(table))[1]["=text"], "+1");
});

test("a list whose rows hold lists stays one table where one is wanted", () => {
  const whole = rowsTable("groups", ANSWER.groups);
  assert.deepEqual(whole.columns, ["name", "contexts"]);
  assert.equal(whole.rows[1][1], "[]");
});

test("a written number is a number, and a text that only looks like one stays", () => {
  const written = { "1,116": 1116, "\u22120.05": -0.05, "38 %": 0.38, "#12": 12, "+0.8": 0.8, 0: 0 };
  for (const [text, value] of Object.entries(written)) assert.equal(plain(text), value);
  for (const text of ["", "007", "1,23", "3.1 M", "1 in 40", "#a", "–"]) assert.equal(plain(text), text);
});

test("values as Python writes them", () => {
  const value = { a: [true, null, 'x"\n'], b: 1.5 };
  assert.equal(literal(value), '{"a": [True, None, "x\\"\\n"], "b": 1.5}');
});

test("a cell asks the endpoint as the page did, and pages until all rows are there", () => {
  const cell = cellOf("http://h/", { endpoint: "feature", asked: { feature: 3, sae: null } }, tablesOf(ANSWER));
  assert.ok(cell.includes('client.predict(\n    feature=3,\n    api_name="/feature",\n)'));
  assert.ok(!cell.includes("sae="));
  assert.ok(cell.includes('json_normalize(answer["groups"], "contexts", meta=["name"], meta_prefix="groups.")'));
  assert.ok(cell.endsWith("\nfeatures_table\n"));
  const paged = cellOf("http://h/", { endpoint: "search", asked: { query: "he" }, paged: "features" }, []);
  assert.ok(paged.includes("offset=len(rows),"));
});

/** An endpoint that answers with pages of 200 of so many features. @param {number} total */
const pages = (total) => async (/** @type {string} */ endpoint, /** @type {any} */ { offset = 0 }) => ({
  total,
  endpoint,
  features: Array.from({ length: Math.max(0, Math.min(200, total - offset)) }, (_, i) => ({ feature: offset + i })),
});

test("all pages are taken, and where they are too many, that they are cut is said", async () => {
  for (const [total, taken] of [[450, 450], [20_000, 20_000], [65_536, 20_000]]) {
    const shown = { endpoint: "search_features", asked: {}, answer: null, paged: "features" };
    const { features } = await answerOf(shown, pages(total));
    assert.deepEqual([features.length, features[taken - 1].feature], [taken, taken - 1]);
    const words = cutSays(shown);
    if (taken === total) assert.equal(words, "");
    else assert.match(words, /first 20,000 of 65,536\./);
  }
  const whole = { endpoint: "feature", asked: {}, answer: { total: 3, features: [] } };
  assert.equal(cutSays(whole), "");
});
