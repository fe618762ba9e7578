// @ts-check
/* On a feature's page: the lists that hold it. */

import { el } from "./dom.js";
import { problem } from "./frame.js";
import { inOrder } from "./notes.js";
import { ServerError, call } from "./server.js";

/** The feature of the page that an element stands on. @param {Element} within_ */
function featureOf(within_) {
  const view = within_.closest("[data-view]");
  if (!(view instanceof HTMLElement)) return {};
  return { feature: Number(view.dataset.feature), sae: view.dataset.sae };
}

/** @param {Element} within_ @param {string | HTMLElement} words */
function say(within_, words) {
  within_.closest("[data-in-lists]")?.querySelector("[data-said]")?.replaceChildren(words);
}

/** Why something was not kept. @param {unknown} error */
function refusal(error) {
  if (!(error instanceof ServerError)) reportError(error);
  return problem(error instanceof ServerError ? error.message : "It could not be kept.");
}

/** Put the feature into the list, or take it out. @param {HTMLInputElement} box */
export function listChosen(box) {
  const wanted = box.checked;
  const asked = { list_id: box.dataset.inList, action: wanted ? "add" : "take", ...featureOf(box) };
  say(box, "Keeping it.");
  return inOrder(async () => {
    try {
      await call("lists", asked, { keepalive: true });
      say(box, "Kept.");
    } catch (error) {
      if (box.checked === wanted) box.checked = !wanted;
      say(box, refusal(error));
    }
  });
}

/** Begin a list with the feature. @param {HTMLFormElement} form */
export async function makeList(form) {
  const field = form.querySelector("input");
  const lists = form.closest("[data-in-lists]")?.querySelector("fieldset");
  if (!field || !lists) return;
  const name = field.value;
  if (!name) return; // a second Enter, before this module was there
  field.value = ""; // a second Enter makes no second list
  await inOrder(async () => {
    try {
      const { list } = await call("lists", { action: "make", name });
      const box = el("input", { type: "checkbox", "data-in-list": list.id });
      lists.append(el("label", {}, box, " ", el("bdi", {}, list.name)));
      await call("lists", { action: "add", list_id: list.id, ...featureOf(form) });
      box.checked = true;
      say(form, "Kept.");
    } catch (error) {
      field.value ||= name;
      say(form, refusal(error));
    }
  });
}
