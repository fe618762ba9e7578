// @ts-check
/* Find the strength: texts at several strengths of one edit grow side by side, with the numbers of
   what there is so far, and when they are done, two curves and the band of usable strengths stand above them. A row's button takes its
   strength over. */

import { keepBand } from "./bands.js";
import { el, shows } from "./dom.js";
import { busy, placeWords } from "./frame.js";
import { clearProblems, markProblem } from "./given.js";
import { drawCharts } from "./ladder-charts.js";
import { number, percent } from "./numbers.js";
import { call } from "./server.js";

/**
 * @typedef {{strength: number | null, value: number | null, texts: string[], tokens?: number,
 *   fires?: number | null, nll?: number | null, distinct?: number | null, size?: number | null,
 *   usable?: boolean}} Rung
 * @typedef {import("./bands.js").Band} Band
 * @typedef {{rows: Rung[], band: Band | null, sentence: string | null, done: boolean,
 *   note: string | null, edits: any[], unit: {of: string, value: number},
 *   settings: any, definitions: Record<string, string>}} Ladder
 */

/* How an address calls the numbers of the form. */
const NUMBERS = { seeds: "ladder_seeds", max_new_tokens: "ladder_tokens", margin: "ladder_margin" };
const STRENGTHS = "ladder_strengths";

/** Strengths as written: numbers where they are some. @param {string} text */
export function strengthsOf(text) {
  const parts = text.split(/[\s,;]+/).filter(Boolean);
  return parts.map((part) => (Number.isFinite(Number(part)) ? Number(part) : part));
}

/** @param {number | null | undefined} value */
const share = (value) => (value === null || value === undefined ? "–" : percent(value));

/** The numbers of a row in words. @param {Rung} row @param {Record<string, string>} definitions */
function facts(row, definitions) {
  /** @type {[string, string, string][]} */
  const all = [
    ["fires", "fires on", share(row.fires)],
    ["nll", "nats per token", number(row.nll)],
    ["distinct", "distinct", share(row.distinct)],
    ["size", "size", number(row.size)],
  ];
  const shown = row.strength === null ? all.slice(0, 3) : all;
  return el(
    "dl",
    { class: "rung-facts" },
    shown.map(([name, words, value]) => {
      const of = { type: "button", class: "term", "data-tip": definitions[name], "aria-description": definitions[name] };
      return el("div", {}, el("dt", {}, el("button", of, words)), el("dd", {}, value));
    }),
  );
}

/** @param {import("./steer.js").SteeringPage} page */
export function view(page) {
  /** @param {string} id */
  const at = (id) => /** @type {HTMLElement} */ (document.getElementById(id));
  /** @param {string} id */
  const input = (id) => /** @type {HTMLInputElement} */ (document.getElementById(id));
  const names = /** @type {(keyof typeof NUMBERS)[]} */ (Object.keys(NUMBERS));
  const usual = Object.fromEntries(names.map((name) => [name, input(`ladder-${name}`).value]));
  const strengths = input("ladder-strengths");
  const panel = at("ladder");
  let edit = 0; // the number of the edit that is varied
  /** @type {AbortController | null} */
  let running = null;
  /** @type {Ladder | null} */
  let shown = null;
  let ran = ""; // the settings of the rows on the page

  /** What the address says of this part. */
  function keep() {
    /** @type {Record<string, string>} */
    const values = { ladder: String(edit), [STRENGTHS]: strengths.value.trim() };
    for (const name of names) {
      const { value } = input(`ladder-${name}`);
      if (value !== usual[name]) values[NUMBERS[name]] = value;
    }
    page.keep(panel.hidden ? {} : values);
  }

  /** What is varied, as the server takes it. */
  function asked() {
    /** @type {Record<string, unknown>} */
    const given = { ...page.settings(), edit };
    for (const name of names) {
      const { value } = input(`ladder-${name}`);
      given[name] = value === "" ? null : Number(value);
    }
    const list = strengthsOf(strengths.value);
    if (list.length) given.strengths = list;
    return given;
  }

  /** What the rows are of: all settings but the strength that is varied. */
  function settingsOfRows() {
    const { edits, ...rest } = asked();
    const others = /** @type {any[]} */ (edits).map((each, k) =>
      k === edit ? { ...each, strength: null, value: each.strength === undefined ? "given" : null } : each,
    );
    return JSON.stringify({ ...rest, edits: others });
  }

  async function find() {
    running?.abort();
    running = new AbortController();
    const { signal } = running;
    const question = asked();
    keep();
    clearProblems(panel);
    begin();
    ran = settingsOfRows();
    status("Growing…");
    try {
      const last = await busy(
        call("ladder", question, {
          signal,
          onProgress: show,
          onQueue: (place) => status(placeWords(place)),
          onStart: () => status("Growing…"),
        }),
      );
      show(last);
      shows(at("rungs"), "ladder", question, last);
      status(last.note ?? "");
      remember(last);
    } catch (error) {
      if (running?.signal !== signal) return; // asked anew meanwhile
      if (signal.aborted) status("Stopped.");
      else complain(/** @type {import("./server.js").ServerError} */ (error));
    } finally {
      if (running?.signal === signal) {
        running = null;
        if (!shown?.done) at("ladder-charts").replaceChildren();
        at("ladder-stop").hidden = true;
        panel.setAttribute("aria-busy", "false");
      }
    }
  }

  function begin() {
    shown = null;
    at("ladder-stop").hidden = false;
    panel.setAttribute("aria-busy", "true");
    at("ladder-sentence").textContent = "";
    at("ladder-charts").replaceChildren(el("p", { class: "quiet" }, "Two curves come here when all texts are whole."));
    at("rungs").replaceChildren();
    at("ladder-hint").hidden = true;
  }

  /** @param {import("./server.js").ServerError} error */
  function complain(error) {
    status("");
    const own = document.getElementById(`ladder-${error.field}`);
    if (own) {
      markProblem(own, error.message, own.closest("label") ?? own);
      own.focus();
    } else page.complain(error);
  }

  /** @param {string} words */
  function status(words) {
    at("ladder-status").textContent = words;
  }

  /** Only what the ladder of a known largest activation found is kept. @param {Ladder} ladder */
  function remember({ edits, unit, band, settings }) {
    if (unit.of !== "max_act") return;
    const { sae, feature, mode } = edits[settings.edit];
    keepBand(sae, feature, mode, unit.value, band);
    page.edits.bandsChanged();
  }

  /** @param {Ladder} ladder */
  function show(ladder) {
    const first = shown === null;
    shown = ladder;
    if (first) at("rungs").replaceChildren(...ladder.rows.map((row) => rung(row, ladder)));
    for (const [k, row] of ladder.rows.entries()) {
      const texts = at("rungs").children[k].querySelectorAll("p");
      for (const [n, text] of row.texts.entries()) {
        const line = text.replaceAll("\n", "↵ ");
        if (texts[n].textContent !== line) texts[n].textContent = line;
      }
    }
    if (!ladder.done) {
      drawSoFar(ladder);
      return;
    }
    at("ladder-sentence").textContent = ladder.sentence;
    at("ladder-hint").hidden = false;
    for (const [k, row] of ladder.rows.entries()) {
      const item = at("rungs").children[k];
      item.classList.toggle("usable", Boolean(row.usable));
      const verdict = row.usable && el("span", { class: "verdict" }, "usable");
      // The last answer comes twice.
      item.querySelector(".outcome")?.replaceChildren(...(verdict ? [verdict] : []), facts(row, ladder.definitions));
    }
    at("ladder-charts").replaceChildren(...drawCharts(ladder));
    drawTaken();
  }

  /** The numbers of texts that still grow, where there are others than before.
   * @param {Ladder} ladder */
  function drawSoFar({ rows, definitions }) {
    for (const [k, row] of rows.entries()) {
      const outcome = /** @type {HTMLElement} */ (at("rungs").children[k].querySelector(".outcome"));
      if (row.tokens === undefined || outcome.dataset.tokens === String(row.tokens)) continue;
      outcome.dataset.tokens = String(row.tokens);
      outcome.replaceChildren(el("span", { class: "quiet" }, "so far"), facts(row, definitions));
    }
  }

  /** A row, whose numbers come later. @param {Rung} row @param {Ladder} ladder */
  function rung(row, { unit }) {
    const { strength, value } = row;
    const times = unit.of === "max_act" ? `${strength} × max` : number(value);
    const name =
      strength === null
        ? el("b", {}, "without edits")
        : el("button", { type: "button", "data-strength": strength, "aria-pressed": "false", "aria-label": `Take ${times}` }, times);
    return el(
      "li",
      { class: strength === null ? "rung plain-text" : "rung" },
      el("div", { class: "between" }, name, el("div", { class: "outcome" })),
      row.texts.map(() => el("p", { dir: "auto" })),
    );
  }

  /** Which row's strength the edit has, and whether the rows are of other settings. */
  function drawTaken() {
    const stale = shown?.done && !running && settingsOfRows() !== ran;
    at("ladder-hint").textContent = stale
      ? "These rows are of other settings than the form's: Find makes them anew."
      : "A row's button takes its strength over into the edit.";
    const own = page.settings().edits?.[edit];
    for (const button of panel.querySelectorAll("[data-strength]")) {
      const row = shown?.rows.find((each) => String(each.strength) === button.getAttribute("data-strength"));
      const taken = row && (own?.value ?? null) === null ? own?.strength === row.strength : own?.value === row?.value;
      button.setAttribute("aria-pressed", String(Boolean(taken)));
    }
  }

  at("rungs").addEventListener("click", (event) => {
    const target = /** @type {Element} */ (event.target);
    if (target.closest(".term") || getSelection()?.toString()) return;
    const written = target.closest(".rung")?.querySelector("[data-strength]")?.getAttribute("data-strength");
    const row = shown?.rows.find((each) => each.strength !== null && String(each.strength) === written);
    if (!row || row.strength === null || row.value === null) return;
    const much = shown?.unit.of === "max_act" ? { strength: row.strength } : { value: row.value };
    page.edits.adopt(edit, much);
    drawTaken();
    at("prove").dataset.prove = String(edit);
    at("proving").dataset.taken = "true";
    at("proving").hidden = false;
    status(`The edit has ${number(row.strength)} × max now: Generate runs it, Prove it tries it against controls.`);
  });
  at("ladder-form").addEventListener("submit", (event) => {
    event.preventDefault();
    find();
  });
  at("ladder-form").addEventListener("input", () => {
    keep();
    drawTaken();
  });
  at("ladder-stop").addEventListener("click", () => running?.abort());
  at("ladder-close").addEventListener("click", () => {
    close();
    keep();
  });

  function close() {
    running?.abort();
    panel.hidden = true;
    at("prove").dataset.prove = "0";
  }

  return {
    /** Look for the strength of an edit, with what the address says of this part.
     * @param {number} place @param {Record<string, string>} [query] */
    open(place, query) {
      edit = place;
      if (query) {
        for (const name of names) input(`ladder-${name}`).value = query[NUMBERS[name]] ?? usual[name];
        strengths.value = query[STRENGTHS] ?? "";
      }
      const own = page.settings().edits?.[edit];
      at("ladder-title").textContent = `Find the strength of #${own?.feature}`;
      panel.hidden = false;
      panel.scrollIntoView({ block: "nearest" });
      return find();
    },
    close,
    /** The form is another one. */
    changed: drawTaken,
  };
}
