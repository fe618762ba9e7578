// @ts-check
/* How an analysis stands on the prompt page: its numbers, its tokens, what is chosen, its features. */

import { el, tokenNodes } from "./dom.js";
import { missingIndex, problem } from "./frame.js";
import { fixed, percent } from "./numbers.js";
import { colours } from "./prompt-colours.js";
import {
  featurePanel,
  featuresOfText,
  reproduceTotals,
  tokenPanel,
  totalsNodes,
} from "./prompt-tables.js";
import { ServerError, call } from "./server.js";
import { sheet } from "./sheet.js";
import { oneStop, setValue } from "./steps.js";

/** @typedef {import("./prompt-colours.js").Analysis} Analysis */
/** @typedef {import("./prompt-colours.js").Token} Token */
/** @typedef {import("./prompt-tables.js").Reading} Reading */

/* Rows of the long table at first. */
const FEW = 40;

/**
 * @param {HTMLElement} main
 * @param {() => void} onClose nothing is to be chosen any more
 * @param {import("./prompt-compare.js").Address} place for what a part of it keeps in the address
 * @returns {{begin: (data: Analysis) => void, draw: (reading: Reading) => void}} `begin` with a new
 * analysis, `draw` after every change of what is shown of it
 */
export function drawing(main, onClose, place) {
  /** @param {string} id */
  const at = (id) => /** @type {HTMLElement} */ (main.querySelector(`#${id}`));
  /** @param {string} id */
  const field = (id) => /** @type {HTMLInputElement} */ (main.querySelector(`#${id}`));
  const panel = sheet(at("selection"), { onClose });
  /** @type {ReturnType<typeof import("./prompt-next.js").nextPart> | null} */
  let next = null;
  /** @type {HTMLElement[]} */
  let spans = [];
  /** @type {Reading | null} */
  let shown = null;
  let most = FEW;
  /** @type {number | null} */
  let unfolded = null; // the feature whose tokens are all listed

  main.addEventListener("click", ({ target }) => {
    if (!(target instanceof Element) || !shown) return;
    if (target.closest("#reproduce-totals")) reproduceTotals(shown.data);
    const measure = target.closest("[data-measure]");
    if (measure instanceof HTMLButtonElement) void measureUniformity(shown.data, measure);
    if (target.closest("[data-all]")) {
      most = Infinity;
      drawFeatures(shown);
    }
    if (target.closest("[data-more]")) {
      unfolded = shown.state.feature;
      drawChosen(shown);
    }
  });

  /** @param {Analysis} data */
  function begin(data) {
    [most, unfolded] = [FEW, null];
    at("totals").replaceChildren(...totalsNodes(data));
    at("missing").replaceChildren(...(data.missing ? [missingIndex(data.missing)] : []));
    for (const node of main.querySelectorAll("[data-indexed]")) {
      node.toggleAttribute("hidden", data.missing !== null);
    }
    spans = [];
    const nodes = data.tokens.flatMap(({ i, special, text, bytes }) => {
      const span = el("span", { role: "button", "data-i": i, class: special && "special" });
      spans.push(span);
      return tokenNodes(span, text, bytes);
    });
    at("tokens").replaceChildren(...nodes);
  }

  /* What comes next after a token; what draws it is fetched once a token is chosen. */
  /** @param {Reading} reading @param {Token} token */
  function nextOf(reading, token) {
    if (next) return next(reading, token);
    const words = "What comes next";
    const node = el("section", { class: "part next", "aria-label": words, "aria-busy": "true" });
    node.append(el("h3", {}, words), el("p", { class: "quiet" }, "Measuring…"));
    import("./prompt-next.js").then(
      ({ nextPart }) => {
        next ??= nextPart(place);
        if (node.isConnected) node.replaceWith(next(reading, token));
      },
      () => node.replaceWith(problem("A part of this page could not be fetched: try again.")),
    );
    return node;
  }

  /* It takes longer than the analysis, so it waits until it is asked for. */
  /** @param {Analysis} data @param {HTMLButtonElement} button */
  async function measureUniformity(data, button) {
    if (button.ariaBusy === "true") return;
    button.ariaBusy = "true";
    const given = data.messages ? { messages: data.messages } : { text: data.text };
    try {
      const asked = { ...given, sae: data.sae, limit: 1, uniformity: true };
      const { totals } = await call("prompt_features", asked);
      data.totals.uniformity = totals.uniformity;
      if (shown?.data === data) at("totals").replaceChildren(...totalsNodes(data));
    } catch (error) {
      if (!(error instanceof ServerError)) throw error;
      button.replaceWith(el("span", { class: "quiet", role: "alert" }, error.message));
    }
  }

  /** @param {Reading} reading */
  function draw(reading) {
    shown = reading;
    drawControls(reading);
    drawColours(reading);
    drawChosen(reading);
    drawFeatures(reading);
  }

  /** @param {Reading} reading */
  function drawControls({ state: { view, sort, hide } }) {
    const radios = /** @type {NodeListOf<HTMLInputElement>} */ (
      main.querySelectorAll("[name=view]")
    );
    for (const radio of radios) radio.checked = radio.value === view;
    field("sort").value = sort;
    field("hide").value = String(Math.log10(hide));
    const words = hide >= 1 ? "none" : `over ${percent(hide)} of tokens`;
    at("hide").setAttribute("aria-valuetext", words);
    at("hide-value").textContent = words;
  }

  /** @param {Reading} reading */
  function drawColours({ data, features, state }) {
    const { values, kind, words, legend } = colours(data, features, state);
    at("tokens").dataset.kind = kind;
    for (const [i, span] of spans.entries()) {
      span.style.setProperty("--a", Math.abs(values[i]).toFixed(3));
      span.classList.toggle("better", values[i] < 0);
      span.setAttribute("aria-pressed", String(i === state.token));
      setValue(span, words(data.tokens[i]));
    }
    oneStop(at("tokens"));
    const nodes = legend.map((part) =>
      typeof part === "string" ? part : el("span", { class: `key ${part.key}` }, part.words),
    );
    at("legend").replaceChildren(...nodes);
  }

  /* What was chosen last stands on top. */
  /** @param {Reading} reading */
  function drawChosen(reading) {
    const { data, features, state } = reading;
    const feature = state.feature === null ? undefined : features.get(state.feature);
    const token = state.token === null ? undefined : data.tokens[state.token];
    const panels = [
      ...(token ? [tokenPanel(reading, token, nextOf(reading, token))] : []),
      ...(feature ? [featurePanel(reading, feature, unfolded === feature.feature)] : []),
    ];
    if (state.last === "feature") panels.reverse();
    const hint = "Choose a token to see its features, or a feature to see its tokens.";
    const nothing = el("p", { class: "panel quiet" }, hint);
    at("selection-body").replaceChildren(...(panels.length ? panels : [nothing]));
    at("selection").scrollTop = 0;
    if (!panels.length) panel.close();
    else if (token && state.last === "token") panel.open(spans[token.i]);
    // Chosen from the long table, a feature leaves the page where it is.
    else if (feature && !at("text-features").contains(document.activeElement)) {
      panel.open(spans[feature.peak_token]);
    } else panel.open();
  }

  /** @param {Reading} reading */
  function drawFeatures(reading) {
    const { passing, nodes } = featuresOfText(reading, most);
    at("features-title").textContent = `Features on this text (${fixed(passing, 0)})`;
    at("text-features").replaceChildren(...nodes);
  }

  return { begin, draw };
}
