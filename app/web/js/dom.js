// @ts-check
/* Small pieces of a page. Text from outside only ever becomes text: nothing here reads markup. */

/** @typedef {string | number | boolean | null | undefined} Plain */
/** @typedef {Node | string | number | false | null | undefined} Child */

/**
 * An element: el("a", {href: "…", class: "id"}, "text", child).
 *
 * An attribute that is null, undefined or false is left out and one that is true is empty, so those
 * whose values are words (aria-pressed) take "true" and "false". A function under "onclick" listens
 * to "click". Strings among the children, which may be lists, become text nodes; null, undefined
 * and false are left out.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, Plain | ((event: any) => void)>} [attributes]
 * @param {(Child | Child[])[]} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name.replace(/^on/, ""), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) continue;
    node.append(typeof child === "number" ? String(child) : child);
  }
  return node;
}

/**
 * What a feature is called: the label that people gave it, else its signature.
 * @param {{signature?: string | null, label?: string | null}} [row]
 */
export const featureName = (row) => row?.label || row?.signature || "";

/**
 * A feature's signature; its dots stay with the word before them when it breaks.
 * @param {string} signature
 */
export const unbroken = (signature) =>
  signature.replaceAll(" · ", "\u00a0· ").replaceAll(" …", "\u00a0…");

/**
 * Append a token's text to `node`, with its line breaks drawn and kept; returns `node`.
 * @template {ParentNode} Parent
 * @param {Parent} node
 * @param {string} text
 * @returns {Parent}
 */
export function tokenText(node, text) {
  const [first, ...rest] = text.replaceAll("\r", "").split("\n");
  if (first) node.append(first);
  for (const part of rest) {
    node.append(el("i", { class: "nl" }, "↵"), el("br"));
    if (part) node.append(part);
  }
  return node;
}

/**
 * Fill the node of a token; returns what stands on the page: the node, and spaces around it.
 *
 * Those stand outside, without its colour, which would leave a sliver at the end of a line. Where
 * the text shows no character, `bytes` ("F0 9F") are drawn instead, as ⟨F0 9F⟩, so that the token
 * can be seen and chosen. app/web/token_text.py draws tokens alike.
 * @template {ParentNode} Parent
 * @param {Parent} node
 * @param {string} text
 * @param {string} [bytes]
 * @returns {(Parent | string)[]}
 */
export function tokenNodes(node, text, bytes = "") {
  if (bytes) {
    node.append(el("i", { class: "bytes" }, `⟨${bytes}⟩`));
    return [node];
  }
  const [before, shown, after] = tokenParts(text);
  tokenText(node, shown);
  return [before, node, after].filter((part) => part !== "");
}

/**
 * A token's text without the spaces around it, and those before and after; spaces alone are text.
 * Marks alone, which would join the letter before, stand on a dotted circle.
 * @param {string} text
 * @returns {[string, string, string]}
 */
function tokenParts(text) {
  const shown = text.replace(/^ +| +$/g, "") || text;
  const start = text.indexOf(shown);
  const circle = /^\p{M}+$/u.test(shown) ? "\u25cc" : "";
  return [text.slice(0, start), circle + shown, text.slice(start + shown.length)];
}

/**
 * `text` in quotation marks, on one line: line breaks and tabs are drawn. Where it shows no
 * character, its `bytes` stand there: “⟨F0 9F⟩”.
 * @param {string} text
 * @param {string} [bytes]
 * @returns {string}
 */
export function quoted(text, bytes = "") {
  if (bytes) return `“⟨${bytes}⟩”`;
  return `“${text.replaceAll("\n", "↵").replaceAll("\t", "⇥")}”`;
}

/**
 * The address of a page, such as "features?q=snow"; empty values are left out.
 * @param {string} page
 * @param {Record<string, Plain>} [query]
 * @returns {string}
 */
export function address(page, query = {}) {
  const kept = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") kept.set(name, String(value));
  }
  return kept.size ? `${page}?${kept}` : page;
}

/* Texts to take along */

const SAID = 1600; // ms

/** What stands on buttons while they say something else. @type {WeakMap<HTMLElement, {words: string, timer: number}>} */
const saying = new WeakMap();

/**
 * Copy a text; the button says that it was done.
 * @param {string} text
 * @param {HTMLElement} button
 */
export async function copy(text, button, done = "Copied") {
  let said = done;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    said = "Copying is not allowed here";
  }
  // Pressed again meanwhile, its own words are not those that stand there.
  const before = saying.get(button);
  clearTimeout(before?.timer);
  const words = before?.words ?? button.textContent ?? "";
  button.textContent = said;
  const timer = window.setTimeout(() => {
    button.textContent = words;
    saying.delete(button);
  }, SAID);
  saying.set(button, { words, timer });
}

/* A moment later */

let moves = 0; // of this page to another address

/**
 * Acts a moment after the last of several calls, as while somebody types or drags; not once the page
 * has moved on, to whose address what was typed does not belong.
 * @param {number} wait ms
 */
export function later(wait) {
  let timer = 0;
  return {
    /** @param {() => void} act @param {number} [own] another wait, ms */
    call(act, own = wait) {
      clearTimeout(timer);
      const here = moves;
      timer = window.setTimeout(() => here === moves && act(), own);
    },
    cancel: () => clearTimeout(timer),
  };
}

/** The page goes to another address: what still waits (`later`) is of the one before. */
export const movedOn = () => {
  moves += 1;
};

/* Which answer of the server a part of a page shows: js/export-answers.js lists them to be taken. */

/**
 * @typedef {object} Shown
 * @property {string} endpoint
 * @property {Record<string, unknown>} asked the arguments
 * @property {any} [answer] null until it is asked for
 * @property {string} [paged] the name of its rows, where it answers page by page
 */

/** @type {WeakMap<Element, Map<string, Shown>>} */
const kept = new WeakMap();

/**
 * This element shows an endpoint's answer, in place of an earlier one of the same endpoint.
 * @param {HTMLElement} node
 * @param {string} endpoint
 * @param {Record<string, unknown>} asked
 * @param {unknown} answer
 */
export function shows(node, endpoint, asked, answer) {
  const here = kept.get(node) ?? new Map();
  here.set(endpoint, { endpoint, asked, answer });
  kept.set(node, here);
  node.dataset.shows = [...here.keys()].join(" ");
}

/** What an element shows. @param {Element} node @returns {Shown[]} */
export const shownAt = (node) => [...(kept.get(node)?.values() ?? [])];
