import assert from "node:assert/strict";
import { test } from "node:test";

import { absentWords, classesOf, drawnWords } from "../../app/web/js/map.js";
import { radiusOf, stamp } from "../../app/web/js/map-plot.js";
import {
  bounded,
  decoded,
  enclosed,
  isInside,
  moved,
  nearest,
  toMap,
  toPixels,
  whole,
  zoomed,
} from "../../app/web/js/map-view.js";

const SIZE = { width: 400, height: 200 };
const places = { x: Float32Array.of(0, 0.5, 0.5, 1), y: Float32Array.of(0, 0.5, 0.6, 1) };

/** @param {number[]} actual @param {number[]} expected */
const near = (actual, expected) =>
  expected.forEach((value, i) => assert.ok(Math.abs(actual[i] - value) < 1e-9, `${actual} is not ${expected}`));

test("columns are little-endian numbers in base64", () => {
  const data = Buffer.from([1, 0, 255, 255]).toString("base64");
  assert.deepEqual([...decoded({ dtype: "<u2", data })], [1, 65535]);
  assert.deepEqual([...decoded({ dtype: "<u4", data })], [0xffff0001]);
  const half = Buffer.from(Float32Array.of(0.5).buffer).toString("base64");
  assert.deepEqual([...decoded({ dtype: "<f4", data: half })], [0.5]);
});

test("the whole map is in the middle, and y runs upwards", () => {
  const view = whole(SIZE);
  near(toPixels(view, SIZE, 0.5, 0.5), [200, 100]);
  const [, low] = toPixels(view, SIZE, 0.5, 0);
  const [, high] = toPixels(view, SIZE, 0.5, 1);
  assert.ok(high >= 0 && low <= 200 && high < low);
  near(toMap(view, SIZE, ...toPixels(view, SIZE, 0.2, 0.9)), [0.2, 0.9]);
});

test("zooming leaves what is under the pointer where it is, and has bounds", () => {
  const view = whole(SIZE);
  for (const factor of [3, 1.1, 40]) {
    const closer = zoomed(view, SIZE, factor, 170, 90);
    near(toMap(closer, SIZE, 170, 90), toMap(view, SIZE, 170, 90));
    near([closer.scale], [view.scale * factor]);
  }
  assert.equal(zoomed(view, SIZE, 1e-9, 0, 0).scale, view.scale / 2);
  assert.equal(zoomed(view, SIZE, 1e9, 0, 0).scale, view.scale * 4000);
  assert.deepEqual(bounded({ x: -3, y: 9, scale: view.scale }, SIZE), { x: 0, y: 1, scale: view.scale });
});

test("the map goes where it is dragged to", () => {
  const view = zoomed(whole(SIZE), SIZE, 4, 200, 100);
  const [left, top] = toPixels(view, SIZE, 0.5, 0.5);
  near(toPixels(moved(view, SIZE, 30, -20), SIZE, 0.5, 0.5), [left + 30, top - 20]);
});

test("the nearest point within reach", () => {
  const view = whole(SIZE);
  const [left, top] = toPixels(view, SIZE, 0.5, 0.5);
  assert.equal(nearest(places, view, SIZE, left, top - 4, 10), 1);
  assert.equal(nearest(places, view, SIZE, left, top - 15, 10), 2);
  assert.equal(nearest(places, view, SIZE, left + 50, top, 10), -1);
  assert.equal(nearest(places, view, SIZE, left, top - 4, 30, (i) => i !== 1), 2);
});

test("a lasso takes what is inside of its line and nothing else", () => {
  /** @type {[number, number][]} a C, open to the right */
  const line = [[0, 0], [10, 0], [10, 2], [3, 2], [3, 8], [10, 8], [10, 10], [0, 10]];
  assert.ok(isInside(line, 1, 5) && isInside(line, 9, 1) && isInside(line, 9, 9));
  assert.ok(!isInside(line, 6, 5) && !isInside(line, 11, 1) && !isInside(line, -1, 5));
  const view = whole(SIZE);
  const [left, top] = toPixels(view, SIZE, 0.5, 0.55);
  assert.deepEqual(enclosed(places, view, SIZE, [[left - 20, top - 20], [left + 20, top - 20], [left + 20, top + 20], [left - 20, top + 20]]), [1, 2]);
  assert.deepEqual(enclosed(places, view, SIZE, [[0, 0], [400, 200]]), []);
});

test("classes of a number have bounds, and count every feature once", () => {
  const columns = { frequency: [0, 1e-5, 0.01, 0.0999, 0.1, 1], source: [0, 0, 0, 0, 0, 0] };
  const { classOf, classes } = classesOf("frequency", columns, ["a"]);
  assert.deepEqual([...classOf], [0, 1, 5, 5, 6, 6]);
  assert.deepEqual(classes.map(({ count }) => count), [1, 1, 0, 0, 0, 2, 2, 0]);
  const scored = { ...columns, output_score: [Number.NaN, 0.009, 0.01, 0.5, 0.9, 1] };
  assert.deepEqual([...classesOf("score", scored, ["a"]).classOf], [6, 0, 1, 4, 5, 5]);
  assert.deepEqual([...classesOf("score", columns, ["a"]).classOf], [...classOf]);
});

test("sources are told apart by how many features they have; the rest is one", () => {
  const names = [..."abcdefghi"];
  const source = [8, 8, 8, 0, 0, 1, 2, 3, 4, 5, 6];
  const { classOf, classes } = classesOf("source", { frequency: [], source }, names);
  assert.deepEqual(classes.map(({ words }) => words), ["i", "a", "b", "c", "d", "e", "f", "other sources"]);
  assert.deepEqual(classes.map(({ count }) => count), [3, 2, 1, 1, 1, 1, 1, 1]);
  assert.equal(classOf[0], 0);
  assert.equal(classOf.at(-1), 7);
});

test("points are discs that grow nearer by, and shrink where there are many", () => {
  const view = whole(SIZE);
  assert.ok(radiusOf(100, view, SIZE) > radiusOf(100_000, view, SIZE));
  assert.ok(radiusOf(4096, zoomed(view, SIZE, 9, 0, 0), SIZE) > radiusOf(4096, view, SIZE));
  const { dx, dy, alpha, reach } = stamp(2);
  const middle = [...dx.keys()].find((k) => !dx[k] && !dy[k]) ?? -1;
  assert.equal(alpha[middle], 255);
  assert.ok([...dx, ...dy].every((value) => Math.abs(value) <= reach));
  const area = alpha.reduce((sum, each) => sum + each, 0) / 255;
  assert.ok(Math.abs(area - Math.PI * 4) < 1);
});

test("what is left out is said", () => {
  assert.equal(drawnWords({ total: 64, shown: 60, dead: 4 }), "60 of 64 features. 4 features never fire and are left out.");
  assert.equal(drawnWords({ total: 64, shown: 63, dead: 1 }), "63 of 64 features. 1 feature never fires and is left out.");
  assert.equal(drawnWords({ total: 90, shown: 60, dead: 0 }), "60 of 90 features. 30 that fire least are left out.");
  assert.equal(absentWords({ total: 64, shown: 60, dead: 4 }), "it never fires");
  assert.equal(absentWords({ total: 90, shown: 60, dead: 4 }), "it fires too seldom, or never");
});
