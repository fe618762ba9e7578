// @ts-check
/* The tokens of a prompt, numbered, to choose positions among. */

import { el, tokenNodes } from "./dom.js";
import { positionsOf } from "./steer-settings.js";
import { oneStop } from "./steps.js";

/** @typedef {{i: number, text: string, special: boolean, bytes?: string}} Token */

/**
 * Positions with one more, or without it; in their order.
 * @param {(number | string)[]} positions
 * @param {number} i
 */
export function toggled(positions, i) {
  const chosen = new Set(positions);
  if (!chosen.delete(i)) chosen.add(i);
  return [...chosen].sort((a, b) => Number(a) - Number(b));
}

/**
 * Draw tokens as buttons into a group; those at `positions` are pressed.
 * @param {HTMLElement} group
 * @param {Token[]} tokens
 * @param {(number | string)[]} positions
 */
export function drawPositions(group, tokens, positions) {
  group.replaceChildren(
    ...tokens.flatMap((token) => {
      const name = `token ${token.i}${token.special ? ", special: it is left alone" : ""}`;
      const span = el("span", {
        role: "button",
        class: token.special ? "special" : null,
        "data-i": token.i,
        "data-v": name,
      });
      const nodes = tokenNodes(span, token.text, token.bytes);
      span.append(el("sub", { "aria-hidden": "true" }, token.i));
      return nodes;
    }),
  );
  press(group, positions);
}

/** @param {HTMLElement} group @param {(number | string)[]} positions */
export function press(group, positions) {
  const chosen = new Set(positions);
  const spans = /** @type {NodeListOf<HTMLElement>} */ (group.querySelectorAll("[data-i]"));
  for (const span of spans) {
    span.setAttribute("aria-pressed", String(chosen.has(Number(span.dataset.i))));
  }
  oneStop(group);
}

const offered = new WeakSet();
/** How often each was asked for: of two answers on their way the later question's counts.
 * @type {WeakMap<HTMLElement, number>} */
const asked = new WeakMap();

/**
 * Offer the prompt's tokens beside the field that lists their numbers.
 * @param {HTMLElement} group
 * @param {HTMLInputElement} field
 * @param {{promptTokens: () => Promise<Token[]>, changed: () => void}} how
 */
export async function offerPositions(group, field, { promptTokens, changed }) {
  if (!offered.has(group)) {
    offered.add(group);
    group.addEventListener("click", (event) => {
      const span = event.target instanceof Element && event.target.closest("[data-i]");
      if (!(span instanceof HTMLElement)) return;
      const positions = toggled(positionsOf(field.value), Number(span.dataset.i));
      field.value = positions.join(", ");
      press(group, positions);
      changed();
    });
  }
  const mine = (asked.get(group) ?? 0) + 1;
  asked.set(group, mine);
  /** @type {Token[]} */
  let tokens = [];
  try {
    tokens = await promptTokens();
  } catch {
    // The prompt is empty or too long, which Generate says; numbers can be typed in any case.
  }
  if (asked.get(group) === mine) drawPositions(group, tokens, positionsOf(field.value));
}
