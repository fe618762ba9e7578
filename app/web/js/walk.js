// @ts-check
/* Where a feature was opened from: a link to a feature that stands in a list takes with it the page it
   is on (`from`) and its order, so that previous and next on the feature's page walk that list.
   app/web/walk.py reads these addresses, and says what they hold. */

const MOST = 200; // features of an order in an address
const LONGEST = 2000; // characters of an address that is taken along
const LISTS = "table, ol, ul";
const FEATURES = "a[href*='feature='], button[data-feature]";
const NOWHERE = ".buttons, .walk, .tray, header, footer"; // links that are steps themselves

/** @typedef {{sae: string, feature: string}} Stop */

/** The feature that an element leads to or stands for, null for none.
 * @param {Element} node @param {string} sae of a button, as addresses have it @returns {Stop | null} */
export function stopOf(node, sae) {
  if (!(node instanceof HTMLAnchorElement)) {
    const feature = node.getAttribute("data-feature") ?? "";
    return /^\d+$/.test(feature) ? { sae, feature } : null;
  }
  const { pathname, searchParams } = new URL(node.href);
  const feature = searchParams.get("feature") ?? "";
  if (!pathname.endsWith("/features") || !/^\d+$/.test(feature)) return null;
  return { sae: searchParams.get("sae") ?? "", feature };
}

/**
 * The numbers around one of them that an address can hold, each once.
 * @param {string[]} numbers
 * @param {string} here
 */
export function orderAround(numbers, here, most = MOST) {
  const order = [...new Set(numbers)];
  const begin = Math.max(0, Math.min(order.indexOf(here) - most / 2, order.length - most));
  return order.slice(begin, begin + most);
}

/**
 * The address of this page as the way back from a feature: relative to the app's root, without what
 * says where it was itself opened from; of one too long the path alone.
 * @param {{pathname: string, search: string}} here
 * @param {string} root the path of the app's root
 */
export function originOf({ pathname, search }, root) {
  const path = pathname.slice(root.length) || "./";
  const query = new URLSearchParams(search);
  for (const name of ["from", "at", "walk", "tour"]) query.delete(name);
  const whole = query.size ? `${path}?${query}` : path;
  if (whole.length <= LONGEST) return whole;
  const sae = query.get("sae");
  return sae ? `${path}?${new URLSearchParams({ sae })}` : path;
}

/** @param {Element} list @param {Stop} stop @param {string} sae */
function numbersOf(list, stop, sae) {
  const stops = [...list.querySelectorAll(FEATURES)].map((node) => stopOf(node, sae));
  return stops.flatMap((each) => (each && each.sae === stop.sae ? [each.feature] : []));
}

/** The order that a link stands in: that of the list around it, or of one on the page that has it.
 * @param {Element} link @param {Stop} stop @param {string} sae */
function listAround(link, stop, sae) {
  const isList = (/** @type {string[]} */ numbers) =>
    new Set(numbers).size > 1 && numbers.includes(stop.feature);
  for (let list = link.closest(LISTS); list; list = list.parentElement?.closest(LISTS) ?? null) {
    const numbers = numbersOf(list, stop, sae);
    if (isList(numbers)) return { list, numbers };
  }
  for (const list of document.querySelectorAll(`main :is(${LISTS})`)) {
    const numbers = list.getClientRects().length ? numbersOf(list, stop, sae) : [];
    if (isList(numbers)) return { list, numbers };
  }
  return null;
}

/**
 * Let a link to a feature take along where it stands.
 * @param {HTMLAnchorElement} link
 * @param {Element} place where it stands: the link, or what a card is about
 * @param {string} sae the page's, as addresses have it
 */
export function takeAlong(link, place, sae) {
  const stop = stopOf(link, sae);
  const ordered = stop && !place.closest(NOWHERE) && listAround(place, stop, sae);
  if (!ordered) return;
  const root = new URL(document.documentElement.dataset.root || "./", document.baseURI).pathname;
  const from = originOf(location, root);
  const target = new URL(link.href);
  const first = ordered.list.closest("[data-first]")?.getAttribute("data-first");
  const asked = new URLSearchParams(from.split("?")[1]);
  const again = (from.startsWith("features") && first) || (from.startsWith("lists") && asked.get("list"));
  const at = [...new Set(ordered.numbers)].indexOf(stop.feature);
  target.searchParams.set("from", from);
  if (first) target.searchParams.set("at", String(Number(first) + at));
  if (!again) target.searchParams.set("walk", orderAround(ordered.numbers, stop.feature).join("."));
  link.href = target.href;
}
