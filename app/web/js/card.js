// @ts-check
/* "Reproduce": a dialog that says what a number was computed from, with a script that prints it.

   The endpoint `reproduce` answers what a card shows; app/service/provenance.py says how a number is
   asked for. `openCard` shows the card of one of several numbers. */

import { copy, el, quoted } from "./dom.js";
import { problem } from "./frame.js";
import { fixed, number } from "./numbers.js";
import { ServerError, call } from "./server.js";

/**
 * @typedef {object} Choice One number that the card can be about.
 * @property {string} words
 * @property {Record<string, unknown>} asked as the endpoint takes it
 * @property {number | null} [value] where the page alone knows it
 * @property {string} [group] what it is listed under
 */
/** @typedef {{name: string, words: string, kind?: "mono" | "ids"}} Fact */

/** @type {Record<string, string>} */
const OF_TEXT = {
  l0: "features active per token (L0)",
  fvu: "variance unexplained (FVU)",
  ce_base: "cross-entropy of the model as it is, nats per token",
  ce_spliced: "cross-entropy with the SAE spliced in, nats per token",
  delta_lm_loss: "delta LM loss, nats per token",
  kl_mean: "KL divergence, nats per token",
  uniformity: "uniformity of active features' effects",
};
/** @type {Record<string, string>} */
const POSITIONS = { all: "all tokens", prompt: "the prompt", generated: "new tokens" };

/**
 * A button that opens the card on the first of the choices that `choose` returns; `of` says whose
 * numbers they are.
 * @param {() => Choice[]} choose
 * @param {string} of
 */
export function reproduceButton(choose, of) {
  const open = () => openCard(choose());
  const name = `Reproduce: ${of}`;
  return el(
    "button",
    { type: "button", class: "plain", "aria-haspopup": "dialog", "aria-label": name, onclick: open },
    "Reproduce",
  );
}

/**
 * The choices of a button that the server drew (templates/reproduce.html).
 * @param {HTMLElement} button
 * @returns {Choice[]}
 */
export function choicesOf(button) {
  const { asked, choices } = JSON.parse(button.dataset.reproduce ?? "{}");
  return choices.map((/** @type {Choice} */ choice) => ({
    ...choice,
    asked: { ...asked, ...choice.asked },
  }));
}

/* The dialog, made when it is first opened */

/** @type {ReturnType<typeof made> | null} */
let parts = null;
/** @type {Choice[]} */
let choices = [];
/** @type {AbortController | null} */
let asking = null;

/** Show the card of the first of these numbers, and a choice between them. @param {Choice[]} given */
export function openCard(given) {
  parts ??= made();
  choices = given;
  const { dialog, select, body } = parts;
  select.replaceChildren(...options(given));
  select.hidden = given.length < 2;
  body.replaceChildren();
  if (!dialog.isConnected) document.body.append(dialog);
  dialog.showModal();
  void show();
}

function made() {
  const select = el("select", { "aria-label": "Number", autocomplete: "off" });
  const body = el("div", { class: "card-body", "aria-live": "polite" });
  const close = el("button", { type: "button", class: "close", "aria-label": "Close" }, "×");
  const title = el("h2", { id: "card-title" }, "Reproduce this number");
  const head = el("div", { class: "card-head" }, title, select, close);
  const inside = el("div", { class: "card-inside" }, head, body);
  const dialog = el("dialog", { id: "card", "aria-labelledby": "card-title" }, inside);
  select.addEventListener("change", () => void show());
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => asking?.abort());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // outside of the card
  });
  // The page's own keys rest while the card is open.
  dialog.addEventListener("keydown", (event) => event.stopPropagation());
  return { dialog, select, body };
}

/** @param {Choice[]} given */
function options(given) {
  /** @type {Map<string, HTMLElement[]>} */
  const groups = new Map();
  given.forEach(({ words, group = "" }, i) => {
    groups.set(group, [...(groups.get(group) ?? []), el("option", { value: i }, words)]);
  });
  return [...groups].flatMap(([label, items]) =>
    label ? [el("optgroup", { label }, items)] : items,
  );
}

async function show() {
  const { select, body } = /** @type {ReturnType<typeof made>} */ (parts);
  const { asked, value = null } = choices[Number(select.value) || 0];
  asking?.abort();
  const mine = (asking = new AbortController());
  body.setAttribute("aria-busy", "true");
  if (!body.firstChild) body.append(el("p", { class: "quiet" }, "Computing…"));
  try {
    const card = await call("reproduce", { asked }, { signal: mine.signal });
    // To know the value of a steering run's number it would have to be run again.
    body.replaceChildren(...drawn(card, card.value === undefined ? value : card.value));
  } catch (error) {
    if (mine.signal.aborted) return;
    if (!(error instanceof ServerError)) throw error;
    body.replaceChildren(problem(error.message));
  }
  body.removeAttribute("aria-busy");
}

/** @param {any} card @param {number | null} value */
function drawn(card, value) {
  const onCorpus = card.token_ids === null;
  const button = el("button", { type: "button", class: "plain" }, "Copy");
  button.addEventListener("click", () => void copy(card.script, button));
  const command = `python script.py${onCorpus ? " CORPUS" : ""}`;
  const where = onCorpus ? ", with the corpus's files in place of CORPUS" : "";
  return [
    el("p", { class: "value" }, el("b", {}, exact(value)), ` ${wordsOf(card)}`),
    el("dl", { class: "facts" }, factsOf(card).map(fact)),
    el("div", { class: "between" }, el("h3", { id: "script-title" }, "Script"), button),
    el(
      "pre",
      { class: "code", tabindex: 0, role: "group", "aria-labelledby": "script-title" },
      el("code", {}, card.script),
    ),
    el(
      "p",
      { class: "quiet" },
      "Save it as ",
      el("code", {}, "script.py"),
      " and run ",
      el("code", {}, command),
      ` where Jumpscope is installed${where}: it prints the number above.`,
    ),
  ];
}

/** @param {Fact} given */
function fact({ name, words, kind }) {
  const scrolls = kind === "ids" && { tabindex: 0, role: "group", "aria-label": "Token ids" };
  const shown = el("dd", { class: kind && `mono ${kind}`, ...(scrolls || {}) }, words);
  return el("div", {}, el("dt", {}, name), shown);
}

/* What a card says */

/** A value with eight significant digits. @param {number | null} value */
export function exact(value) {
  return value === null ? "not defined" : String(Number(value.toPrecision(8)));
}

/** What the number is. @param {any} card @returns {string} */
export function wordsOf(card) {
  const { quantity, token, feature } = card;
  const without = `the prediction after token ${token} without feature #${feature} on token ${card.position}`;
  const followed = `log-probability of ${quoted(card.target_text ?? "")} in ${without}`;
  if (quantity in OF_TEXT) return OF_TEXT[quantity];
  /** @type {Record<string, string>} */
  const ofToken = {
    loss: `loss of token ${token}, nats`,
    spliced_loss: `loss of token ${token} with the SAE spliced in, nats`,
    delta: `spliced loss minus loss of token ${token}, nats`,
    kl: `KL divergence at token ${token}, nats`,
    activation: `activation of feature #${feature} on token ${token}`,
    effect_kl: `KL divergence, nats, from the prediction to ${without}`,
    effect_dlogp: `change, nats, of the ${followed}`,
    effect_estimate: `estimated change, nats, of the ${followed}`,
    "pre-activation": `pre-activation of feature #${feature} on token ${token}`,
    "activation after the edit": `activation of feature #${feature} on token ${token}, after the edit`,
  };
  return ofToken[quantity];
}

/** What it was computed from; facts without words are left out. @param {any} card @returns {Fact[]} */
export function factsOf(card) {
  const [model, revision] = parted(card.model);
  /** @type {Fact[]} */
  const facts = [
    { name: "model", words: model },
    { name: "revision", words: revision, kind: "mono" },
    ...card.saes.flatMap(saeFacts),
    ...("edits" in card ? runFacts(card) : []),
    ...(card.token_ids === null ? corpusFacts(card) : [idsFact(card.token_ids)]),
    { name: "dtype", words: `${card.dtype}, the SAE's own arithmetic float32` },
    { name: "computed on", words: `${card.device}, attention ${card.attention}` },
  ];
  return facts.filter(({ words }) => words);
}

/** @param {string} source a path, or an id with its revision */
function parted(source) {
  const at = source.indexOf("@");
  return at < 0 ? [source, ""] : [source.slice(0, at), source.slice(at + 1)];
}

/** @param {any} sae @returns {Fact[]} */
function saeFacts(sae) {
  const [source, revision] = parted(sae.source);
  return [
    { name: "SAE", words: source },
    { name: "revision", words: revision, kind: "mono" },
    { name: "SHA-256 of weights", words: sae.content_hash, kind: "mono" },
    { name: "site", words: sae.site_out ? `${sae.site} → ${sae.site_out}` : sae.site },
  ];
}

/** @param {any} card @returns {Fact[]} */
function runFacts(card) {
  const edits = card.edits.map((/** @type {any} */ { feature, mode, value, positions }) => {
    const strength = mode === "ablate" ? "" : ` ${Number(value.toPrecision(6))}`;
    const places =
      typeof positions === "string"
        ? POSITIONS[positions]
        : `tokens ${positions.join(", ")}`;
    return `#${feature} ${mode}${strength} on ${places}`;
  });
  return [
    { name: "continuation", words: card.arm },
    { name: "edits", words: edits.join("; ") },
    { name: "sampling", words: `temperature ${card.temperature}, seed ${card.seed}` },
  ];
}

/** @param {any} card @returns {Fact[]} */
function corpusFacts(card) {
  const place = `number ${fixed(card.document, 0)} of the corpus`;
  const size = fixed(card.context_size, 0);
  return [
    { name: "document", words: [place, card.title, card.source].filter(Boolean).join(" · ") },
    { name: "row", words: `${fixed(card.row, 0)} of its tokens, ${size} to a row, counted from 0` },
    { name: "stored to", words: `± ${number(card.within, 2)}` },
  ];
}

/** @param {number[]} ids @returns {Fact} */
function idsFact(ids) {
  return { name: `token ids (${fixed(ids.length, 0)})`, words: ids.join(", "), kind: "ids" };
}
