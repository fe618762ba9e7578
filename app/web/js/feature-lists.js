// @ts-check
/* On a feature's page: the lists that hold it. */

import { el } from "./dom.js";
import { problem } from "./frame.js";
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

/** Put the feature into the list, or take it out. @param {HTMLInputElement} box */
export async function listChosen(box) {
  const asked = { list_id: box.dataset.inList, action: box.checked ? "add" : "take" };
  say(box, "Keeping it.");
  try {
    await call("lists", { ...asked, ...featureOf(box) });
    say(box, "Kept.");
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    box.checked = !box.checked;
    say(box, problem(error.message));
  }
}

/** Begin a list with the feature. @param {HTMLFormElement} form */
export async function makeList(form) {
  const field = form.querySelector("input");
  const lists = form.closest("[data-in-lists]")?.querySelector("fieldset");
  if (!field || !lists) return;
  try {
    const { list } = await call("lists", { action: "make", name: field.value });
    await call("lists", { action: "add", list_id: list.id, ...featureOf(form) });
    const box = el("input", { type: "checkbox", "data-in-list": list.id, checked: true });
    lists.append(el("label", {}, box, " ", el("bdi", {}, list.name)));
    field.value = "";
    say(form, "Kept.");
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    say(form, problem(error.message));
  }
}
