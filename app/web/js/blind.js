// @ts-check
/* The blind test: the keys 1, 2 and 3 answer the question that is next, Enter keeps the rating and
   goes on to the first item that is not rated yet. */

import { busy, problem, start } from "./frame.js";
import { call, ServerError } from "./server.js";

start();
const form = document.getElementById("rate");
if (form instanceof HTMLFormElement) prepare(form);

/** Whether Enter means something to an element itself. @param {Element | null} element */
const interactive = (element) => !!element?.closest("a, button, summary, select, input, textarea");

/** The question that a key answers: the one with the focus, else the first without an answer.
 * @param {HTMLFormElement} rating @returns {Element | null} */
function question(rating) {
  const questions = [...rating.querySelectorAll("[data-question]")];
  const held = questions.find((each) => each.contains(document.activeElement));
  return held ?? questions.find((each) => !each.querySelector(":checked")) ?? questions.at(-1) ?? null;
}

/** What is said of the item; null with a sentence where something is left out.
 * @param {HTMLFormElement} rating @returns {{said: Record<string, unknown> | null, sentence: string}} */
function answers(rating) {
  const data = new FormData(rating);
  const intruders = Number(rating.dataset.intruders);
  if (!rating.querySelector("[data-question]")) {
    const marked = data.getAll("marked").map(Number);
    if (marked.length !== intruders) return { said: null, sentence: `Mark ${intruders} contexts.` };
    return { said: { marked }, sentence: "" };
  }
  const verdict = data.get("verdict");
  const grade = data.get("grade");
  if (!verdict || !grade) return { said: null, sentence: "Answer both questions." };
  return { said: { verdict, grade: Number(grade) }, sentence: "" };
}

/** @param {HTMLFormElement} rating */
function prepare(rating) {
  const told = /** @type {HTMLElement} */ (document.getElementById("said"));
  const save = /** @type {HTMLButtonElement} */ (document.getElementById("save"));
  const given = JSON.parse(rating.dataset.given ?? "{}");
  let saving = false;

  /** Keep the rating; the page of the next item follows. */
  async function keep() {
    const { said, sentence } = answers(rating);
    if (saving) return;
    if (!said) {
      told.replaceChildren(problem(sentence));
      return;
    }
    saving = true;
    save.setAttribute("aria-busy", "true");
    try {
      await busy(call("ratings", { ...given, at: Number(rating.dataset.at), ...said }));
      location.assign(rating.dataset.onward ?? "blind");
    } catch (error) {
      if (!(error instanceof ServerError)) throw error;
      told.replaceChildren(problem(error.message));
      saving = false;
      save.removeAttribute("aria-busy");
    }
  }

  rating.addEventListener("submit", (event) => {
    event.preventDefault();
    void keep();
  });
  rating.addEventListener("change", () => {
    const marks = document.getElementById("marks");
    const count = rating.querySelectorAll("[name=marked]:checked").length;
    if (marks) marks.textContent = `${count} of ${rating.dataset.intruders} marked`;
    told.replaceChildren();
  });
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const radio = question(rating)?.querySelectorAll("input")[Number(event.key) - 1];
    if (/^[123]$/.test(event.key) && radio) {
      event.preventDefault();
      radio.checked = true;
      radio.dispatchEvent(new Event("change", { bubbles: true }));
      // The next key answers the next question.
      if (document.activeElement instanceof HTMLElement) document.activeElement.blur();
    } else if (event.key === "Enter" && !interactive(document.activeElement)) {
      event.preventDefault();
      void keep();
    }
  });
  // From the browser's cache of pages: the rating is kept already, and may be changed.
  addEventListener("pageshow", () => {
    saving = false;
    save.removeAttribute("aria-busy");
  });
}
