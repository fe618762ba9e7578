// @ts-check
/* "What comes next" in the panel of a token: the likeliest next tokens, and the features that carry
   the prediction. It is asked for when a token is chosen; what is changed here redraws this part
   alone. */

import { el, shows } from "./dom.js";
import { inAddress, inArm, isTicked, ofAddress, toggled } from "./effects.js";
import { problem } from "./frame.js";
import { percent } from "./numbers.js";
import { armWords, drawn, pairOf, reproduce } from "./prompt-next-parts.js";
import { ServerError, call } from "./server.js";

/** @typedef {import("./effects.js").Choice} Choice */
/** @typedef {import("./effects.js").Effect} Effect */
/** @typedef {import("./effects.js").Order} Order */
/** @typedef {import("./effects.js").Prediction} Prediction */
/** @typedef {import("./effects.js").Tick} Tick */
/** @typedef {import("./prompt-colours.js").Token} Token */
/** @typedef {import("./prompt-tables.js").Reading} Reading */
/** @typedef {{reading: Reading, token: Token, node: HTMLElement, choice: Choice}} Current */

const FEW = 12; // effects that are listed at once
const KEPT = 32; // answers

/**
 * @param {import("./prompt-compare.js").Address} place where the address keeps what is chosen here
 * @returns {(reading: Reading, token: Token) => HTMLElement} the part of a token
 */
export function nextPart(place) {
  /** @type {Map<string, Prediction>} */
  const answers = new Map();
  /** @type {Current | null} */
  let current = null;
  /** @type {{of: string, answer: Prediction} | null} */
  let latest = null;
  let refused = { key: "", sentence: "" };
  /** @type {{key: string, stop: AbortController} | null} */
  let asking = null;
  let most = FEW;

  /** @param {Reading} reading @param {Token} token */
  const given = ({ data }, { i }) => ({
    ...(data.messages ? { messages: data.messages } : { text: data.text }),
    sae: data.sae,
    token: i,
  });

  /** What a prediction is of. @param {Reading} reading @param {Token} token */
  const textOf = (reading, token) => JSON.stringify(given(reading, token));

  /** @param {number} id */
  const follow = (id) => change({ target: id, order: "change" });

  /** @param {Reading} reading @param {Token} token */
  function part(reading, token) {
    const node = el("section", { class: "part next", "aria-label": "What comes next" });
    node.addEventListener("click", clicked);
    node.addEventListener("change", changed);
    for (const kind of ["pointerover", "focusin"]) node.addEventListener(kind, pointed);
    for (const kind of ["pointerleave", "focusout"]) {
      node.addEventListener(kind, () => drawArm(null));
    }
    if (!current || textOf(reading, token) !== textOf(current.reading, current.token)) most = FEW;
    current = { reading, token, node, choice: ofAddress(place.get, token.i) };
    refused = { key: "", sentence: "" }; // who chooses it again has it asked again
    draw();
    return node;
  }

  /* Asking */

  /** @param {Current} now */
  function question({ reading, token, choice: { target, earlier, ticks } }) {
    // One alone is in the table already.
    const joint = ticks.map(([position, feature]) => ({ position, feature }));
    const together = joint.length > 1 ? joint : null;
    return { ...given(reading, token), target, earlier, estimates: earlier, joint: together };
  }

  /** @param {Current} now @param {string} key */
  async function ask(now, key) {
    if (asking?.key === key) return;
    asking?.stop.abort();
    const stop = new AbortController();
    const mine = (asking = { key, stop });
    try {
      answers.set(key, await call("effects", question(now), { signal: stop.signal }));
      if (answers.size > KEPT) answers.delete([...answers.keys()][0]);
    } catch (error) {
      if (stop.signal.aborted) return;
      if (!(error instanceof ServerError)) throw error;
      refused = { key, sentence: error.message };
    }
    if (asking === mine) asking = null;
    if (current?.node.isConnected) draw();
  }

  /* Drawing */

  function draw() {
    if (!current) return;
    const { reading, token, node, choice } = current;
    const [key, of] = [JSON.stringify(question(current)), textOf(reading, token)];
    const answer = answers.get(key);
    if (answer) latest = { of, answer };
    if (answer) shows(node, "effects", question(current), answer);
    const failed = refused.key === key ? refused.sentence : "";
    const waits = !answer && !failed;
    if (waits) void ask(current, key);
    // Until there is another answer of this token, the one that was there stays.
    const shown = answer ?? (latest?.of === of ? latest.answer : null);
    const focused = node.contains(document.activeElement) ? document.activeElement : null;
    const back = focused?.closest("[data-place], [data-next]");
    node.setAttribute("aria-busy", String(waits));
    node.replaceChildren(
      el(
        "div",
        { class: "part-head" },
        el("h3", {}, "What comes next"),
        shown && reproduce(reading, token, choice, shown),
      ),
      ...(failed ? [problem(failed)] : []),
      ...(shown ? drawn(reading, token, choice, shown, { most, follow }) : []),
      ...(waits && !shown ? [el("p", { class: "quiet" }, "Measuring…")] : []),
    );
    drawArm(null);
    if (back instanceof HTMLElement) refocus(node, back);
  }

  /** The element that stands where one stood gets its focus. @param {HTMLElement} node
   * @param {HTMLElement} before */
  function refocus(node, before) {
    const { place: name, next } = before.dataset;
    const same = name ? `[data-place="${name}"]` : `[data-next="${next}"]`;
    const after = /** @type {HTMLElement | null} */ (node.querySelector(same));
    after?.focus({ preventScroll: true });
  }

  /** Draw the arm of an effect, of all that is ticked, or none. @param {Effect | null} effect */
  function drawArm(effect) {
    if (!current || !latest || latest.of !== textOf(current.reading, current.token)) return;
    const { answer } = latest;
    const { node, choice } = current;
    const words = node.querySelector(".arm");
    if (!words) return;
    const [only] = choice.ticks.length === 1 ? choice.ticks : [];
    const alone = only && answer.effects.find((each) => isTicked([only], pairOf(each)));
    const arm = effect ?? (choice.ticks.length > 1 ? answer.joint : alone) ?? null;
    words.replaceChildren(...armWords(arm));
    const values = arm?.changes ? inArm(answer.base, arm.changes) : null;
    const largest = Math.max(...answer.base.flatMap(({ p, p_spliced: spliced }) => [p, spliced]));
    for (const [i, line] of [...node.querySelectorAll(".next-line.s2")].entries()) {
      const bar = /** @type {HTMLElement | null} */ (line.querySelector("i"));
      const said = line.querySelector(".n");
      const value = values ? values[i] : null;
      bar?.style.setProperty("width", `${Math.min(100, (100 * (value ?? 0)) / largest).toFixed(1)}%`);
      said?.replaceChildren(percent(value));
    }
  }

  /* What people do */

  /** @param {Event} event */
  function pointed({ target }) {
    const row = target instanceof Element ? target.closest("tr[data-row]") : null;
    if (row instanceof HTMLElement) drawArm(effectAt(row.dataset.row ?? ""));
    else if (target instanceof Element && !target.closest(".next-bars")) drawArm(null);
  }

  /** @param {string} pair */
  function effectAt(pair) {
    const [position, feature] = pair.split(".").map(Number);
    const match = (/** @type {Effect} */ each) =>
      each.position === position && each.feature === feature;
    return latest?.answer.effects.find(match) ?? null;
  }

  /** @param {Event} event */
  function clicked({ target }) {
    if (!(target instanceof Element)) return;
    if (target.closest("[data-untick]")) change({ ticks: [] });
    else if (target.closest("[data-rest]")) {
      most = Infinity;
      draw();
    }
  }

  /** @param {Event} event */
  function changed({ target }) {
    if (!current) return;
    const { choice } = current;
    if (target instanceof HTMLSelectElement) {
      change({ order: /** @type {Order} */ (target.value) });
    } else if (target instanceof HTMLInputElement && target.dataset.tick) {
      const pair = /** @type {Tick} */ (target.dataset.tick.split(".").map(Number));
      change({ ticks: toggled(choice.ticks, pair) });
    } else if (target instanceof HTMLInputElement) {
      // Without earlier tokens their features are not there to be ticked, nor is an estimate.
      const here = choice.ticks.filter(([position]) => position === current?.token.i);
      const order = choice.order === "estimate" ? "kl" : choice.order;
      change(target.checked ? { earlier: true } : { earlier: false, ticks: here, order });
    }
  }

  /** @param {Partial<Choice>} changes */
  function change(changes) {
    if (!current) return;
    Object.assign(current.choice, changes);
    place.set(inAddress(current.choice, current.token.i));
    draw();
  }

  return part;
}
