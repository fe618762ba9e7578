// @ts-check
/* Two texts compared on the prompt page: which tokens are looked at, which features are ticked to be
   patched, and what has to be asked for that. All of it stands in the address. */

import { el, shows } from "./dom.js";
import { busy, missingIndex, problem } from "./frame.js";
import { fixed } from "./numbers.js";
import {
  featureTable,
  legendNodes,
  pairNodes,
  patchTable,
  predictionNodes,
  tokensOf,
} from "./prompt-compare-parts.js";
import { ServerError, call } from "./server.js";
import { oneStop } from "./steps.js";

/** @typedef {import("./prompt-compare-parts.js").Comparison} Comparison */
/** @typedef {import("./prompt-compare-parts.js").Patch} Patch */
/** @typedef {import("./prompt-compare-parts.js").Row} Row */
/** @typedef {Record<string, unknown>} Texts both texts and the SAE, as the endpoints take them */
/**
 * @typedef {object} Address
 * @property {(name: string) => string} get a value of this part of the page, "" where there is none
 * @property {(values: Record<string, string>, how?: {push?: boolean}) => void} set
 */

/* Rows of the table at first. */
const FEW = 40;

/* What can be listed: the value in the address, the words, and whether a feature belongs to it. */
/** @type {[string, string, (row: Row) => boolean][]} */
const TABS = [
  ["", "All", () => true],
  ["a", "Only A", (row) => row.fires_in === "a"],
  ["b", "Only B", (row) => row.fires_in === "b"],
  ["both", "Both", (row) => row.fires_in === "both"],
];

/** @param {HTMLElement} node */
const numberOf = (node) => Number(node.dataset.tick);

const hint = () =>
  el(
    "p",
    { class: "quiet" },
    "Tick features in the table to patch them: B takes A’s activations there, B’s own error is " +
      "kept, and the bars show where its prediction goes.",
  );

/** @param {Record<string, boolean>} attributes @param {string} words */
const plain = (attributes, words) =>
  el("button", { type: "button", class: "plain", ...attributes }, words);

/**
 * @param {HTMLElement} box where the comparison is drawn
 * @param {Address} place
 */
export function comparing(box, place) {
  /** @type {Texts} */
  let texts = {};
  /** @type {Comparison | null} */
  let data = null;
  /** @type {{of: string, answer: Patch} | null} */
  let patch = null;
  /** @type {AbortController | null} */
  let asking = null;
  let most = FEW;
  let listed = ""; // what the table was drawn for

  const parts = skeleton();
  box.replaceChildren(...parts.nodes);

  const pair = () => (/^\d+$/.test(place.get("pair")) ? Number(place.get("pair")) : null);
  const ticked = () => [...new Set(place.get("patch").match(/\d+/g) ?? [])].map(Number);
  const patchOf = () => JSON.stringify([pair(), ticked()]);

  /**
   * Ask for a comparison. A pair of the address that there is not is left out.
   * @param {Texts} given
   * @param {Parameters<typeof call>[2]} options
   * @returns {Promise<Comparison>}
   */
  async function ask(given, options) {
    const compared = () => call("compare", { ...given, token: pair(), limit: 0 }, options);
    try {
      return await compared();
    } catch (error) {
      if (!(error instanceof ServerError) || error.field !== "token") throw error;
      place.set({ pair: "" });
      return compared();
    }
  }

  /** Show an answer of `ask`. @param {Texts} given @param {Comparison} answer */
  function take(given, answer) {
    [texts, data, patch, most, listed] = [given, answer, null, FEW, ""];
    parts.missing.replaceChildren(...(answer.missing ? [missingIndex(answer.missing)] : []));
    for (const side of /** @type {const} */ (["a", "b"])) {
      parts[side].replaceChildren(...tokensOf(answer, side));
    }
    parts.legend.replaceChildren(...legendNodes(answer));
    update();
  }

  /** Show what the address says, and ask for what of it is not there yet. */
  async function update() {
    if (!data) return;
    asking?.abort();
    const mine = (asking = new AbortController());
    const options = { signal: mine.signal };
    parts.problem.replaceChildren();
    draw(data);
    try {
      if (data.token !== pair()) {
        const answer = await busy(ask(texts, options));
        if (asking !== mine) return;
        data = answer;
        draw(data);
      }
      const of = patchOf();
      if (!ticked().length || patch?.of === of) return;
      const given = { ...texts, token: pair(), features: ticked() };
      const answer = await busy(call("patch", given, options));
      if (asking !== mine) return;
      patch = { of, answer };
      draw(data);
    } catch (error) {
      if (asking !== mine) return;
      if (!(error instanceof ServerError)) throw error;
      parts.problem.replaceChildren(problem(error.message));
    }
  }

  /** @param {Comparison} shown */
  function draw(shown) {
    for (const side of /** @type {const} */ (["a", "b"])) {
      for (const node of parts[side].querySelectorAll("[data-pair]")) {
        node.setAttribute("aria-pressed", String(node.getAttribute("data-pair") === `${pair()}`));
      }
      oneStop(parts[side]);
    }
    // The rest is of the tokens that were looked at before.
    if (shown.token !== pair()) return;
    shows(box, "compare", { ...texts, token: pair(), limit: 0 }, shown);
    drawPrediction(shown);
    drawFeatures(shown);
  }

  /** @param {Comparison} shown */
  function drawPrediction(shown) {
    const last = shown.predictions.length - 1;
    const atEnd = place.get("at") === "end" || !last;
    const at = atEnd ? last : 0;
    const current = patch?.of === patchOf() && ticked().length ? patch.answer : null;
    const prediction = (current ?? shown).predictions[at];
    parts.where.hidden = !last;
    for (const radio of parts.where.querySelectorAll("input")) {
      radio.checked = (radio.value === "end") === atEnd;
    }
    const end = atEnd ? [", the end"] : [];
    parts.after.replaceChildren("After ", ...pairNodes(shown, prediction.at), ...end, ".");
    const rows = new Map(shown.features.map((row) => [row.feature, row]));
    const patched = current ? patchTable(current, at, rows) : hint();
    if (current) shows(patched, "patch", { ...texts, token: pair(), features: ticked() }, current);
    parts.bars.replaceChildren(...predictionNodes(shown, prediction), patched);
  }

  /** @param {Comparison} shown */
  function drawFeatures(shown) {
    const [only, , belongs] = TABS.find(([value]) => value === place.get("only")) ?? TABS[0];
    for (const [value, words, test] of TABS) {
      const { radio, label } = parts.tabs[value];
      radio.checked = value === only;
      label.textContent = `${words} ${fixed(shown.features.filter(test).length, 0)}`;
    }
    const everywhere = shown.token === null;
    const where = everywhere
      ? ["over all aligned tokens"]
      : ["at ", ...pairNodes(shown, shown.predictions[0].at)];
    parts.title.replaceChildren("Features ", ...where);
    parts.everywhere.hidden = everywhere;
    const key = JSON.stringify([only, shown.token, most]);
    if (key !== listed) {
      listed = key;
      const rows = shown.features.filter(belongs);
      const rest = rows.length - most;
      parts.table.replaceChildren(
        rows.length
          ? featureTable(shown, rows.slice(0, most))
          : el("p", { class: "quiet" }, "There is none."),
        ...(rest > 0 ? [plain({ "data-rest": true }, `Show the other ${fixed(rest, 0)}`)] : []),
      );
    }
    drawTicks();
  }

  const ticks = () =>
    /** @type {HTMLInputElement[]} */ ([...parts.table.querySelectorAll("[data-tick]")]);

  function drawTicks() {
    const chosen = new Set(ticked());
    for (const each of ticks()) each.checked = chosen.has(Number(each.dataset.tick));
    const many = ticks().filter((each) => each.checked).length;
    const all = parts.table.querySelector("[data-tick-all]");
    if (!(all instanceof HTMLInputElement)) return;
    all.checked = many > 0 && many === ticks().length;
    all.indeterminate = many > 0 && many < ticks().length;
  }

  /* What people do */

  /** @param {Record<string, string>} values */
  function set(values) {
    place.set(values, { push: true });
    update();
  }

  /** @param {number[]} features */
  const tick = (features) => set({ patch: features.join(",") });

  /** Where the focus goes from what is no more. @param {HTMLElement} node */
  const focusOn = (node) => node.focus({ preventScroll: true });

  /** @type {Record<string, (node: HTMLElement) => void>} */
  const CLICKS = {
    ".tokens [data-pair]": ({ dataset: { pair: chosen = "" } }) =>
      set(place.get("pair") === chosen ? { pair: "", at: "" } : { pair: chosen }),
    "table [data-pair]": ({ dataset: { pair: chosen = "" } }) => {
      set({ pair: chosen });
      focusOn(parts.title);
    },
    "[data-everywhere]": () => {
      set({ pair: "", at: "" });
      focusOn(parts.title);
    },
    "[data-untick]": ({ dataset: { untick } }) => {
      tick(ticked().filter((feature) => feature !== Number(untick)));
      focusOn(parts.head);
    },
    "[data-rest]": () => {
      most = Infinity;
      if (data) drawFeatures(data);
      ticks()[FEW]?.focus();
    },
  };
  box.addEventListener("click", ({ target }) => {
    for (const [selector, act] of Object.entries(CLICKS)) {
      const node = target instanceof Element ? target.closest(selector) : null;
      if (node instanceof HTMLElement) act(node);
    }
  });
  box.addEventListener("change", ({ target }) => {
    if (!(target instanceof HTMLInputElement)) return;
    if (target.name === "only") {
      most = FEW;
      set({ only: target.value });
    } else if (target.name === "at") {
      set({ at: target.value });
    } else {
      const here = target.dataset.tick ? [Number(target.dataset.tick)] : ticks().map(numberOf);
      const others = ticked().filter((feature) => !here.includes(feature));
      tick(target.checked ? [...others, ...here] : others);
    }
  });

  return { ask, take, update };
}

/** A choice of one of a few. @param {string} name @param {string} value @param {string} words */
function segment(name, value, words) {
  const radio = el("input", { type: "radio", name, value, autocomplete: "off" });
  const label = el("span", {}, words);
  return { radio, label, node: el("label", {}, radio, label) };
}

/** What stands there whatever is compared. */
function skeleton() {
  const tokens = (/** @type {string} */ side) =>
    el("div", {
      class: "tokens big",
      role: "group",
      "data-steps": "[role=button]",
      "aria-label": `Tokens of text ${side}; arrow keys move, Enter looks at one and its partner`,
    });
  const [a, b] = [tokens("A"), tokens("B")];
  const legend = el("p", { class: "quiet", id: "compare-legend" });
  const head = el("h2", { class: "in-panel", tabindex: "-1" }, "What comes next");
  const after = el("p", { class: "quiet" });
  const where = el(
    "fieldset",
    { class: "segments" },
    el("legend", { class: "vh" }, "Which prediction"),
    segment("at", "", "After these").node,
    segment("at", "end", "At the end").node,
  );
  const [bars, wrong, missing] = [el("div"), el("div"), el("div")];
  const title = el("h2", { id: "compared-title", tabindex: "-1" });
  const everywhere = plain({ "data-everywhere": true }, "Over all aligned tokens");
  const choices = TABS.map(([value, words]) => segment("only", value, words));
  const tabs = Object.fromEntries(TABS.map(([value], i) => [value, choices[i]]));
  const table = el("div");
  const nodes = [
    el(
      "div",
      { class: "panel texts" },
      el("h2", { class: "in-panel" }, "A"),
      a,
      el("h2", { class: "in-panel" }, "B"),
      b,
      legend,
    ),
    el(
      "section",
      { class: "panel predicted", "aria-label": "What comes next" },
      head,
      after,
      where,
      wrong,
      bars,
    ),
    el(
      "div",
      { class: "features" },
      el("div", { class: "between" }, title, everywhere),
      el(
        "fieldset",
        { class: "segments" },
        el("legend", { class: "vh" }, "Features that fire in"),
        choices.map(({ node }) => node),
      ),
      el("section", { class: "panel", "aria-labelledby": "compared-title" }, table),
      missing,
    ),
  ];
  return { nodes, a, b, legend, head, after, where, bars, problem: wrong, missing, title, everywhere, tabs, table };
}
