// @ts-check
/* Which answer of the server a part of a page shows, so that it can be taken away whole: the shown
   tables round their numbers, the answer does not.

   A script that draws an answer says so with `shows` of dom.js. A part that came drawn from the server has its
   question in `data-asked`, as {"endpoint", "arguments"} and, of an answer that comes page by page, "paged"
   (templates/feature_list.html). */

import { shownAt } from "./dom.js";

/** @typedef {import("./dom.js").Shown} Shown */

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
  const drawn = shownAt(node);
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
