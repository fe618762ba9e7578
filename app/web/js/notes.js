// @ts-check
/* A feature's star, label, verdict and note: each is kept as soon as it is changed, and the heading
   shows the label. */

import { featureName, unbroken } from "./dom.js";
import { problem } from "./frame.js";
import { ServerError, call } from "./server.js";

/** @typedef {{starred?: "yes" | "no", label?: string, verdict?: string, note?: string}} Change */

/** Changes are sent one after another, so that the last one stays. @type {Promise<void>} */
let sent = Promise.resolve();
let unsent = 0;

/** Resolves once the server has answered every change so far. */
export const notesSent = () => sent;

/** Do a change after all before it; one that fails stops none. @param {() => Promise<void>} change */
export const inOrder = (change) => (sent = sent.then(change).catch((error) => reportError(error)));

/** Listen to every form of notes that `main` shows, now and later. @param {HTMLElement} main */
export function keepNotes(main) {
  main.addEventListener("click", (event) => {
    const ofRow = event.target instanceof Element && event.target.closest("[data-row-star]");
    if (ofRow instanceof HTMLElement) void starRow(ofRow);
    const star = event.target instanceof Element && event.target.closest("[data-star]");
    if (!(star instanceof HTMLElement) || !star.closest("[data-own-notes]")) return;
    showStar(star, star.getAttribute("aria-pressed") !== "true");
    keep(star, { starred: star.getAttribute("aria-pressed") === "true" ? "yes" : "no" });
  });
  main.addEventListener("change", (event) => {
    const field = event.target;
    if (!(field instanceof Element) || !field.closest("[data-own-notes]")) return;
    if (
      field instanceof HTMLInputElement ||
      field instanceof HTMLSelectElement ||
      field instanceof HTMLTextAreaElement
    ) {
      keep(field, { [field.name]: field.name === "verdict" ? field.value || "none" : field.value });
    }
  });
  main.addEventListener("submit", (event) => {
    // Enter in the label has changed it already.
    const form = event.target;
    if (form instanceof Element && form.matches("[data-own-notes]")) event.preventDefault();
  });
}

/** @param {HTMLElement} star @param {boolean} starred */
function showStar(star, starred) {
  star.setAttribute("aria-pressed", String(starred));
  const sign = star.querySelector(".star");
  if (sign) sign.textContent = starred ? "★" : "☆";
}

/** @param {HTMLElement} control @param {Change} change */
function keep(control, change) {
  const form = /** @type {HTMLElement} */ (control.closest("[data-own-notes]"));
  const view = form.closest("[data-view]");
  const status = form.querySelector("[data-kept]");
  if (!(view instanceof HTMLElement) || !status) return;
  const of = { feature: Number(view.dataset.feature), sae: view.dataset.sae };
  status.textContent = "Keeping it.";
  unsent += 1;
  void inOrder(async () => {
    try {
      const kept = await call("notes", { ...of, ...change }, { keepalive: true });
      if (unsent === 1) status.textContent = "Kept.";
      showName(view, form, kept.label);
    } catch (error) {
      const sentence = error instanceof ServerError ? error.message : "It could not be kept.";
      status.replaceChildren(problem(sentence));
      if (change.starred) showStar(control, change.starred === "no");
      if (!(error instanceof ServerError)) reportError(error);
    } finally {
      unsent -= 1;
    }
  });
}

/** The star of a row in a list. It stays in the list that is filtered by stars, to be given again.
 * @param {HTMLElement} star */
async function starRow(star) {
  const status = star.closest("[data-sae]")?.querySelector("[data-row-kept]");
  const starred = star.getAttribute("aria-pressed") !== "true";
  showStar(star, starred);
  const feature = Number(star.dataset.rowStar);
  const sae = star.closest("[data-sae]")?.getAttribute("data-sae");
  await inOrder(async () => {
    try {
      const change = { starred: starred ? "yes" : "no" };
      await call("notes", { feature, sae, ...change }, { keepalive: true });
      status?.replaceChildren();
    } catch (error) {
      showStar(star, !starred);
      const sentence = error instanceof ServerError ? error.message : "It could not be kept.";
      status?.replaceChildren(problem(sentence));
      if (!(error instanceof ServerError)) reportError(error);
    }
  });
}

/** The heading has the label, the signature below it. @param {HTMLElement} view
 * @param {HTMLElement} form @param {string | null} label */
function showName(view, form, label) {
  const signature = form.dataset.signature ?? "";
  const name = view.querySelector("[data-feature-name] bdi");
  if (name) name.textContent = unbroken(featureName({ label, signature }));
  const below = view.querySelector("[data-own-signature]");
  if (below instanceof HTMLElement) {
    below.hidden = !label;
    const words = below.querySelector("bdi");
    if (words) words.textContent = unbroken(signature);
  }
  document.title = `#${view.dataset.feature} ${featureName({ label, signature })} · Jumpscope`;
}
