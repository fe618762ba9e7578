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
 * `text` in quotation marks, on one line: line breaks and tabs are drawn.
 * @param {string} text
 * @returns {string}
 */
export function quoted(text) {
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
