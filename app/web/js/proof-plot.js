// @ts-check
/* A proof as it stands on the page: the sentence, a row for each direction with every run as a dot on
   two scales, and the row's texts below it. A run that passes is a filled diamond, another one a
   ring: nothing hangs on a colour. */

import { address, el, featureName, tokenNodes } from "./dom.js";
import { saeInAddress } from "./frame.js";
import { number, percent } from "./numbers.js";
import { setValue } from "./steps.js";

/**
 * @typedef {{id: number, text: string, bytes?: string, act: number}} Token
 * @typedef {{seed: number, share: number | null, nll: number | null, passed: boolean,
 *   edited_tokens: number, size: number | null, tokens: Token[]}} Run
 * @typedef {{kind: string, feature: number | null, signature: string | null, label?: string | null,
 *   frequency: number | null, cosine: number | null, passed: number, low: number, high: number,
 *   runs: Run[]}} Arm
 * @typedef {{arms: Arm[], separates: boolean, sentence: string, rule: string, cost: string,
 *   controls: string, target: {sae: string, edit: {feature: number, max_act: number | null}},
 *   definitions: Record<string, string>, note: string | null}} Proof
 */

/** @type {Record<string, string>} */
const KINDS = {
  without: "without the edit",
  target: "steered",
  feature: "like frequency",
  random: "random direction",
  opposite: "wrong sign",
};

/** What the two scales show. */
const WORDS = { share: "tokens it fires on", nll: "nats per token" };
/* Marks this near to one another, in percent of a scale, are set apart up and down. */
const NEAR = 3;

/**
 * How far each mark is moved off the middle, in steps, so that none hides another.
 * @param {(number | null)[]} places
 */
export function spread(places) {
  /** @type {Map<number, number>} */
  const taken = new Map();
  return places.map((place) => {
    if (place === null) return 0;
    const bin = Math.round(place / NEAR);
    const before = taken.get(bin) ?? 0;
    taken.set(bin, before + 1);
    return before % 2 ? (before + 1) / 2 : 0 - before / 2;
  });
}

/** A value's place on a scale from 0 to `most`, in percent. @param {number} value @param {number} most */
export const placeOf = (value, most) => (most > 0 ? (100 * Math.min(value, most)) / most : 0);

/**
 * The largest value with some room, in round numbers; 1 where there is none.
 * @param {(number | null)[]} values
 */
export function scaleEnd(values) {
  const most = Math.max(0, ...values.filter((value) => value !== null).map(Number));
  if (!most) return 1;
  const unit = 10 ** Math.floor(Math.log10(most));
  const step = [0.2, 0.5, 1].map((part) => part * unit).find((each) => most / each <= 10) ?? unit;
  return Number((Math.ceil(most / step - 1e-9) * step).toPrecision(6));
}

/** One run in words. @param {Run} run */
export function runWords({ seed, share, nll, passed }) {
  return `seed ${seed}: fires on ${percent(share)}, ${number(nll)} nats per token${passed ? ", passes" : ""}`;
}

/** The middle value, null of none. @param {(number | null)[]} values */
export function median(values) {
  const sorted = values.filter((value) => value !== null).map(Number).sort((a, b) => a - b);
  if (!sorted.length) return null;
  const half = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

/** @param {string} words @param {string} definition */
const term = (words, definition) =>
  el("button", { type: "button", class: "term", "data-tip": definition, "aria-description": definition }, words);

/** @param {string} words @param {string} end */
const scaleHead = (words, end) =>
  el("span", { class: "proof-scale" }, el("span", {}, "0"), el("span", {}, words), el("span", {}, end));

/**
 * @param {Proof} proof
 * @param {{opened: Set<number>, onOpen: (arm: number, open: boolean) => void}} how
 */
export function drawProof(proof, { opened, onOpen }) {
  const runs = proof.arms.flatMap((arm) => arm.runs);
  const ends = { share: Math.min(1, scaleEnd(runs.map((run) => run.share))), nll: scaleEnd(runs.map((run) => run.nll)) };
  const mark = proof.separates ? "✓ separates" : "✗ does not separate";
  return el(
    "div",
    {},
    el(
      "p",
      { class: "proof-sentence", role: "status" },
      el("b", { class: proof.separates ? "verdict good" : "verdict" }, mark),
      ` ${proof.sentence}`,
    ),
    el("p", { class: "quiet" }, proof.rule, " ", proof.cost),
    el(
      "div",
      { class: "proof-head", "aria-hidden": "true" },
      el("span", {}, ""),
      el("span", {}, "passes (95 %)"),
      scaleHead(WORDS.share, percent(ends.share)),
      scaleHead(WORDS.nll, number(ends.nll)),
    ),
    proof.arms.map((arm, k) => armRow(proof, arm, ends, opened.has(k), (open) => onOpen(k, open))),
    el(
      "p",
      { class: "quiet proof-key" },
      "Each mark is a run: ",
      el("i", { class: "run-dot passed", "aria-hidden": "true" }),
      " passes, ",
      el("i", { class: "run-dot", "aria-hidden": "true" }),
      " does not. In brackets, a ",
      term("Wilson interval", proof.definitions.wilson),
      ". On the scales, the ",
      term("share of tokens", proof.definitions.firing_share),
      " that the target fires on and ",
      term("nats per token", proof.definitions.nll),
      ". All are ",
      term("pushed by the same norm", proof.definitions.push),
      ". Like frequency: ",
      proof.controls.replace(/^The/, "the"),
    ),
  );
}

/**
 * @param {Proof} proof @param {Arm} arm @param {{share: number, nll: number}} ends
 * @param {boolean} open @param {(open: boolean) => void} onToggle
 */
function armRow(proof, arm, ends, open, onToggle) {
  const { kind, feature, passed, low, high, runs } = arm;
  const shares = median(runs.map((run) => run.share));
  const costs = median(runs.map((run) => run.nll));
  const rate = kind === "without" ? "–" : `${passed} of ${runs.length} (${Math.round(100 * low)}–${Math.round(100 * high)} %)`;
  const name = feature === null || kind === "opposite" ? KINDS[kind] : `#${feature}`;
  const quiet = kind === "target" || kind === "feature" ? KINDS[kind] : "";
  const node = el(
    "details",
    { class: `arm ${kind}`, open },
    el(
      "summary",
      {},
      el("span", { class: "arm-name" }, el("b", {}, name), quiet && el("span", { class: "quiet" }, ` ${quiet}`)),
      el("span", { class: "rate" }, rate),
      strip(runs, "share", ends.share, percent(ends.share), `fires on ${percent(shares)}, the median run`),
      strip(runs, "nll", ends.nll, number(ends.nll), `${number(costs)} nats per token, the median run`),
    ),
  );
  // Drawn when it is opened: there are hundreds of tokens in each.
  let drawn = false;
  const draw = () => {
    if (drawn || !node.open) return;
    drawn = true;
    node.append(armTexts(proof, arm));
  };
  draw();
  node.addEventListener("toggle", () => {
    draw();
    onToggle(node.open);
  });
  return node;
}

/** @param {Run[]} runs @param {"share" | "nll"} key @param {number} most @param {string} end @param {string} words */
function strip(runs, key, most, end, words) {
  const places = runs.map((run) => (run[key] === null ? null : placeOf(Number(run[key]), most)));
  const steps = spread(places);
  const widest = Math.max(1, ...steps.map(Math.abs));
  return el(
    "span",
    { class: `strip ${key}`, role: "img", "aria-label": words, "data-scale": `${WORDS[key]}, 0 to ${end}` },
    runs.map((run, k) => {
      const place = places[k];
      if (place === null) return null;
      // Up to half of a row's height, however many there are.
      const up = steps[k] * Math.min(6, 12 / widest);
      return el("i", {
        class: run.passed ? "run-dot passed" : "run-dot",
        "data-tip": runWords(run),
        style: `left:${place.toFixed(2)}%;margin-top:${up.toFixed(1)}px`,
      });
    }),
  );
}

/** The texts of a direction, coloured by the target as the unedited model reads it.
 * @param {Proof} proof @param {Arm} arm */
function armTexts(proof, arm) {
  const { sae, edit } = proof.target;
  const all = proof.arms.flatMap((each) => each.runs.flatMap((run) => run.tokens.map((token) => token.act)));
  const scale = edit.max_act ?? Math.max(1e-9, ...all);
  const link =
    arm.feature !== null &&
    el(
      "p",
      { class: "quiet" },
      el("a", { href: address("features", { feature: arm.feature, sae: saeInAddress(sae) }) }, `#${arm.feature}`),
      ` ${featureName(arm)}`,
      arm.kind === "feature" && arm.frequency !== null && ` Fires on ${percent(arm.frequency)} of tokens.`,
    );
  const cosine = arm.cosine !== null && arm.kind !== "target" && `Cosine with the target's direction ${number(arm.cosine, 2)}.`;
  return el(
    "div",
    { class: "arm-texts" },
    link,
    cosine && el("p", { class: "quiet" }, cosine),
    el(
      "ol",
      {},
      arm.runs.map((run) => el("li", {}, el("p", { class: "quiet" }, runWords(run)), runText(run, scale, edit.feature))),
    ),
  );
}

/** @param {Run} run @param {number} scale @param {number} feature */
function runText(run, scale, feature) {
  const label = `Text of seed ${run.seed}`;
  return el(
    "div",
    { class: run.tokens[0]?.text.startsWith(" ") ? "tokens spaced" : "tokens", "data-steps": "[data-v]", tabindex: "0", role: "group", "aria-label": label, dir: "auto" },
    run.tokens.flatMap((token) => {
      const fires = token.act > 0;
      const style = fires ? `--a:${Math.min(1, token.act / scale).toFixed(3)}` : null;
      const span = el("span", { style });
      if (fires) setValue(span, `#${feature}: ${number(token.act)}`);
      return tokenNodes(span, token.text, token.bytes);
    }),
  );
}
