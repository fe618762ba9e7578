// @ts-check
/* What an edit on the steering page has beside its feature, mode and strength: the slider with the
   usable strengths painted on it, the tokens that its places come to, its condition and fading. */

import { bandWords, knownBand } from "./bands.js";
import { el } from "./dom.js";
import { featureNumber, restriction } from "./steer-settings.js";

/**
 * @typedef {import("./edits.js").Row} Row
 * @typedef {import("./edits.js").Summary} Summary
 */

const LARGEST = 2; // of the slider; the number beside it takes more

/** What each place comes to. @type {Record<string, string>} */
const TOKENS = {
  continuation: "The prompt's last token, which predicts the first new one, and every new token.",
  all: "Every token of the prompt and every new one; special ones, as BOS, are left alone.",
  prompt: "The prompt's tokens, but special ones; no new token.",
  generated: "Every new token. The first of them is predicted before any edit, and so never steered.",
  list: "These tokens, counted from 0, which is BOS; special ones are left alone.",
};

/**
 * Draw it into an edit's form.
 * @param {Row} row
 * @param {{changed: () => void, saes: [string, string][], find: (row: Row) => void}} how
 * @returns {(summary: Summary | null | undefined) => void} draws what depends on other fields anew
 */
export function drawMore(row, { changed, saes, find }) {
  const { mode, strength, where } = row.fields;
  const slider = el("input", {
    type: "range",
    min: 0,
    max: LARGEST,
    step: 0.05,
    "aria-label": "The same, to slide",
    autocomplete: "off",
  });
  const track = el("div", { class: "track" }, slider);
  const bandNote = el("span", { class: "quiet" });
  const finder = el("button", { type: "button", class: "plain" }, "Find the strength");
  const sliding = el("div", { class: "sliding" }, track, el("div", { class: "between" }, bandNote, finder));
  const note = el("p", { class: "quiet where-note", id: `${row.id}-where` });
  where.setAttribute("aria-describedby", note.id);

  const { condition_feature: only, condition_above: above, condition_sae: whose, fade } = row.extra;
  const feature = el("input", {
    class: "short",
    inputmode: "numeric",
    "aria-label": "Condition: number of a feature",
    placeholder: "feature",
    value: only === undefined ? "" : `#${only}`,
    autocomplete: "off",
  });
  const value = el("input", {
    type: "number",
    min: 0,
    step: "any",
    "aria-label": "Condition: its activation must exceed",
    value: above ?? 0,
    autocomplete: "off",
  });
  const whoseSae = el(
    "select",
    { class: "whose", "aria-label": "SAE of the condition", hidden: saes.length < 2 },
    saes.map(([name, words]) => el("option", { value: name, selected: name === (whose ?? row.sae) }, words)),
  );
  const fading = el("input", {
    type: "number",
    min: 1,
    step: 1,
    "aria-label": "Fading: over how many tokens",
    placeholder: "never",
    value: fade ?? "",
    autocomplete: "off",
  });
  const summary = el("summary", {});
  const more = el(
    "details",
    { class: "restricted", open: Boolean(restriction(row.extra)) },
    summary,
    el("div", { class: "line" }, "only where", feature, el("span", { class: "line" }, "fires above", value)),
    whoseSae,
    el("div", { class: "line" }, "fading over", fading, "new tokens"),
    el(
      "p",
      { class: "quiet" },
      "The condition is read by the model without edits. A fading edit is whole for the first new token and falls evenly to nothing.",
    ),
  );
  Object.assign(row.others, {
    condition_feature: feature,
    condition_above: value,
    condition_sae: whoseSae,
    fade: fading,
  });

  /** What the fields say, as the edit has it; a condition that makes no sense goes as written. */
  function take() {
    const text = feature.value.trim();
    row.extra = {};
    if (text) {
      row.extra.condition_feature = featureNumber(text) ?? text;
      if (Number(value.value)) row.extra.condition_above = Number(value.value);
      if (saes.length > 1) row.extra.condition_sae = whoseSae.value;
    }
    if (fading.value !== "") row.extra.fade = Number(fading.value);
    refresh(row.summary);
    changed();
  }
  for (const field of [feature, value, whoseSae, fading]) field.addEventListener("input", take);
  slider.addEventListener("input", () => {
    strength.value = slider.value;
    strength.dispatchEvent(new Event("input", { bubbles: true }));
  });
  finder.addEventListener("click", () => find(row));

  /** @param {Summary | null | undefined} known */
  function refresh(known) {
    const strong = mode.value === "set" || mode.value === "add";
    const number = featureNumber(row.fields.feature.value);
    const inMultiples = strong && !row.own && Boolean(known?.max_act);
    slider.hidden = !inMultiples;
    finder.hidden = !strong || number === null;
    sliding.hidden = slider.hidden && finder.hidden;
    const band = inMultiples && number !== null ? knownBand(row.sae, number, mode.value, known?.max_act) : null;
    if (band && row.fresh) {
      row.fresh = false;
      strength.value = String(band.best);
      changed();
    }
    slider.value = strength.value;
    slider.setAttribute("aria-valuetext", `${strength.value} × max`);
    track.classList.toggle("banded", Boolean(band));
    if (band) {
      for (const end of /** @type {const} */ (["low", "high"])) {
        const share = Math.min(1, Math.max(0, band[end] / LARGEST));
        track.style.setProperty(`--${end}`, String(share));
      }
    }
    bandNote.textContent = band ? `${bandWords(band)} × max` : "";
    note.textContent = TOKENS[where.value];
    summary.textContent = restriction(row.extra) || "Condition and fading";
  }

  row.more.replaceChildren(note, more);
  row.sliding.replaceChildren(sliding);
  return refresh;
}
