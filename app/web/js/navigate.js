// @ts-check
/* Moving within a page: a link to the same path, a search while it is typed, back and forward fetch
   the page of the new address and put its main region in the place of this one.

   Parts (data-part) of the same view (data-view) are exchanged alone, so that a field somebody is
   typing in stays. A later move overtakes an earlier one. */

import { address, later, movedOn } from "./dom.js";
import { addressWith, busy, carrySae, drawState, problem, query } from "./frame.js";
import { ServerError, page } from "./server.js";

const TYPING = 160; // ms without a key after which is searched

/** @typedef {{push?: boolean, scroll?: number | null}} How a step of the history or not; where to
 * scroll, null for nowhere */

const nothing = Promise.resolve();

/**
 * Begin. `onShown` is called with the main region now and after each exchange; a
 * page is fetched once `settled` resolves, and again if it is another promise by then.
 * @param {{onShown?: (main: HTMLElement) => void, settled?: () => Promise<void>}} [options]
 * @returns {{
 *   go: (target: string, how?: How) => Promise<void>,
 *   onSae: (name: string) => void,
 *   refresh: () => Promise<void>,
 * }} `onSae` and `refresh` are for `start` of frame.js
 */
export function navigation({ onShown = () => {}, settled = () => nothing } = {}) {
  const main = /** @type {HTMLElement} */ (document.getElementById("content"));
  /** @type {AbortController | null} */
  let moving = null;

  /** @param {string} target @param {How} [how] */
  async function go(target, { push = true, scroll = 0 } = {}) {
    movedOn();
    if (push) {
      history.replaceState({ ...history.state, scroll: scrollY }, "");
      history.pushState({}, "", target);
    } else {
      history.replaceState(history.state, "", target);
    }
    await show(scroll);
  }

  /** @param {number | null} scroll @param {{stays?: boolean}} [focus] whether it stays nowhere */
  async function show(scroll, { stays = false } = {}) {
    moving?.abort();
    const nowhere = stays && document.activeElement === document.body;
    const mine = (moving = new AbortController());
    try {
      let before, answer;
      do {
        before = settled();
        await before;
        if (mine.signal.aborted) return;
        answer = await busy(page(location.pathname + location.search, mine.signal));
      } while (before !== settled()); // it may be of the time before what was changed meanwhile
      // A random feature's address says which it is, once the server has chosen.
      if (answer.url !== location.href) history.replaceState(history.state, "", answer.url);
      exchange(main, new DOMParser().parseFromString(answer.html, "text/html"));
    } catch (error) {
      if (mine.signal.aborted) return;
      if (!(error instanceof ServerError)) throw error;
      if (!error.gone) main.replaceChildren(problem(error.message));
    }
    carrySae();
    drawState();
    if (scroll !== null) scrollTo(0, scroll);
    if (!nowhere) refocus(main);
    onShown(main);
  }

  /* The same page with what there is now; what was unfolded stays so, and nothing moves. */
  async function refresh() {
    const top = scrollY;
    const unfolded = folds(main).filter((each) => each.open).map(nameOf);
    await show(null, { stays: true });
    for (const each of folds(main)) each.open ||= unfolded.includes(nameOf(each));
    scrollTo(0, top);
  }

  history.scrollRestoration = "manual";
  addEventListener("popstate", () => {
    movedOn();
    void show(history.state?.scroll ?? 0);
  });
  addEventListener("pagehide", () => {
    history.replaceState({ ...history.state, scroll: scrollY }, "");
  });
  main.addEventListener("click", (event) => {
    const target = samePage(event);
    if (!target) return;
    event.preventDefault();
    go(target.href, { scroll: target.stays ? null : 0 });
  });
  searching(main, go);
  if (history.state?.scroll) scrollTo(0, history.state.scroll);
  onShown(main);
  return { go, refresh, onSae: (name) => void go(addressWith(name)) };
}

/**
 * Where a click leads within this page, if it does. A link with data-stays leaves the scrolling,
 * one with data-whole loads the page anew.
 * @param {MouseEvent} event
 */
function samePage(event) {
  if (event.defaultPrevented || event.button) return null;
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return null;
  const link = event.target instanceof Element ? event.target.closest("a[href]") : null;
  const written = link?.getAttribute("href");
  if (!link || !written || written.startsWith("#") || link.hasAttribute("data-whole")) return null;
  const target = new URL(written, document.baseURI);
  if (target.origin !== location.origin || target.pathname !== location.pathname) return null;
  return { href: target.href, stays: link.hasAttribute("data-stays") };
}

/**
 * Put what another document has in its main region in the place of this one's; the focus stays on
 * the element with the same id.
 * @param {HTMLElement} main
 * @param {Document} fresh
 */
function exchange(main, fresh) {
  const from = fresh.getElementById("content");
  if (!from) return;
  const focused = document.activeElement?.id;
  document.title = fresh.title;
  document.documentElement.dataset.revision = fresh.documentElement.dataset.revision ?? "";
  takeHashes(fresh);
  const [view, other] = [viewOf(main), viewOf(from)];
  const parts = [...from.querySelectorAll("[data-part]")];
  if (view === other && view && parts.length) {
    for (const part of parts) {
      main.querySelector(`[data-part="${part.getAttribute("data-part")}"]`)?.replaceWith(part);
    }
  } else {
    main.replaceChildren(...from.childNodes);
  }
  if (focused && document.activeElement === document.body) {
    document.getElementById(focused)?.focus({ preventScroll: true });
  }
}

/** What this page knows of weights is of those that it shows from now on. @param {Document} fresh */
function takeHashes(fresh) {
  /** @param {Document} from */
  const options = (from) => [.../** @type {NodeListOf<HTMLOptionElement>} */ (from.querySelectorAll("#sae option"))];
  const hashes = new Map(options(fresh).map((each) => [each.value, each.dataset.hash ?? ""]));
  for (const each of options(document)) each.dataset.hash = hashes.get(each.value) ?? each.dataset.hash;
}

/** @param {HTMLElement} main */
function folds(main) {
  return [...main.querySelectorAll("details")];
}

/** @param {HTMLDetailsElement} details */
function nameOf(details) {
  return details.id || details.querySelector("summary")?.textContent;
}

/** @param {HTMLElement} main */
function viewOf(main) {
  return main.querySelector("[data-view]")?.getAttribute("data-view");
}

/** What had the focus is gone: it goes to the heading. @param {HTMLElement} main */
function refocus(main) {
  if (document.activeElement !== document.body) return;
  const heading = main.querySelector("h1");
  heading?.setAttribute("tabindex", "-1");
  heading?.focus({ preventScroll: true });
}

/**
 * Forms with data-search: what is typed or chosen in them is the address.
 * @param {HTMLElement} main
 * @param {(target: string, how?: How) => Promise<void>} go
 */
function searching(main, go) {
  const typed = later(TYPING);
  const formOf = (/** @type {Event} */ event) => {
    const form = event.target instanceof Element ? event.target.closest("form[data-search]") : null;
    return form instanceof HTMLFormElement ? form : null;
  };
  const search = (/** @type {HTMLFormElement} */ form, /** @type {boolean} */ push) => {
    const values = [...new FormData(form)].map(([name, value]) => [name, String(value)]);
    const whole = { ...query(), page: "", feature: "", ...Object.fromEntries(values) };
    void go(address(location.pathname, whole), { push, scroll: null });
  };
  main.addEventListener("input", (event) => {
    const form = formOf(event);
    if (!form) return;
    // Typing is one step of the history, a choice another.
    const field = /** @type {HTMLInputElement} */ (event.target);
    const typing = field.matches("input:not([type=checkbox], [type=radio])");
    const push = !typing || !query()[field.name];
    typed.call(() => search(form, push), typing ? TYPING : 0);
  });
  main.addEventListener("submit", (event) => {
    const form = formOf(event);
    if (!form || event.defaultPrevented) return;
    event.preventDefault();
    typed.cancel();
    search(form, false);
  });
}
