import assert from "node:assert/strict";
import { test } from "node:test";

import { ends } from "../../app/web/js/threshold-curves.js";
import {
  between,
  changed,
  firing,
  functionSays,
  outline,
  placeSays,
  reading,
} from "../../app/web/js/threshold-numbers.js";

/* 1,000 tokens; of the 60 above the threshold of 2, 40 lie below 3 and 20 below 4. */
const LAB = {
  sae: "first",
  feature: 12,
  threshold: 2,
  edges: [-1, 0, 1, 2, 3, 4],
  counts: [600, 200, 100, 40, 20],
  below: 40,
  above: 0,
  tokens: 1000,
  active: 60,
  mass: 40 * 2.5 + 20 * 3.5,
  places: ["unclear", "bulk", "slope", "valley", "slope", "unclear"],
  sentences: { valley: "in a valley", slope: "on a slope", bulk: "in the bulk", unclear: "unclear" },
};

test("a bin that a threshold cuts is shared out by width", () => {
  assert.deepEqual(between(LAB, 2, 3), { tokens: 40, mass: 100 });
  assert.deepEqual(between(LAB, 2.5, 3), { tokens: 20, mass: 55 });
  assert.deepEqual(between(LAB, 3.5, 9), { tokens: 10, mass: 37.5 });
  assert.deepEqual(between(LAB, 3, 3), { tokens: 0, mass: 0 });
});

test("what fires above another threshold, and with which mean", () => {
  const own = firing(LAB, 2);
  assert.equal(own.fires, 60);
  assert.equal(own.mean, 170 / 60);
  const raised = firing(LAB, 3);
  assert.deepEqual([raised.fires, raised.share, raised.mean], [20, 0.02, 3.5]);
  const lowered = firing(LAB, 1);
  assert.deepEqual([lowered.fires, lowered.mass], [160, 150]);
  assert.equal(firing(LAB, 4).fires, 0);
});

test("the sentence says what is gained and lost", () => {
  const space = "\u00a0";
  assert.equal(reading(LAB, 2), `Its own threshold, 2.00: it fires on 6.0${space}% of tokens.`);
  assert.equal(
    reading(LAB, 3),
    `Threshold 3.00: about 2.0${space}% of tokens instead of 6.0${space}%, about 40 tokens ` +
      `(59${space}% of its activation) lost.`,
  );
  assert.match(reading(LAB, 1), /instead of 6\.0\s%, about 100 tokens \(88\s% of its activation\) gained/);
});

test("each function says what it does to false positives and magnitudes", () => {
  assert.match(functionSays(LAB, 2, ""), /passes on the rest unchanged.*mean stays 2\.83/);
  const relu = functionSays(LAB, 2, "relu");
  assert.match(relu, /about 300 tokens between 0 and 2\.00 .*false positives, 5\.0 for each/);
  assert.match(relu, /about 36\s% of tokens/);
  const shifted = functionSays(LAB, 2, "shifted");
  assert.match(shifted, /smaller by 2\.00: the mean falls from 2\.83 to 0\.833 \(71\s% less\)/);
  const dead = { ...LAB, active: 0, mass: 0, counts: [600, 200, 100, 0, 0] };
  assert.match(functionSays(dead, 2, ""), /^Nothing lies above/);
  assert.match(functionSays(dead, 2, "shifted"), /^Nothing lies above/);
  assert.match(functionSays(dead, 2, "relu"), /about 300 tokens .*come in as false positives\. /);
  // What lies below the histogram may be above 0.
  const high = { ...LAB, edges: [1, 1.2, 1.5, 2, 3, 4] };
  assert.match(functionSays(high, 2, "relu"), /at least/);
});

test("a threshold lies where its nearest edge does", () => {
  assert.equal(placeSays(LAB, 2.1), "It lies in a valley.");
  assert.equal(placeSays(LAB, 0.4), "It lies in the bulk.");
});

test("contexts enter and leave", () => {
  assert.equal(changed(2.5, false, 2, 3), "leaves");
  assert.equal(changed(3.5, false, 2, 3), "");
  assert.equal(changed(1.9, true, 2, 1.5), "enters");
  assert.equal(changed(1.4, true, 2, 1.5), "");
  // A stored value is rounded and may lie at the threshold itself: it fires all the same.
  assert.equal(changed(2, false, 2, 2), "");
  assert.equal(changed(2, true, 2, 2), "");
});

test("the functions are drawn as they are", () => {
  assert.equal(outline("relu", 2, -1, 4), "M0.00 100.00L20.00 100.00L20.00 100.00L100.00 3.00");
  assert.equal(outline("", 2, -1, 4), "M0.00 100.00L60.00 100.00L60.00 51.50L100.00 3.00");
  assert.equal(outline("shifted", 2, -1, 4), "M0.00 100.00L60.00 100.00L60.00 100.00L100.00 51.50");
});

test("curves are as high as they are near the thresholds, not near 0", () => {
  assert.deepEqual(ends([0, 1, 2], [[99, 3, 2], [50, 4, -1]], 1), [-1, 4]);
  assert.deepEqual(ends([0, 1], [[0, 0]], 0), [0, 1]);
});
