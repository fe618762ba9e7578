// @ts-check
/* The list of edits on the steering page: one small form for each, with the feature's signature and
   the raw value of its strength beside it. Where no index knows the feature's largest activation,
   and where an edit comes with a value, the number is in the activation's own units. */

import { address, el, featureName, unbroken } from "./dom.js";
import { hasSae, sae as pageSae, saeInAddress, saes } from "./frame.js";
import { markProblem } from "./given.js";
import { number } from "./numbers.js";
import { call } from "./server.js";
import { MODES, USUAL_PLACE, featureNumber, positionsOf, restrictionOf } from "./steer-settings.js";

/**
 * @typedef {import("./steer-settings.js").Edit} Edit
 * @typedef {{feature: number, signature: string, label?: string | null, max_act: number | null, threshold: number}} Summary
 * @typedef {{i: number, text: string, special: boolean, bytes?: string}} Token
 * @typedef {ReturnType<typeof rowOf>} Row
 */

/** @type {Record<string, string>} */
const WHERE = {
  continuation: "the continuation",
  all: "all tokens",
  prompt: "the prompt",
  generated: "new tokens",
  list: "token numbers…",
};
const SUGGESTED = 8;
/* A new edit sets a feature without an index to so many times its threshold. */
const TIMES = 10;
const NO_LARGEST =
  "In the activation's own units: without an index the feature's largest activation is not known.";

/** @param {Record<string, string>} names @param {string} chosen */
const options = (names, chosen) =>
  Object.entries(names).map(([value, words]) =>
    el("option", { value, selected: value === chosen }, words),
  );

/** The fields of an edit, without anything that listens. @param {Edit} edit */
function rowOf(edit) {
  const id = `edit-${Math.random().toString(36).slice(2, 8)}`;
  const { strength, value, positions = USUAL_PLACE } = edit;
  const listed = Array.isArray(positions);
  const feature = el("input", {
    class: "feature",
    inputmode: "search",
    "aria-label": "Feature: number, or words to search for",
    value: edit.feature === undefined ? "" : `#${edit.feature}`,
    placeholder: "number or words",
    list: id,
    autocomplete: "off",
    spellcheck: "false",
  });
  const whose = el("select", { class: "whose", "aria-label": "SAE of this edit" });
  const choices = el("datalist", { id });
  const words = el("p", { class: "signature", role: "status" });
  const mode = el("select", { "aria-label": "What to do with it" }, options(MODES, edit.mode ?? "set"));
  const amount = el("input", {
    type: "number",
    step: "0.1",
    "aria-label": "Strength",
    value: strength ?? value ?? 1,
  });
  const raw = el("span", { class: "raw" });
  const where = el("select", { "aria-label": "Where" }, options(WHERE, listed ? "list" : positions));
  const list = el("input", {
    class: "list",
    "aria-label": "Token numbers, from 0",
    placeholder: "0, 1, 5",
    value: listed ? positions.join(", ") : "",
  });
  const tokens = el("div", {
    class: "tokens numbered",
    role: "group",
    "aria-label": "Tokens of the prompt; choose those to edit",
    "data-steps": "[role=button]",
  });
  const sliding = el("div", {});
  const more = el("div", { class: "more-of-edit" });
  const remove = el(
    "button",
    { type: "button", class: "close", "aria-label": "Remove this edit" },
    "×",
  );
  const node = el(
    "fieldset",
    { class: "edit" },
    el("legend", { class: "vh" }, "Edit"),
    el("div", { class: "line" }, feature, choices, remove),
    whose,
    words,
    el("div", { class: "line" }, mode, amount, raw),
    sliding,
    el("label", { class: "line" }, "on ", where),
    list,
    tokens,
    more,
  );
  return {
    id,
    sae: edit.sae || pageSae(),
    // In the activation's own units; of a new edit the feature decides.
    own: (strength === undefined || strength === null) && value !== undefined && value !== null,
    fresh: strength === undefined && value === undefined,
    fields: { feature, whose, mode, strength: amount, where, list },
    choices,
    words,
    raw,
    tokens,
    remove,
    node,
    sliding,
    more,
    // A condition and a fading, as the edit has them, and their fields.
    extra: restrictionOf(edit),
    /** @type {Record<string, HTMLElement>} */
    others: {},
    /** @type {Summary | null | undefined} */
    summary: undefined,
    /** @type {(summary: Summary | null | undefined) => void} */
    refresh: () => {},
    /** @type {Summary[]} */
    suggestions: [],
    searched: "", // what they are of
    /** @type {AbortController | null} */
    asking: null,
  };
}

/**
 * @param {HTMLElement} box holds the forms
 * @param {{most: number, add: HTMLButtonElement, changed: () => void, find: (edit: number) => void,
 *   promptTokens: () => Promise<Token[]>}} how `changed` is called after every change; `find` looks
 * for the strength of an edit; `promptTokens` gives the tokens of what stands in the prompt's fields
 */
export function editList(box, { most, add, changed, find, promptTokens }) {
  /** @type {Row[]} */
  let rows = [];
  /** "sae/feature" -> summary, or null if there is no such feature @type {Map<string, Summary | null>} */
  const summaries = new Map();

  const filled = () => rows.filter((row) => row.fields.feature.value.trim());
  /** @param {Row} row */
  const chosen = (row) => featureNumber(row.fields.feature.value);
  /** @param {Row} row @returns {Summary | null | undefined} undefined as long as it is not known */
  const summaryOf = (row) => summaries.get(`${row.sae}/${chosen(row)}`);

  /** Look up what stands in the feature's field. @param {Row} row */
  async function look(row) {
    const feature = chosen(row);
    const text = row.fields.feature.value.trim();
    row.asking?.abort();
    row.suggestions = [];
    row.searched = text;
    if (!text || (feature !== null && summaries.has(`${row.sae}/${feature}`))) return lookedUp(row);
    row.asking = new AbortController();
    const { signal } = row.asking;
    try {
      const query = feature === null ? text : `#${feature}`;
      const answer = await call("search_features", { sae: row.sae, query, limit: SUGGESTED }, { signal });
      for (const each of answer.features) summaries.set(`${row.sae}/${each.feature}`, each);
      if (feature !== null && !summaries.has(`${row.sae}/${feature}`)) summaries.set(`${row.sae}/${feature}`, null);
      if (feature === null) row.suggestions = answer.features;
      lookedUp(row);
    } catch (error) {
      if (!signal.aborted) lookedUp(row, /** @type {Error} */ (error).message);
    }
    return undefined;
  }

  /** The feature has been looked up. @param {Row} row @param {string} [error] */
  function lookedUp(row, error) {
    row.asking = null;
    row.choices.replaceChildren(
      ...row.suggestions.map((each) =>
        el("option", { value: `#${each.feature}`, label: featureName(each) }),
      ),
    );
    const before = row.own;
    begin(row);
    describe(row, error);
    if (row.own !== before) changed();
  }

  /** A new edit of a feature whose largest activation nobody knows: a value to begin with. @param {Row} row */
  function begin(row) {
    const summary = summaryOf(row);
    const { mode, strength } = row.fields;
    if (!row.fresh || !summary || summary.max_act !== null || mode.value === "scale") return;
    row.own = true;
    row.fresh = false;
    const { threshold } = summary;
    strength.value = threshold > 0 ? String(Number((TIMES * threshold).toPrecision(2))) : "";
  }

  /** The words under the number, and the strength in the activation's own units. @param {Row} row @param {string} [error] */
  function describe(row, error) {
    const { mode, strength, where, list } = row.fields;
    const summary = summaryOf(row);
    row.words.classList.toggle("bad", Boolean(error) || summary === null);
    row.words.replaceChildren(error ?? said(row, summary));
    const off = mode.value === "ablate";
    strength.hidden = off;
    row.raw.hidden = off;
    strength.step = row.own ? "any" : "0.1";
    if (row.own && summary?.max_act === null) row.raw.dataset.tip = NO_LARGEST;
    else delete row.raw.dataset.tip;
    row.summary = summary;
    row.refresh(summary);
    row.raw.textContent = unit(row, summary, Number(strength.value));
    const byNumber = where.value === "list";
    list.hidden = !byNumber;
    row.tokens.hidden = !byNumber || !row.tokens.children.length;
    if (byNumber && !row.tokens.children.length) drawTokens(row);
  }

  /** @param {Row} row @param {Summary | null | undefined} summary @returns {string | HTMLElement} */
  function said(row, summary) {
    const feature = chosen(row);
    const text = row.fields.feature.value.trim();
    if (summary === null) return `There is no feature ${feature} in this SAE.`;
    if (summary) {
      const href = address("features", { sae: saeInAddress(row.sae), feature });
      return el("a", { href }, unbroken(featureName(summary)));
    }
    if (!text || feature !== null || row.asking) return "";
    if (!row.suggestions.length) return `No feature matches “${text}”.`;
    const [best] = row.suggestions;
    return `Enter takes #${best.feature} ${featureName(best)}; the list has more.`;
  }

  /** What the number beside it means. @param {Row} row @param {Summary | null | undefined} summary @param {number} value */
  function unit(row, summary, value) {
    if (row.fields.mode.value === "scale") return "times what it is";
    if (row.own && summary && summary.threshold > 0)
      {return `in its own units; fires above ${number(summary.threshold)}`;}
    if (row.own) return "in its own units";
    if (!summary) return "× max";
    if (summary.max_act === null) return "× max, which only an index knows";
    return `× max = ${number(value * summary.max_act)}`;
  }

  /** The prompt's tokens, of which some are chosen by number. @param {Row} row */
  async function drawTokens(row) {
    const { offerPositions } = await import("./positions.js");
    await offerPositions(row.tokens, row.fields.list, { promptTokens, changed });
    row.tokens.hidden = row.fields.where.value !== "list" || !row.tokens.children.length;
  }

  /* What people do */

  /** @param {Row} row */
  function listen(row) {
    const { feature, whose, mode, strength, where, list } = row.fields;
    row.remove.addEventListener("click", () => {
      row.asking?.abort();
      rows = rows.filter((each) => each !== row);
      row.node.remove();
      limit();
      add.focus();
      changed();
    });
    const known = saes();
    if (!hasSae(row.sae)) known.push([row.sae, row.sae]); // a link's mistake, which the server names
    for (const [value, words] of known)
      {whose.append(el("option", { value, selected: value === row.sae }, words));}
    whose.hidden = known.length < 2;
    whose.addEventListener("change", () => {
      row.sae = whose.value;
      look(row);
      changed();
    });
    /** @type {ReturnType<typeof setTimeout>} */
    let timer;
    feature.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => look(row), 150);
      changed();
    });
    // Words are a search, no run: Enter takes the best match, and runs once a number stands there.
    feature.addEventListener("keydown", async (event) => {
      if (event.key !== "Enter" || chosen(row) !== null) return;
      event.preventDefault();
      clearTimeout(timer);
      const text = feature.value.trim();
      if (text && (row.searched !== text || !row.suggestions.length)) await look(row);
      const [best] = row.suggestions;
      if (!best || feature.value.trim() !== text) return; // somebody types on
      feature.value = `#${best.feature}`;
      lookedUp(row);
      changed();
      if (!strength.hidden) strength.select();
    });
    strength.addEventListener("input", () => {
      row.fresh = false;
    });
    for (const field of [mode, strength, where, list]) {
      field.addEventListener("input", () => {
        begin(row);
        describe(row);
        if (field === list) drawTokens(row);
        changed();
      });
    }
  }

  function limit() {
    add.disabled = rows.length >= most;
  }

  /** @param {Edit} edit @param {{focus?: boolean}} [how] */
  async function append(edit, { focus = false } = {}) {
    const row = rowOf(edit);
    rows.push(row);
    box.append(row.node);
    listen(row);
    describe(row);
    if (row.fields.feature.value) look(row);
    if (focus) row.fields.feature.focus();
    limit();
    const part = await import("./edit-more.js").catch(() => null); // the fields above do without
    if (!part) return;
    row.refresh = part.drawMore(row, { changed, saes: saes(), find: () => find(filled().indexOf(row)) });
    row.refresh(row.summary);
  }

  add.addEventListener("click", () => {
    append({}, { focus: true });
    changed();
  });

  return {
    /** @param {Edit[]} edits */
    set(edits) {
      for (const row of rows) row.asking?.abort();
      rows = [];
      box.replaceChildren();
      for (const edit of edits) append(edit);
      limit();
    },

    /** The edits as the server takes them; a field that makes no sense goes as written, and the
     * server's sentence says what is wrong with it. @returns {Edit[]} */
    get() {
      return filled().map((row) => {
        const { feature, mode, strength, where, list } = row.fields;
        /** @type {Edit} */
        const edit = { feature: chosen(row) ?? feature.value.trim(), mode: mode.value };
        if (edit.mode !== "ablate")
          {edit[row.own ? "value" : "strength"] = strength.value === "" ? null : Number(strength.value);}
        edit.positions = where.value === "list" ? positionsOf(list.value) : where.value;
        if (row.sae !== pageSae()) edit.sae = row.sae;
        return { ...edit, ...row.extra };
      });
    },

    /** Give an edit another strength, or another value in the activation's own units.
     * @param {number} place @param {{strength?: number, value?: number}} much */
    adopt(place, { strength, value }) {
      const row = filled()[place];
      if (!row) return;
      row.own = strength === undefined;
      row.fresh = false;
      row.fields.strength.value = String(strength ?? value);
      describe(row);
      changed();
    },

    /** What is known of the features' usable strengths has changed. */
    bandsChanged() {
      for (const row of rows) row.refresh(row.summary);
    },

    /** The prompt is another one: its tokens are drawn anew where they are asked for. */
    promptChanged() {
      for (const row of rows) if (row.fields.where.value === "list") drawTokens(row);
    },

    /**
     * Put a sentence at the field of the edit that it is about; that field, or null.
     * @param {{message: string, field: string}} refusal such as of "edits.0.strength"
     * @returns {HTMLElement | null}
     */
    complain({ message, field: about }) {
      const [name, place, part = "feature"] = about.split(".");
      const row = name === "edits" ? filled()[Number(place)] : undefined;
      if (!row) return null;
      const { feature, whose, mode, strength, where, list } = row.fields;
      /** @type {Record<string, HTMLElement>} */
      const fields = { sae: whose, mode, strength, value: strength };
      fields.positions = where.value === "list" ? list : where;
      const control = fields[part] ?? row.others[part] ?? feature;
      control.closest("details")?.setAttribute("open", "");
      if (control.hidden) return null;
      markProblem(control, message, control.closest(".line") ?? control);
      return control;
    },
  };
}
