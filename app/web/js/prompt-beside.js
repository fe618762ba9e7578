// @ts-check
/* What the prompt page has beside the analysis of one text: a second text to compare with and the
   switch of several SAEs, each fetched when it is opened, and the link to features like this text. */

import { address } from "./dom.js";
import { query } from "./frame.js";
import { markProblem } from "./given.js";
import { ServerError } from "./server.js";

/** @typedef {import("./prompt-compare.js").Address} Address */
/** @typedef {{text: string, messages: any[] | null, sae: string}} Asked */

const notFetched = () => {
  throw new ServerError("A part of this page could not be fetched: try again.");
};

/**
 * The field of the second text, and the comparison.
 * @param {HTMLElement} main
 * @param {Address} place
 */
export function secondText(main, place) {
  const at = (/** @type {string} */ id) =>
    /** @type {HTMLElement} */ (main.querySelector(`#${id}`));
  const field = /** @type {HTMLTextAreaElement} */ (at("other-text"));
  /** @type {ReturnType<typeof import("./prompt-compare.js").comparing> | null} */
  let shown = null;

  /** @param {string | null} text null closes the field */
  function set(text) {
    at("other").hidden = text === null;
    at("open-other").hidden = text !== null;
    at("submit").textContent = text === null ? "Analyse" : "Compare";
    field.value = text ?? "";
  }

  return {
    set,
    /** @returns {string | null} null where the field is closed */
    text: () => (at("other").hidden ? null : field.value),
    /** What is of interest is often one other word. @param {string} first what to begin with */
    open(first) {
      set(first);
      field.focus();
      field.select();
    },
    close() {
      set(null);
      for (const name of ["pair", "only", "patch", "at"]) place.set({ [name]: "" });
      at("open-other").focus();
    },
    /** Put a sentence at the field if it is about that, and return it. @param {ServerError} error */
    complain(error) {
      if (!error.field.startsWith("other_")) return null;
      markProblem(field, error.message);
      return field;
    },
    /**
     * Compare; what is returned shows the answer.
     * @param {Asked} asked of a conversation the second one has another last turn
     * @param {string} other
     * @param {Parameters<typeof import("./server.js").call>[2]} options
     */
    async compare(asked, other, options) {
      const { comparing } = await import("./prompt-compare.js").catch(notFetched);
      shown ??= comparing(at("comparison"), place);
      const { ask, take } = shown;
      const { messages } = asked;
      const texts = messages
        ? { ...asked, other_messages: messages.with(-1, { ...messages.at(-1), content: other }) }
        : { ...asked, other_text: other };
      const answer = await ask(texts, options);
      return () => take(texts, answer);
    },
    /** Show what the address says now. */
    update: () => void shown?.update(),
  };
}

/**
 * The switch of several SAEs, open while the address has it.
 * @param {HTMLDetailsElement} node
 * @param {Address} place
 * @param {() => Asked | null} asked the text that is analysed, if one is
 */
export function saeSwitch(node, place, asked) {
  /** @type {ReturnType<typeof import("./prompt-splice.js").spliceSwitch> | null} */
  let shown = null;

  async function show() {
    const { spliceSwitch } = await import("./prompt-splice.js").catch(notFetched);
    const body = /** @type {HTMLElement} */ (node.querySelector(".panel"));
    shown ??= spliceSwitch(body, place);
    const text = asked();
    if (text && node.open) shown.show(text);
  }

  node.addEventListener("toggle", () => {
    if (node.open) void show();
    else if (place.get("switch")) place.set({ switch: "" }, { push: true });
  });
  return {
    /** After an analysis, or a step through the history. */
    update() {
      const open = place.get("switch") !== "";
      if (open && node.open) void show();
      node.open = open;
    },
  };
}

/**
 * One text of the page of features by example, which has one a line. Line breaks are drawn among
 * tokens.
 * @param {string} text
 */
export const oneLine = (text) => text.replaceAll("↵", " ").replace(/\s+/g, " ").trim();

/**
 * What is selected: in a field that was typed in last, or among the tokens; "" for nothing.
 * @param {HTMLElement} main
 */
function selection(main) {
  const field = document.activeElement;
  if (field instanceof HTMLTextAreaElement && main.contains(field)) {
    return field.value.slice(field.selectionStart, field.selectionEnd);
  }
  const selected = getSelection();
  const within = selected?.anchorNode && main.querySelector("#tokens")?.contains(selected.anchorNode);
  return within ? String(selected) : "";
}

/**
 * The link to the features of this text, or of what is selected of it.
 * @param {HTMLElement} main
 * @param {() => string} whole
 */
export function findLink(main, whole) {
  const link = /** @type {HTMLAnchorElement} */ (main.querySelector("#find-like"));
  const update = () => {
    // With the keyboard the selection's field is left for the link before it is followed.
    if (document.activeElement === link) return;
    const selected = oneLine(selection(main));
    link.textContent = `Find features for this ${selected ? "selection" : "text"}`;
    link.href = address("find", { sae: query().sae, positives: selected || oneLine(whole()) });
  };
  // A press would take the selection away, and the focus from its field.
  link.addEventListener("mousedown", (event) => event.preventDefault());
  document.addEventListener("selectionchange", update);
  main.addEventListener("input", update);
  return { update };
}
