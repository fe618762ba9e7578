// @ts-check
/* The SQL page: Ctrl+Enter runs the query; while one runs, that is said and no second one starts. */

import { start } from "./frame.js";

start();
const asking = document.getElementById("sql");
const field = document.getElementById("query");
if (asking instanceof HTMLFormElement && field instanceof HTMLTextAreaElement) {
  prepare(asking, field);
}

/** @param {HTMLFormElement} form @param {HTMLTextAreaElement} query */
function prepare(form, query) {
  const run = /** @type {HTMLButtonElement} */ (document.getElementById("run"));
  const running = /** @type {HTMLElement} */ (document.getElementById("running"));
  /** @param {boolean} on */
  const draw = (on) => {
    if (on) run.setAttribute("aria-disabled", "true");
    else run.removeAttribute("aria-disabled");
    run.setAttribute("aria-busy", String(on));
    running.textContent = on ? "The query runs." : "";
  };
  query.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    form.requestSubmit();
  });
  form.addEventListener("submit", (event) => {
    if (run.getAttribute("aria-busy") === "true") event.preventDefault();
    else draw(true);
  });
  // From the browser's cache of pages, or when it was stopped.
  addEventListener("pageshow", () => draw(false));
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") draw(false);
  });
}
