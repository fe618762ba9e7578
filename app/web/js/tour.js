// @ts-check
/* The tour: the panel of a step (app/web/tour_view.py) stands in the page's own flow, right before what
   it speaks of, so that it covers nothing. What it speaks of may come later, and be drawn anew. */

import { query, setQuery } from "./frame.js";

const MARGIN = 12; // px between the window's edge and the panel

/** @param {HTMLElement} panel @returns {{node: HTMLElement, rank: number} | null} */
function anchorOf(panel) {
  const selectors = (panel.dataset.anchors ?? "").split("|");
  for (const [rank, selector] of selectors.entries()) {
    for (const node of document.querySelectorAll(`main ${selector}`)) {
      if (node instanceof HTMLElement && node.getClientRects().length) return { node, rank };
    }
  }
  return null;
}

function begin() {
  const panel = document.getElementById("tour");
  const main = document.getElementById("content");
  if (!panel || !main) return;
  const title = panel.querySelector("h2");
  /** @type {HTMLElement | null} */
  let beside = null;
  let used = false; // whether somebody does something on the page: it is not moved under them

  function place() {
    const anchor = anchorOf(/** @type {HTMLElement} */ (panel));
    if (!anchor || !panel) return;
    if (anchor.node === beside && panel.nextElementSibling === beside) return;
    const had = panel.contains(document.activeElement);
    beside?.classList.remove("toured");
    beside = anchor.node;
    beside.classList.add("toured");
    beside.before(panel);
    // Where the page shows its parts in another order than they stand in.
    panel.style.order = getComputedStyle(beside).order;
    if (used) return;
    if (had || document.activeElement === document.body) title?.focus({ preventScroll: true });
    scrollBy({ top: panel.getBoundingClientRect().top - MARGIN, behavior: "instant" });
  }

  const observer = new MutationObserver(place);
  function leave() {
    observer.disconnect();
    const next = beside;
    beside?.classList.remove("toured");
    panel?.remove();
    setQuery({ ...query(), tour: "" });
    next?.setAttribute("tabindex", "-1");
    next?.focus({ preventScroll: true });
  }

  for (const kind of ["pointerdown", "wheel", "touchstart"]) {
    addEventListener(kind, () => (used = true), { passive: true, once: true });
  }
  addEventListener("keydown", ({ key }) => (used ||= key !== "Shift"), { passive: true });
  panel.querySelector("[data-leave]")?.addEventListener("click", leave);
  panel.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.preventDefault();
    leave();
  });
  observer.observe(main, { childList: true, subtree: true, attributes: true, attributeFilter: ["hidden"] });
  place();
}

if (globalThis.document) begin();
