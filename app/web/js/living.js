// @ts-check
/* The sentence with which the overview opens. Its words are analysed once the model is loaded and the
   sentence is on the screen; choosing one shows what comes next and which features carry that, and a
   button steers in place. The pages Prompt and Steer tell the rest. */

import { address, el, featureName, quoted, tokenNodes, unbroken } from "./dom.js";
import { busy, onState, placeWords, problem, sae, saeInAddress } from "./frame.js";
import { fixed, percent } from "./numbers.js";
import { ServerError, call } from "./server.js";
import { oneStop, setValue } from "./steps.js";

/** @typedef {import("./effects.js").Prediction} Prediction */
/** @typedef {import("./prompt-colours.js").Analysis} Analysis */
/** @typedef {import("./steer-run.js").Run} Run */
/** @typedef {import("./steer-settings.js").Settings & {title?: string}} Example */

const NEXT = 4; // next tokens that are listed
const CARRIERS = 3; // features that are listed

/** @param {string} id */
const at = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

let loaded = false;
/** @type {HTMLElement | null} the button whose run is under way */
let steering = null;
let begin = () => {};
onState((state) => {
  loaded = state.loaded;
  const steer = document.getElementById("living-steer");
  steer?.setAttribute("aria-disabled", String(!loaded || steer === steering));
  begin();
});

/** Make the sentence live that is on the page now. */
export function startLiving() {
  const section = document.getElementById("living");
  if (!section || section.dataset.started) return;
  section.dataset.started = "true";
  const text = at("living-text").textContent ?? "";
  const steer = document.getElementById("living-steer");
  let seen = false;
  let begun = false;
  begin = () => {
    if (begun || !loaded || !seen || !section.isConnected) return;
    begun = true;
    void analyse(section, text);
  };
  const watcher = new IntersectionObserver((entries) => {
    if (!entries.some(({ isIntersecting }) => isIntersecting)) return;
    watcher.disconnect();
    seen = true;
    begin();
  });
  watcher.observe(section);
  steer?.setAttribute("aria-disabled", String(!loaded));
  steer?.addEventListener("click", () => {
    if (steer.ariaDisabled !== "true") void steerInPlace(steer);
  });
}

/** What went wrong, in an element. @param {HTMLElement} slot @param {unknown} error */
function tell(slot, error) {
  if (!(error instanceof ServerError)) throw error;
  slot.hidden = false;
  slot.replaceChildren(problem(error.message));
}

/** @param {HTMLElement} section @param {string} text */
async function analyse(section, text) {
  const slot = at("living-answer");
  try {
    const data = /** @type {Analysis} */ (await call("prompt_features", { text, sae: sae(), limit: 1 }));
    if (!section.isConnected) return;
    drawWords(section, data, text);
  } catch (error) {
    tell(slot, error);
  }
}

/** @param {HTMLElement} section @param {Analysis} data @param {string} text */
function drawWords(section, data, text) {
  const box = at("living-text");
  /** @type {Map<number, HTMLElement>} */
  const words = new Map();
  /** @type {Map<number, Prediction>} */
  const answers = new Map();
  let chosen = -1;
  const nodes = data.tokens
    .filter(({ special }) => !special)
    .flatMap((token) => {
      const span = el("span", { role: "button", "aria-pressed": "false", onclick: () => choose(token.i) });
      setValue(span, `${fixed(token.active, 0)} features fire here`);
      words.set(token.i, span);
      return tokenNodes(span, token.text, token.bytes);
    });
  box.replaceChildren(...nodes);
  oneStop(box);
  at("living-hint").textContent = "Choose a word: what comes after it, and which features carry that.";
  const first = Number(section.dataset.token || -1);
  if (words.has(first)) void choose(first);

  /** @param {number} token */
  async function choose(token) {
    chosen = token;
    for (const [i, span] of words) span.setAttribute("aria-pressed", String(i === token));
    oneStop(box);
    const slot = at("living-answer");
    try {
      const asked = { text, token, sae: sae(), limit: CARRIERS, next_tokens: NEXT, estimates: false };
      const answer = answers.get(token) ?? /** @type {Prediction} */ (await busy(call("effects", asked)));
      answers.set(token, answer);
      // Another word was chosen meanwhile, or another SAE.
      if (chosen !== token || !section.isConnected) return;
      slot.hidden = false;
      slot.replaceChildren(...answerNodes(answer, text, token));
    } catch (error) {
      if (chosen === token && section.isConnected) tell(slot, error);
    }
  }
}

/** @param {Prediction} answer @param {string} text @param {number} token */
function answerNodes({ base, effects, definitions }, text, token) {
  const inAddress = saeInAddress(sae());
  const largest = Math.max(...base.map(({ p }) => p));
  const next = base.map(({ text: word, bytes, p }) =>
    el(
      "li",
      {},
      el("bdi", { class: "mono" }, quoted(word, bytes)),
      el(
        "span",
        { class: "mini", "aria-hidden": "true" },
        el("i", { style: `width:${((100 * p) / largest).toFixed(1)}%` }),
      ),
      el("span", { class: "n" }, percent(p)),
    ),
  );
  const carriers = effects.map(({ feature, signature, label, kl, becomes }) =>
    el(
      "li",
      {},
      el(
        "a",
        { href: address("features", { sae: inAddress, feature }) },
        el("span", { class: "id" }, `#${feature}`),
        " ",
        el("bdi", {}, unbroken(featureName({ signature, label }))),
      ),
      el(
        "span",
        { class: "quiet" },
        `KL ${fixed(kl, 2)} without it`,
        ...(becomes
          ? ["; then likeliest ", el("bdi", { class: "mono" }, quoted(becomes.text, becomes.bytes))]
          : []),
      ),
    ),
  );
  const tip = definitions.effect_kl;
  return [
    el("section", {}, el("h3", {}, "What comes next"), el("ol", { class: "living-next" }, next)),
    el(
      "section",
      {},
      el(
        "h3",
        {},
        el("button", { type: "button", class: "term", "data-tip": tip, "aria-description": tip }, "What carries that"),
      ),
      carriers.length
        ? el("ol", { class: "living-carriers" }, carriers)
        : el("p", { class: "quiet" }, "No feature of this SAE is read at this token."),
      el(
        "p",
        {},
        el("a", { href: address("prompt", { sae: inAddress, text, token }) }, "All that fires in this sentence"),
      ),
    ),
  ];
}

/** @param {HTMLElement} button */
async function steerInPlace(button) {
  const example = /** @type {Example} */ (JSON.parse(at("living-example").textContent ?? "{}"));
  const slot = at("living-run");
  button.ariaDisabled = "true";
  steering = button;
  try {
    const { queryOf } = await import("./steer-settings.js");
    const label = await labelOf(example);
    const target = address("steer", { sae: saeInAddress(example.sae ?? ""), ...queryOf(example, {}) });
    /** @param {Run} run */
    const show = (run) => {
      slot.hidden = false;
      slot.replaceChildren(...runNodes(run, target, label));
    };
    const onQueue = (/** @type {import("./server.js").Place} */ place) => {
      slot.hidden = false;
      slot.replaceChildren(el("p", { class: "quiet", role: "status" }, placeWords(place)));
    };
    show(await busy(call("steer", { ...example }, { onProgress: show, onQueue })));
  } catch (error) {
    tell(slot, error);
  } finally {
    if (steering === button) steering = null;
    button.ariaDisabled = "false";
  }
}

/**
 * The label of the feature that a run steers, which no run answers; null where there is none.
 * @param {Example} example
 * @returns {Promise<string | null>}
 */
async function labelOf({ sae: named, edits }) {
  const edit = edits?.[0];
  if (!edit) return null;
  try {
    return (await call("notes", { feature: edit.feature, sae: edit.sae || named || "" })).label;
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    return null; // the run itself says what is wrong
  }
}

/**
 * @param {Run} run
 * @param {string} target the Steer page's address of it
 * @param {string | null} label of its first edit's feature
 */
function runNodes(run, target, label) {
  const [edit] = run.edits;
  const scale = edit.max_act ?? Math.max(...run.steered.map(({ own }) => own[0]), 1e-9);
  /** @param {"base" | "steered"} arm @param {string} words */
  const column = (arm, words) =>
    el(
      "section",
      {},
      el("h3", {}, words),
      el(
        "div",
        { class: "tokens", role: "group", "aria-label": words },
        el("span", { class: "given" }, run.prompt ?? ""),
        run[arm].flatMap(({ text, bytes, own }) => {
          const style = own[0] > 0 && `--a:${Math.min(1, own[0] / scale).toFixed(3)}`;
          return tokenNodes(el("span", { style }), text, bytes);
        }),
      ),
    );
  return [
    column("base", "As it is"),
    column("steered", `With #${edit.feature} ${featureName({ ...edit, label })} held on`),
    el("p", {}, el("a", { href: target }, "Steer on, and prove it")),
  ];
}
