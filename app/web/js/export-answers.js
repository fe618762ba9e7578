// @ts-check
/* Which answer of the server a part of a page shows, so that it can be taken away whole: the shown
   tables round their numbers, the answer does not.

   A script that draws an answer says so with `shows`. A part that came drawn from the server has its
   question in `data-asked`, as {"endpoint", "arguments"} and, of an answer that comes page by page, "paged"
   (templates/feature_list.html). */

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

/**
 * What can be seen within `root` of the server's answers, in the order of the page.
 * @param {HTMLElement} root
 * @returns {Shown[]}
 */
export function shownIn(root) {
  const nodes = /** @type {NodeListOf<HTMLElement>} */ (
    root.querySelectorAll("[data-shows], [data-asked], [data-view='feature']")
  );
  return [...nodes].filter((node) => node.checkVisibility()).flatMap(shownBy);
}

/** @param {HTMLElement} node @returns {Shown[]} */
function shownBy(node) {
  const drawn = [...(kept.get(node)?.values() ?? [])];
  const { asked, view, feature, sae } = node.dataset;
  if (asked) {
    const { endpoint, arguments: given, paged } = JSON.parse(asked);
    drawn.push({ endpoint, asked: given, answer: null, paged });
  }
  if (view === "feature") {
    drawn.push({ endpoint: "feature", asked: { feature: Number(feature), sae }, answer: null });
  }
  return drawn;
}
