// @ts-check
/* A feature's explanation by a language model: the first press of the button says what asking costs
   and where contexts are sent, the second asks. */

import { el } from "./dom.js";
import { busy, problem } from "./frame.js";
import { count } from "./numbers.js";
import { ServerError, call, page } from "./server.js";

/** What is asked for each of the parts: one that another page took the place of asks on, and keeps
 * no other feature's waiting. @type {WeakMap<HTMLElement, AbortController>} */
const asking = new WeakMap();

/** What a press of one of the part's buttons does. @param {Element} target */
export function pressed(target) {
  const part = target.closest("[data-explain]");
  const button = target.closest("button");
  if (!(part instanceof HTMLElement) || !button) return;
  if (button.hasAttribute("data-explain-cost")) void ask(part, button, false);
  else if (button.hasAttribute("data-explain-ask")) void ask(part, button, true);
  else if (button.hasAttribute("data-explain-stop")) asking.get(part)?.abort();
}

/** @param {{host: string, model: string, cost: {requests: number, tokens_in: number, tokens_out: number}}} answer */
export function costWords({ host, model, cost }) {
  const tokens = `about ${count(cost.tokens_in)} tokens sent and ${count(cost.tokens_out)} answered`;
  return `${model} at ${host} is sent contexts of this feature and of others: ${cost.requests} requests, ${tokens}.`;
}

/** Draw the explanations as the server's template writes them. @param {HTMLElement} part */
async function draw(part) {
  const { html } = await page(location.href);
  const fresh = new DOMParser().parseFromString(html, "text/html");
  const rows = fresh.querySelector("[data-explanations]");
  if (rows) part.querySelector("[data-explanations]")?.replaceChildren(...rows.childNodes);
}

/** @param {HTMLElement} part @param {HTMLButtonElement} button @param {boolean} really */
async function ask(part, button, really) {
  const view = part.closest("[data-view]");
  const status = part.querySelector("[data-explain-status]");
  if (!(view instanceof HTMLElement) || !status || asking.has(part)) return;
  const mine = new AbortController();
  asking.set(part, mine);
  const feature = Number(view.dataset.feature);
  const sae = view.dataset.sae ?? "";
  button.setAttribute("aria-busy", "true");
  const stop = el("button", { type: "button", class: "plain", "data-explain-stop": true }, "Stop");
  if (really) button.after(stop);
  /** @param {{done: number, cost: {requests: number} | null}} answer */
  const onProgress = ({ done, cost }) => {
    if (really && cost) status.textContent = `${done} of ${cost.requests} requests are answered.`;
  };
  try {
    const asked = { feature, sae, ask: really };
    const answer = await busy(call("explain", asked, { onProgress, signal: mine.signal }));
    if (really) {
      if (part.isConnected) await draw(part); // else the address is another page's
      status.textContent = "Explained.";
      return;
    }
    status.textContent = costWords(answer);
    const again = el("button", { type: "button", "data-explain-ask": true }, `Ask ${answer.model}`);
    button.replaceWith(again);
    again.focus();
  } catch (error) {
    if (mine.signal.aborted) status.textContent = "Stopped; what was answered is kept.";
    else if (error instanceof ServerError) status.replaceChildren(problem(error.message));
    else throw error;
  } finally {
    asking.delete(part);
    stop.remove();
    button.removeAttribute("aria-busy");
  }
}
