// @ts-check
/* Prompt and Steer: the page as its address has it is saved by a name, and listed on /lists. */

import { address } from "./dom.js";
import { problem, query } from "./frame.js";
import { ServerError, call } from "./server.js";

/** The page's address relative to the app, with what is too long for a link.
 * @param {string} pathname @param {Record<string, string>} values */
export const relativeAddress = (pathname, values) =>
  address(pathname.slice(pathname.lastIndexOf("/") + 1), values);

/** @param {HTMLFormElement} form */
export async function savePage(form) {
  const said = form.closest(".save-page")?.querySelector("[data-said]");
  const name = String(new FormData(form).get("name") ?? "");
  if (form.ariaBusy === "true") return; // a second Enter saves no second one
  form.ariaBusy = "true";
  said?.replaceChildren("Saving it.");
  try {
    await call("saved", {
      action: "save",
      name,
      address: relativeAddress(location.pathname, query()),
    });
    said?.replaceChildren("Saved.");
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    said?.replaceChildren(problem(error.message));
  } finally {
    form.ariaBusy = "false";
  }
}
