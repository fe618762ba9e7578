// @ts-check
/* The two curves over the strengths of a ladder: on how much of the text the feature fires, and how
   unlikely the text is. Lines are drawn in a stretched box of 100 x 100 units, words and dots beside
   them are HTML, so that both keep their size at any width. */

import { el } from "./dom.js";
import { number, percent } from "./numbers.js";

/**
 * @typedef {import("./steer-ladder.js").Ladder} Ladder
 * @typedef {import("./steer-ladder.js").Rung} Rung
 */

const SVG = "http://www.w3.org/2000/svg";

/** @param {string} tag @param {Record<string, string | number>} attributes @param {Element[]} [children] */
function svg(tag, attributes, children = []) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  node.append(...children);
  return node;
}

/** Places on a scale from `low` to `high`, 0 to 100; one value alone is in the middle.
 * @param {number} low @param {number} high */
export const scale = (low, high) => (/** @type {number} */ value) =>
  high > low ? (100 * (value - low)) / (high - low) : 50;

/** Where a scale of shares ends: at one of a few, so that small ones are told apart too.
 * @param {number[]} shares */
export const shareEnd = (shares) => [0.1, 0.25, 0.5].find((end) => Math.max(...shares) <= end) ?? 1;

/** @param {[string, string]} words */
const axis = ([low, high]) => [
  el("span", { style: "bottom:0" }, low),
  el("span", { style: "bottom:100%" }, high),
];

/**
 * @param {Ladder} ladder
 * @returns {HTMLElement[]}
 */
export function drawCharts(ladder) {
  const rows = ladder.rows.filter((row) => row.strength !== null);
  const [plain] = ladder.rows;
  const margin = ladder.settings.margin;
  const limit = plain.nll === null || plain.nll === undefined ? null : plain.nll + margin;
  return [
    chart(ladder, rows, {
      name: "fires",
      title: "Fires",
      kind: "fires",
      words: (row) => percent(row.fires ?? 0),
      level: percent,
      value: (row) => row.fires,
      lines: [["without edits", plain.fires]],
      low: 0,
      high: shareEnd([plain, ...rows].map((row) => row.fires ?? 0)),
    }),
    chart(ladder, rows, {
      name: "nll",
      title: "Nats per token",
      kind: "unlikely",
      words: (row) => `${number(row.nll)} nats per token`,
      level: number,
      value: (row) => row.nll,
      lines: [
        ["without edits", plain.nll],
        [`with the margin of ${number(margin)}`, limit],
      ],
    }),
  ];
}

/**
 * @param {Ladder} ladder
 * @param {Rung[]} rows
 * @param {{name: string, title: string, kind: string, words: (row: Rung) => string,
 *   level: (value: number) => string,
 *   value: (row: Rung) => number | null | undefined, lines: [string, number | null | undefined][],
 *   low?: number, high?: number}} what
 */
function chart(ladder, rows, what) {
  const drawn = rows.flatMap((row) => {
    const y = what.value(row);
    return y === null || y === undefined ? [] : [{ row, y, strength: /** @type {number} */ (row.strength) }];
  });
  const levels = what.lines.flatMap(([name, y]) => (y === null || y === undefined ? [] : [{ name, y }]));
  const all = [...drawn, ...levels].map(({ y }) => y);
  const low = what.low ?? Math.min(...all);
  const high = what.high ?? Math.max(...all);
  const up = scale(low, high);
  const along = scale(...ends(rows));
  const path = drawn.map(({ strength, y }) => `${along(strength).toFixed(2)} ${(100 - up(y)).toFixed(2)}`).join("L");
  const { band } = ladder;
  const said = drawn.map(({ row, strength }) => `${strength}: ${what.words(row)}`).join("; ");
  const times = ladder.unit.of === "max_act" ? "× max" : "times the value";
  return el(
    "figure",
    { class: `ladder-chart ${what.kind}` },
    el("figcaption", { class: "quiet" }, el("b", {}, what.title), ` ${ladder.definitions[what.name]}`),
    el(
      "div",
      { class: "frame" },
      el("div", { class: "y", "aria-hidden": "true" }, axis([what.level(low), what.level(high)])),
      el(
        "div",
        { class: "plot" },
        band ? shade(band, along, rows) : null,
        svg("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img", "aria-label": `${what.title} at ${times}: ${said}` }, [
          ...levels.map(({ y }) => svg("path", { class: "level", d: `M0 ${(100 - up(y)).toFixed(2)}H100` })),
          svg("path", { class: "line", d: path ? `M${path}` : "M0 0" }),
        ]),
        drawn.map(({ row, strength, y }) =>
          el("span", {
            class: row.usable ? "dot usable" : "dot",
            "data-tip": `${strength}: ${what.words(row)}${row.usable ? ", usable" : ""}`,
            style: `left:${along(strength).toFixed(2)}%;bottom:${up(y).toFixed(2)}%`,
          }),
        ),
      ),
      el(
        "div",
        { class: "x", "aria-hidden": "true" },
        rows.map(({ strength }) => el("span", { style: `left:${along(Number(strength)).toFixed(2)}%` }, String(strength))),
      ),
    ),
    levels.length > 0 &&
      el("p", { class: "quiet levels" }, "Dashed: ", levels.map(({ name, y }) => `${name}, ${what.level(y)}`).join("; "), "."),
  );
}

/** The lowest and the highest strength. @param {Rung[]} rows @returns {[number, number]} */
function ends(rows) {
  const strengths = rows.map((row) => Number(row.strength));
  return [Math.min(...strengths), Math.max(...strengths)];
}

/** The band, with its name. @param {import("./bands.js").Band} band @param {(strength: number) => number} along @param {Rung[]} rows */
function shade({ low, high }, along, rows) {
  const half = 50 / Math.max(1, rows.length - 1) / 2;
  const left = Math.max(0, along(low) - half);
  const right = Math.min(100, along(high) + half);
  const middle = (left + right) / 2;
  const beside = middle < 15 ? "left:0" : middle > 85 ? "right:0" : `left:${middle.toFixed(2)}%;transform:translateX(-50%)`;
  return [
    el("div", { class: "band", "aria-hidden": "true", style: `left:${left.toFixed(2)}%;width:${(right - left).toFixed(2)}%` }),
    el("span", { class: "band-name", "aria-hidden": "true", style: beside }, "usable"),
  ];
}
