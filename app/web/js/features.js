// @ts-check
/* Features: the list is searched while one types; a feature's page tests a text of one's own, folds
   its contexts, and opens the card of their numbers. The server draws both (templates/feature*.html). */

import { address, el, later, quoted, shows, tokenNodes } from "./dom.js";
import { busy, problem, query, setQuery, start } from "./frame.js";
import { navigation } from "./navigate.js";
import { keepNotes, notesSent } from "./notes.js";
import { number, percent } from "./numbers.js";
import { ServerError, call } from "./server.js";

const PHONE = "(max-width: 900px)"; // as in css/features.css
const FEW = 3;
const TYPING = 220; // ms without a key after which a text is tested

/**
 * @typedef {object} Tested What the endpoint `test_text` answers.
 * @property {string} sae
 * @property {number} feature
 * @property {string[]} tokens
 * @property {string[]} bytes
 * @property {boolean[]} special
 * @property {number[]} activations
 * @property {(number | null)[]} pre_activations
 * @property {number} threshold
 * @property {number | null} max_act
 */

/* The list */

/** The fields say what the address says, but for one being typed in. @param {HTMLElement} main */
function fillSearch(main) {
  const form = main.querySelector("form[data-search]");
  if (!(form instanceof HTMLFormElement)) return;
  for (const name of ["q", "min", "max", "score", "effect", "kept"]) {
    const field = form.elements.namedItem(name);
    if (!(field instanceof HTMLInputElement || field instanceof HTMLSelectElement)) continue;
    if (field !== document.activeElement) field.value = query()[name] ?? "";
  }
}

/** The number that a search asks for, "" if it asks for words. @param {string} words */
export const numberIn = (words) => /^\s*#?(\d+)\s*$/.exec(words)?.[1] ?? "";

/**
 * Where features are found by number alone, Enter opens the one.
 * @param {SubmitEvent} event
 * @param {(feature: string) => void} open
 */
function jump(event, open) {
  const form = event.target;
  if (!(form instanceof HTMLFormElement) || !form.hasAttribute("data-jump")) return;
  const feature = numberIn(String(new FormData(form).get("q") ?? ""));
  if (!feature) return;
  event.preventDefault();
  open(feature);
}

/* A text of one's own */

const typed = later(TYPING);
/** @type {AbortController | null} */
let asking = null;

/** @param {HTMLFormElement} form */
async function test(form) {
  const view = form.closest("[data-view]");
  const result = form.querySelector(".result");
  if (!(view instanceof HTMLElement) || !result) return;
  typed.cancel();
  const text = String(new FormData(form).get("text") ?? "");
  setQuery({ ...query(), text });
  carryText(text);
  asking?.abort();
  const mine = (asking = new AbortController());
  if (!text.trim()) {
    result.replaceChildren();
    return;
  }
  const asked = { text, feature: Number(view.dataset.feature), sae: view.dataset.sae };
  const onQueue = (/** @type {{rank: number}} */ { rank }) => {
    if (rank > 0) result.replaceChildren(el("p", { class: "quiet" }, `Waiting: ${rank} before it.`));
  };
  try {
    const answer = await busy(call("test_text", asked, { onQueue, signal: mine.signal }));
    result.replaceChildren(...drawn(answer, text));
    shows(form, "test_text", asked, answer);
  } catch (error) {
    if (mine.signal.aborted) return;
    if (!(error instanceof ServerError)) throw error;
    result.replaceChildren(problem(error.message));
  }
}

/** The steps to other features keep the text. @param {string} text */
function carryText(text) {
  for (const id of ["previous", "next", "random"]) {
    const link = document.getElementById(id);
    if (!(link instanceof HTMLAnchorElement)) continue;
    const target = new URL(link.href);
    if (text) target.searchParams.set("text", text);
    else target.searchParams.delete("text");
    link.href = target.href;
  }
}

/** @param {Tested} tested @param {string} text */
function drawn(tested, text) {
  const { tokens, bytes, activations, special } = tested;
  const { peak, words } = verdict(tested);
  // Without an index the text's own peak has the full colour.
  const scale = tested.max_act || Math.max(0, ...activations);
  const spans = tokens.flatMap((token, i) => {
    const value = activations[i];
    const on = value > 0 && !special[i];
    const kind = special[i] ? "special" : i === peak && "peak";
    const style = on && `--a:${Math.min(1, value / scale).toFixed(3)}`;
    const span = el("span", { class: kind, style, "data-v": on && number(value) });
    return tokenNodes(span, token, bytes[i]);
  });
  const heat = el(
    "div",
    {
      class: "tokens",
      role: "group",
      tabindex: "0",
      "aria-label": "Your text, coloured by activation",
      "data-steps": "[data-v]",
    },
    spans,
  );
  return [heat, el("p", { class: "quiet" }, words, " ", peak >= 0 && reproduce(tested, text))];
}

/**
 * Where it is strongest, -1 if it fires nowhere, and a sentence that says so.
 * @param {Tested} tested
 */
export function verdict({ activations, pre_activations, threshold, max_act }) {
  const largest = Math.max(0, ...activations);
  if (largest <= 0) {
    const near = Math.max(...pre_activations.map((value) => value ?? -Infinity));
    const words = `It fires nowhere here. Closest: ${number(near)}, against a threshold of `;
    return { peak: -1, words: `${words}${number(threshold)}.` };
  }
  const fired = activations.filter((value) => value > 0).length;
  const share = max_act ? ` (${percent(largest / max_act)} of its largest)` : "";
  const words = `Fires on ${fired} ${fired === 1 ? "token" : "tokens"}, at most ${number(largest)}`;
  return { peak: activations.indexOf(largest), words: `${words}${share}.` };
}

/**
 * The numbers that the card can be about: the activations on the text, the strongest first.
 * @param {Tested} tested
 * @param {string} text
 */
export function choicesOnText({ sae, feature, tokens, bytes, activations }, text) {
  return activations
    .map((value, token) => ({ value, token }))
    .filter(({ value }) => value > 0)
    .sort((one, other) => other.value - one.value)
    .map(({ value, token }) => ({
      words: `${number(value)} on ${quoted(tokens[token], bytes[token])}, token ${token}`,
      asked: { quantity: "activation", sae, feature, text, token },
    }));
}

/** @param {Tested} tested @param {string} text */
function reproduce(tested, text) {
  const name = "Reproduce: activations on your text";
  const onclick = async () => (await import("./card.js")).openCard(choicesOnText(tested, text));
  return el(
    "button",
    { type: "button", class: "plain", "aria-haspopup": "dialog", "aria-label": name, onclick },
    "Reproduce",
  );
}

/* Contexts */

let unfolded = false;

/** Whole contexts, or what stands around their peaks. @param {HTMLElement} main */
function fold(main) {
  const button = main.querySelector("[data-unfold]");
  if (!button) return;
  main.querySelector(".contexts")?.classList.toggle("compact", !unfolded);
  button.setAttribute("aria-pressed", String(unfolded));
  button.textContent = unfolded ? "Less of each context" : "More of each context";
}

/** On a phone a few of the strongest contexts are enough to begin with. @param {HTMLElement} main */
function foldGroups(main) {
  if (!matchMedia(PHONE).matches) return;
  const groups = /** @type {NodeListOf<HTMLDetailsElement>} */ (
    main.querySelectorAll("details.group")
  );
  groups.forEach((group, i) => (group.open = i === 0));
  const summary = groups[0]?.querySelector(".rest > summary");
  if (!summary) return;
  summary.after(...[...groups[0].querySelectorAll(".list > .context")].slice(FEW));
  summary.textContent = `${groups[0].querySelectorAll(".rest > .context").length} more`;
}

/** @param {MouseEvent} event @param {HTMLElement} main */
async function clicked(event, main) {
  const target = event.target instanceof Element ? event.target : null;
  if (target?.closest("[data-unfold]")) {
    unfolded = !unfolded;
    fold(main);
  }
  const jumped = target?.closest("[data-group]")?.getAttribute("data-group");
  const group = jumped && document.getElementById(jumped);
  if (group instanceof HTMLDetailsElement) {
    // No step of the history, which would fetch the page anew and begin at its top.
    event.preventDefault();
    group.open = true;
    group.querySelector("summary")?.focus({ preventScroll: true });
    group.scrollIntoView();
  }
  const explained = target?.closest("[data-explain] button");
  if (explained) (await import("./explanation.js")).pressed(explained);
  const measured = target?.closest("[data-together-ask]");
  if (measured) void (await import("./neighbours.js")).measureNeighbours(measured);
  const button = target?.closest("[data-reproduce]");
  if (button instanceof HTMLElement) {
    const { choicesOf, openCard } = await import("./card.js");
    openCard(choicesOf(button));
  }
}

/* The links beside contexts would be as many stops of the Tab key: on a token, Enter follows its own. */
/** @param {KeyboardEvent} event */
function readInPrompt({ key, target }) {
  if (key !== "Enter" || !(target instanceof Element) || !target.matches("[data-v]")) return;
  const link = target.closest(".context")?.querySelector("a.in-prompt");
  if (link instanceof HTMLAnchorElement) link.click();
}

/* The page */

function begin() {
  const main = /** @type {HTMLElement} */ (document.getElementById("content"));
  const formOf = (/** @type {Event} */ event) => {
    const form = event.target instanceof Element ? event.target.closest("form[data-test]") : null;
    return form instanceof HTMLFormElement ? form : null;
  };
  main.addEventListener("input", (event) => {
    const form = formOf(event);
    if (!form) return;
    // At once: who steps on right after the last key takes the text along.
    carryText(String(new FormData(form).get("text") ?? ""));
    typed.call(() => void test(form));
  });
  main.addEventListener("click", (event) => void clicked(event, main));
  main.addEventListener("keydown", readInPrompt);
  main.addEventListener("change", ({ target }) => {
    if (target instanceof HTMLInputElement && target.dataset.inList) {
      void import("./feature-lists.js").then(({ listChosen }) => listChosen(target));
    }
  });
  keepNotes(main);
  const { go, onSae, refresh } = navigation({
    settled: notesSent, // a star just set counts in a list that shows the starred
    onShown: () => {
      fillSearch(main);
      fold(main);
      foldGroups(main);
      // The list has none, and few requests bring it.
      if (main.querySelector("[data-lab]")) void import("./threshold.js").then((lab) => lab.showLab(main));
      const form = main.querySelector("form[data-test]");
      if (form instanceof HTMLFormElement && new FormData(form).get("text")) void test(form);
    },
  });
  const submitted = (/** @type {SubmitEvent} */ event) => {
    const form = formOf(event);
    if (event.target instanceof HTMLFormElement && event.target.matches("[data-new-list]")) {
      event.preventDefault();
      const made = event.target;
      void import("./feature-lists.js").then(({ makeList }) => makeList(made));
      return;
    }
    if (!form) {
      jump(event, (feature) => void go(address("features", { sae: query().sae, feature })));
      return;
    }
    event.preventDefault();
    void test(form);
  };
  // Before the search of navigate.js, which leaves alone what is answered here.
  main.addEventListener("submit", submitted, { capture: true });
  start({ onSae, refresh });
}

if (globalThis.document) begin();
