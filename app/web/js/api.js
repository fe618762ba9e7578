// @ts-check
/* The API page: each endpoint's form asks it, and its examples name the address that people have. */

import { el } from "./dom.js";
import { busy, placeWords, problem, start } from "./frame.js";
import { call, ServerError, within } from "./server.js";

/** @typedef {HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement} Control */

const LONGEST = 200_000; // characters of an answer that are drawn

/** @param {HTMLFormElement} form @returns {Control[]} */
const controls = (form) => /** @type {Control[]} */ ([...form.querySelectorAll("[name]")]);

start();
const here = within("./").replace(/\/$/, "");
for (const code of document.querySelectorAll("code[data-here]")) {
  const copied = code.closest(".snippet")?.querySelector("[data-copy]");
  const text = (code.textContent ?? "").replaceAll(code.getAttribute("data-here") ?? "", here);
  code.textContent = text;
  copied?.setAttribute("data-copy", text);
}
for (const form of document.querySelectorAll("form[data-endpoint]")) {
  if (form instanceof HTMLFormElement) prepare(form);
}

/** @param {HTMLFormElement} form */
function prepare(form) {
  const stop = /** @type {HTMLButtonElement} */ (form.querySelector("[data-stop]"));
  const run = /** @type {HTMLButtonElement} */ (form.querySelector(".primary"));
  /** @type {AbortController | null} */
  let running = null;
  stop.addEventListener("click", () => running?.abort());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (running) return;
    running = new AbortController();
    stop.hidden = false;
    run.setAttribute("aria-disabled", "true");
    await busy(ask(form, running.signal));
    running = null;
    if (document.activeElement === stop) run.focus();
    stop.hidden = true;
    run.removeAttribute("aria-disabled");
  });
}

/** @param {HTMLFormElement} form @param {AbortSignal} signal */
async function ask(form, signal) {
  const status = /** @type {HTMLElement} */ (form.querySelector("[role=status]"));
  const answer = /** @type {HTMLDetailsElement} */ (form.querySelector("[data-answer]"));
  const problems = /** @type {HTMLElement} */ (form.querySelector("[data-problem]"));
  problems.replaceChildren();
  for (const each of controls(form)) each.removeAttribute("aria-invalid");
  status.textContent = "Asked.";
  let unfolded = false; // once for each run: who folds a growing answer keeps it folded
  const show = (/** @type {unknown} */ value) => {
    draw(answer, value);
    if (!unfolded) answer.open = true;
    unfolded = true;
  };
  try {
    const value = await call(form.dataset.endpoint ?? "", given(form), {
      signal,
      onQueue: (place) => (status.textContent = placeWords(place)),
      onStart: () => (status.textContent = "Running."),
      onProgress: show,
    });
    show(value);
    status.textContent = "Answered.";
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") {
      status.textContent = "Stopped.";
      return;
    }
    if (!(error instanceof ServerError)) throw error;
    status.textContent = "";
    problems.append(problem(error.message));
    blame(form, error.field);
  }
}

/**
 * The arguments that are written in a form; what is left empty is left out.
 * @param {HTMLFormElement} form
 * @returns {Record<string, unknown>}
 */
function given(form) {
  const written = controls(form).map((each) => [each.name, valueOf(each)]);
  return Object.fromEntries(written.filter(([, value]) => value !== ""));
}

/**
 * A control's value as the endpoint takes it. What cannot be read goes as text, and the server says
 * what it should be.
 * @param {Control} control
 */
function valueOf(control) {
  if (control instanceof HTMLInputElement && control.type === "checkbox") return control.checked;
  const text = control.value;
  const kind = control.dataset.kind;
  if (kind === "number" && text.trim() !== "" && Number.isFinite(Number(text))) return Number(text);
  if (kind !== "written" || text.trim() === "") return kind ? text.trim() : text;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** Mark the control that an error is about, and go there. @param {HTMLFormElement} form @param {string} field */
function blame(form, field) {
  const control = controls(form).find((each) => each.name === field.split(".")[0]);
  control?.setAttribute("aria-invalid", "true");
  control?.focus();
}

/** @param {HTMLDetailsElement} details @param {unknown} value */
function draw(details, value) {
  const text = JSON.stringify(value, null, 2);
  const cut = text.length > LONGEST;
  const summary = /** @type {HTMLElement} */ (details.querySelector("summary"));
  summary.textContent = `Answer, ${text.length.toLocaleString("en")} characters`;
  details.querySelector("pre")?.replaceChildren(
    text.slice(0, LONGEST),
    cut ? el("i", {}, "\n… and so on: curl or Python give all of it") : "",
  );
  details.hidden = false;
}
