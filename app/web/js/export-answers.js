// @ts-check
/* Which answer of the server a part of a page shows, so that it can be taken away whole: the shown
   tables round their numbers, the answer does not.

   A script that draws an answer says so with `shows` of dom.js. A part that came drawn from the server has its
   question in `data-asked`, as {"endpoint", "arguments"} and, of an answer that comes page by page, "paged"
   (templates/feature_list.html). */

import { shownAt } from "./dom.js";
import { count } from "./numbers.js";

/** @typedef {import("./dom.js").Shown} Shown */

const MOST_ROWS = 20_000; // of an answer that comes page by page

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

/**
 * An answer that is not on the page yet is asked for, one of many pages page by page.
 * @param {Shown} shown
 * @param {(endpoint: string, asked: Record<string, unknown>) => Promise<any>} call
 */
export async function answerOf(shown, call) {
  if (shown.answer !== null && shown.answer !== undefined) return shown.answer;
  const { endpoint, asked, paged } = shown;
  if (!paged) return (shown.answer = await call(endpoint, asked));
  let answer = await call(endpoint, asked);
  const rows = answer[paged];
  while (rows.length < Math.min(answer.total, MOST_ROWS)) {
    answer = await call(endpoint, { ...asked, offset: rows.length });
    if (!answer[paged].length) break;
    rows.push(...answer[paged]);
  }
  return (shown.answer = { ...answer, [paged]: rows });
}

/** That an answer's rows are not all there are, "" where they are. @param {Shown} shown */
export function cutSays({ answer, paged }) {
  const rows = paged && answer ? answer[paged].length : 0;
  if (!paged || !answer || rows >= answer.total) return "";
  return `The file holds the first ${count(rows)} of ${count(answer.total)}. Fewer match with a filter; the cell of Python asks for all.`;
}
