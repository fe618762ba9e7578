// @ts-check
/* The card beside a feature's number: what it fires on, without leaving the page. It comes where the
   pointer rests on a link to a feature, or the keyboard's focus does, and goes with either, with
   Escape, a click or scrolling. Whatever it shows stands on the feature's own page too. */

import { address, el } from "./dom.js";
import { markup, sae } from "./frame.js";
import { ServerError, page } from "./server.js";
import { hasMoved } from "./steps.js";

const RESTS = 350; // ms that a pointer rests before the card comes
const GRACE = 220; // ms to reach the card
const GAP = 10; // px

const card = el("aside", { id: "glance", class: "panel", "aria-label": "The feature at a glance", hidden: true });
/** @type {Element | null} */
let shownFor = null;
let shown = ""; // the address of its card: a link may lead elsewhere later
let timer = 0;

/**
 * The address of the card of what an element leads to; "" for none.
 * @param {Element} node
 */
export function glanceOf(node) {
  const link = node.closest("a[href]");
  if (!(link instanceof HTMLAnchorElement)) return "";
  const target = new URL(link.href);
  const feature = target.searchParams.get("feature") ?? "";
  if (!target.pathname.endsWith("/features") || !/^\d+$/.test(feature)) return "";
  return address("glance", { sae: target.searchParams.get("sae") ?? "", feature });
}

/** A feature's button on a page about the SAE that the address names. @param {Element} node */
function glanceOfButton(node) {
  const feature = node.closest("button[data-feature]")?.getAttribute("data-feature") ?? "";
  return /^\d+$/.test(feature) ? address("glance", { sae: sae(), feature }) : "";
}

/** @param {EventTarget | null} target */
function subject(target) {
  if (!(target instanceof Element)) return null;
  // Where pointing at a row has a meaning of its own, a step is one to the next feature, or the
  // contexts stand there already.
  if (target.closest("#glance, [data-tip], .effects, .buttons, .card")) return null;
  const node = target.closest("a[href], button[data-feature]");
  const glance = node && (glanceOf(node) || glanceOfButton(node));
  return node && glance ? { node, target: glance } : null;
}

/** What the card is about, null while there is none. */
export const subjectOfCard = () => shownFor;

function hide() {
  clearTimeout(timer);
  shownFor = null;
  card.hidden = true;
}

/** @param {{node: Element, target: string}} of */
async function show({ node, target }) {
  try {
    const { html } = await page(target);
    if (shownFor !== node || shown !== target || !node.isConnected) return;
    card.replaceChildren(markup(html));
    if (!card.isConnected) document.body.append(card);
    card.hidden = false;
    place(node);
  } catch (error) {
    // The link itself leads to the sentence.
    if (!(error instanceof ServerError)) throw error;
  }
}

/** Beside the link where there is room, else below or above it. @param {Element} node */
function place(node) {
  const box = node.getBoundingClientRect();
  const own = card.getBoundingClientRect();
  const { clientWidth: width, clientHeight: height } = document.documentElement;
  const beside = box.right + GAP + own.width < width;
  const left = beside ? box.right + GAP : Math.max(8, Math.min(box.left, width - own.width - 8));
  const below = box.bottom + GAP + own.height < height;
  const under = below ? box.bottom + GAP : box.top - GAP - own.height;
  const top = Math.max(8, beside ? Math.min(box.top - 8, height - own.height - 8) : under);
  card.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
}

/** @param {EventTarget | null} target @param {number} wait ms */
function later(target, wait) {
  const of = subject(target);
  if (of && of.node === shownFor && of.target === shown) {
    clearTimeout(timer);
    if (card.hidden) timer = window.setTimeout(show, wait, of);
    return;
  }
  clearTimeout(timer);
  if (target instanceof Element && target.closest("#glance")) return;
  if (!of) {
    timer = window.setTimeout(hide, GRACE);
    return;
  }
  card.hidden = true;
  shownFor = of.node;
  shown = of.target;
  timer = window.setTimeout(show, wait, of);
}

/** Listen; once a page. @param {EventTarget | null} first what the pointer or the focus is on already */
export function startGlances(first) {
  document.addEventListener("pointerover", (event) => {
    if (event.pointerType === "mouse" && hasMoved(event)) later(event.target, RESTS);
  });
  // From whoever lays a link under a resting pointer on purpose, or takes it away (map-view.js).
  document.addEventListener("pointed", ({ target }) => later(target, RESTS));
  document.addEventListener("focusin", ({ target }) => {
    if (target instanceof Element && target.matches(":focus-visible")) later(target, RESTS);
  });
  document.addEventListener("pointerdown", ({ target }) => {
    if (!(target instanceof Element && target.closest("#glance"))) hide();
  });
  document.addEventListener("keydown", ({ key }) => key === "Escape" && hide());
  document.addEventListener("scroll", hide, { capture: true, passive: true });
  addEventListener("resize", hide);
  later(first, RESTS);
}
