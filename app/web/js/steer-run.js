// @ts-check
/* A steering run on the page: the conversation if there is one, the two continuations side by side,
   each token coloured by a feature's own activation, and the numbers of the chosen token. */

import { knownBand } from "./bands.js";
import { el, quoted, shows, tokenNodes, tokenText } from "./dom.js";
import { saeLabel } from "./frame.js";
import { ROLES } from "./given.js";
import { number } from "./numbers.js";
import { sheet } from "./sheet.js";
import { restriction } from "./steer-settings.js";
import { oneStop, setValue } from "./steps.js";

/**
 * @typedef {{i: number, id: number, text: string, bytes?: string, own: number[], after: number[]}} NewToken
 * @typedef {{i: number, text: string, special: boolean, bytes?: string, turn?: number, template?: boolean}} PromptToken
 * @typedef {{feature: number, mode: string, value: number, positions: string | number[], sae: string,
 *   max_act: number | null, signature: string} & import("./steer-settings.js").Restriction} Edit
 * @typedef {{sae: string, tokens: number, asked: number | null, realised: number | null,
 *   deviation: number | null}} Size
 * @typedef {{prompt?: string, turns?: string[], prompt_tokens: PromptToken[], base: NewToken[],
 *   steered: NewToken[], edits: Edit[], settings: any, done: boolean, note: string | null,
 *   edited: {applied: number, changed: number, sentence: string | null}[], sizes: Size[],
 *   warnings: {about: string, sentence: string}[]}} Run
 * @typedef {"base" | "steered"} Arm
 */

/** @type {Record<string, string>} */
const WHERE = { continuation: "the continuation", all: "all tokens", prompt: "the prompt", generated: "new tokens" };
/** @type {Record<Arm, string>} */
const BOXES = { base: "base", steered: "with-edits" };
/** @type {Record<Arm, string>} */
const ARM_NAMES = { base: "as it is", steered: "steered" };
const ARMS = /** @type {Arm[]} */ (["base", "steered"]);

/* Deviation beyond which the realised change is shown beside the asked one: float32's is less. */
const ROUNDED = 1e-4;
const ROOM = 1.05; // by which a size may exceed a limit that was measured on other texts

/** Whether two activations are one but for rounding. @param {number} own @param {number} after */
export const isSame = (own, after) => Math.abs(own - after) < 1e-6 * Math.max(1, Math.abs(own));

/** An activation before and after the edit. @param {number} own @param {number} after */
export const change = (own, after) =>
  isSame(own, after) ? number(own) : `${number(own)}, ${number(after)} after the edit`;

/** What an edit did. @param {Edit} edit @param {string} name */
export function summary(edit, name) {
  const value = number(edit.value);
  /** @type {Record<string, string>} */
  const done = {
    set: `${name} set to ${value}`,
    scale: `${name} scaled by ${value}`,
    add: `${value} added to ${name}`,
    cap: `${name} capped at ${value}`,
    ablate: `${name} switched off`,
  };
  const positions = [edit.positions].flat();
  const where = WHERE[String(edit.positions)] ?? `token${positions.length > 1 ? "s" : ""} ${positions.join(", ")}`;
  return [`${done[edit.mode]} on ${where}`, restriction(edit)].filter(Boolean).join(", ");
}

/** How far the edits moved the activation, together; a low precision may keep less of it.
 * @param {Size[]} sizes @param {(sae: string) => string} label @param {number} edits how many there are */
export function sizeWords(sizes, label, edits) {
  const moved = sizes.filter((size) => size.tokens && size.asked !== null);
  const words = moved.map(({ sae, asked, realised, deviation }) => {
    const kept = (deviation ?? 0) > ROUNDED ? `, ${number(realised)} as the model's precision keeps it` : "";
    return `${number(asked)} times ${moved.length > 1 ? `that of ${label(sae)}` : "its norm"}${kept}`;
  });
  const who = edits > 1 ? "Together they change" : "It changes";
  return words.length ? `${who} the activation by ${words.join(", ")}.` : "";
}

/** The warnings of a run; where a feature's usable strengths are known, their size is the limit.
 * @param {Run} run @returns {string[]} */
export function warningsOf({ edits, edited, sizes, warnings }) {
  const bands = edits.flatMap((edit) => knownBand(edit.sae, edit.feature, edit.mode, edit.max_act) ?? []);
  const limit = Math.max(...bands.map((band) => band.size));
  const largest = Math.max(...sizes.map((size) => size.asked ?? 0));
  const beyond =
    bands.length > 0 &&
    largest > limit * ROOM &&
    `The edits together are ${number(largest)} times as large as the activation that they change: the usable strengths end at ${number(limit)}.`;
  return [
    ...edited.flatMap(({ sentence }) => sentence ?? []),
    ...(beyond ? [beyond] : []),
    ...warnings.filter(({ about }) => about !== "size" || !bands.length).map(({ sentence }) => sentence),
  ];
}

/** @param {{carryOn: (answer: string) => void}} how `carryOn` continues with an arm's answer */
export function runView({ carryOn }) {
  /** @param {string} id */
  const at = (id) => /** @type {HTMLElement} */ (document.getElementById(id));
  const watch = /** @type {HTMLSelectElement} */ (at("watch"));
  const panel = sheet(at("new-token"), { onClose: () => choose(null) });
  /** @type {Run | null} */
  let run = null;
  let key = 0; // another one for each run
  let end = ""; // the token that ends a turn of the model
  /** @type {{arm: Arm, step: number} | null} */
  let chosen = null;

  /** @param {Arm} arm */
  const tokens = (arm) => /** @type {NodeListOf<HTMLElement>} */ (at(BOXES[arm]).querySelectorAll(".new"));
  /** @param {Arm} arm */
  const text = (arm) => run?.[arm].map((token) => token.text).join("") ?? "";

  /** A feature's number; with its SAE where edits are of several. @param {Edit} edit */
  function name(edit) {
    const several = new Set(run?.edits.map((each) => each.sae)).size > 1;
    return several ? `#${edit.feature} of ${saeLabel(edit.sae)}` : `#${edit.feature}`;
  }

  /** @param {Run} shown */
  function drawWatch({ edits }) {
    const names = edits.map(name);
    if (watch.dataset.names !== names.join()) {
      watch.dataset.names = names.join();
      watch.replaceChildren(...names.map((words, k) => el("option", { value: k }, words)));
    }
    // With one edit there is nothing to choose.
    watch.hidden = names.length < 2;
    at("watch-one").textContent = names.length < 2 ? (names[0] ?? "") : "";
  }

  /** Tokens of a turn; the template's are faint. @param {Run} shown @param {number} turn */
  function turnTokens({ prompt_tokens: given }, turn) {
    return given
      .filter((token) => token.turn === turn)
      .flatMap((token) => {
        const markup = token.special || token.template;
        const kept = token.special ? ": it is left alone" : "";
        const tip = `token ${token.i}${markup ? ", of the chat template" : ""}${kept}`;
        const span = el("span", { class: markup ? "markup" : null, "data-v": tip });
        return tokenNodes(span, token.text, token.bytes);
      });
  }

  /** All turns but the one that is being written: that one begins in both arms. @param {Run} shown */
  function drawConversation(shown) {
    const box = at("conversation");
    const { turns } = shown;
    box.hidden = !turns;
    if (!turns || box.dataset.drawn === String(key)) return;
    box.dataset.drawn = String(key);
    const nodes = turns.slice(0, -1).map((role, turn) => {
      const label = `Turn ${turn + 1}: ${ROLES[role]}`;
      const steps = { "data-steps": "[data-v]", tabindex: "0", role: "group", "aria-label": label };
      return el(
        "div",
        { class: `said ${role}` },
        el("h3", {}, ROLES[role]),
        el("div", { class: "tokens", ...steps }, turnTokens(shown, turn)),
      );
    });
    box.replaceChildren(...nodes);
  }

  /** What an arm begins with: the prompt, or how the template opens the model's turn. @param {Run} shown */
  function opening(shown) {
    if (shown.turns) return turnTokens(shown, shown.turns.length - 1);
    const words = shown.prompt_tokens.filter((token) => !token.special).map((token) => token.text);
    return [tokenText(el("span", { class: "given" }), words.join(""))];
  }

  /** The beginning faint, then each new token coloured by the feature's own activation. Only what
   * has come since the last time is added. @param {Run} shown @param {Arm} arm @param {number} k */
  function drawArm(shown, arm, k) {
    const box = at(BOXES[arm]);
    const edit = shown.edits[k];
    // The full colour where no index says what the largest activation is: the run's own.
    const largest = ARMS.flatMap((each) => shown[each].map((token) => token.own[k]));
    const scale = edit.max_act ?? Math.max(...largest);
    const drawn = `${key}/${k}/${scale}`;
    if (box.dataset.drawn !== drawn) {
      box.dataset.drawn = drawn;
      box.replaceChildren(...opening(shown));
    }
    const before = tokens(arm).length;
    for (const [offset, token] of shown[arm].slice(before).entries()) {
      const own = token.own[k];
      const strength = own > 0 ? `--a:${Math.min(1, own / scale).toFixed(3)}` : null;
      const span = el("span", {
        class: "new",
        role: "button",
        "aria-pressed": "false",
        "data-step": before + offset,
        style: strength,
      });
      box.append(...tokenNodes(span, token.text, token.bytes));
      setValue(span, `#${edit.feature}: ${change(own, token.after[k])}`);
    }
    if (before === 0 || shown.done) oneStop(box);
    // The model has ended its turn itself: its marker is no token of the answer.
    const ended = shown.turns && shown.done && !shown.note && shown[arm].length < shown.settings.max_new_tokens;
    if (ended && end && !box.querySelector(".end"))
      {box.append(el("span", { class: "markup end" }, end));}
  }

  /** @param {{arm: Arm, step: number} | null} token @param {Element | null} [over] */
  function choose(token, over = null) {
    chosen = token;
    drawChosen();
    if (chosen) panel.open(over);
    else panel.close();
  }

  function drawChosen() {
    for (const arm of ARMS) {
      for (const span of tokens(arm)) {
        const here = chosen?.arm === arm && Number(span.dataset.step) === chosen.step;
        span.setAttribute("aria-pressed", String(here));
      }
      oneStop(at(BOXES[arm]));
    }
    const shown = run;
    const token = chosen && shown?.[chosen.arm][chosen.step];
    at("new-token").hidden = !token;
    at("choose-hint").hidden = Boolean(token);
    if (!token || !chosen || !shown) return;
    const rows = shown.edits.map((edit, k) =>
      el("div", {}, el("dt", {}, name(edit)), el("dd", {}, change(token.own[k], token.after[k]))),
    );
    const reproduce = el(
      "button",
      {
        type: "button",
        class: "plain",
        "aria-haspopup": "dialog",
        "aria-label": "Reproduce: activations on this token",
        onclick: async () => (await import("./card.js")).openCard(choices(shown, token)),
      },
      "Reproduce",
    );
    at("new-token-body").replaceChildren(
      el(
        "section",
        { class: "panel", "aria-live": "polite" },
        el(
          "h2",
          { class: "in-panel" },
          el("bdi", { class: "mono" }, quoted(token.text, token.bytes)),
          ` new token ${chosen.step + 1}, ${ARM_NAMES[chosen.arm]}`,
        ),
        el("p", { class: "quiet" }, "Read on this token; it acts on those that follow. ", reproduce),
        el("dl", { class: "facts" }, rows),
      ),
    );
  }

  /** The numbers of a new token that the card can be about. @param {Run} shown @param {NewToken} token */
  function choices(shown, token) {
    return shown.edits.flatMap((edit, k) => {
      /** @param {"own" | "after"} when @param {string} words */
      const choice = (when, words) => ({
        words: `${name(edit)} ${words}`,
        asked: { settings: shown.settings, ...chosen, edit: k, when },
        value: token[when][k],
      });
      const own = choice("own", "before the edit");
      return token.own[k] === token.after[k] ? [own] : [own, choice("after", "after the edit")];
    });
  }

  for (const arm of ARMS) {
    at(BOXES[arm]).addEventListener("click", (event) => {
      const span = event.target instanceof Element && event.target.closest(".new");
      if (!(span instanceof HTMLElement) || !run) return;
      const step = Number(span.dataset.step);
      const same = chosen?.arm === arm && chosen.step === step;
      choose(same ? null : { arm, step }, span);
    });
  }

  function draw() {
    if (!run) return;
    at("run").hidden = false;
    drawWatch(run);
    drawConversation(run);
    const k = Number(watch.value) || 0;
    for (const arm of ARMS) drawArm(run, arm, k);
    drawChosen();
    const { edits, edited, sizes } = run;
    const counts = edited.map(({ changed }) => ` (${changed} token${changed === 1 ? "" : "s"})`);
    at("edit-summary").textContent = edits.map((edit, i) => summary(edit, name(edit)) + counts[i]).join("; ") + (edits.length ? "." : "");
    at("edit-size").textContent = sizeWords(sizes, saeLabel, edits.length);
    if (run.done) at("run-warnings").replaceChildren(...warningsOf(run).map((words) => el("p", {}, words)));
  }

  watch.addEventListener("change", draw);
  const buttons = /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-carry-on]"));
  for (const button of buttons)
    {button.addEventListener("click", () => carryOn(text(/** @type {Arm} */ (button.dataset.carryOn))));}

  /** @param {boolean} possible */
  function offer(possible) {
    for (const button of buttons)
      {button.hidden = !possible || !text(/** @type {Arm} */ (button.dataset.carryOn)).trim();}
  }

  return {
    /** A new run begins; what stands there stays until its first token. */
    begin() {
      run = null;
      chosen = null;
      panel.close();
      at("run-warnings").replaceChildren();
      key += 1;
      offer(false);
    },

    /** @param {Run} grown */
    show(grown) {
      run = grown;
      draw();
      if (grown.done) shows(at("run"), "steer", grown.settings, grown);
    },

    /** No more tokens will come. */
    finish() {
      offer(Boolean(run?.turns));
    },

    hide() {
      run = null;
      choose(null);
      at("run").hidden = true;
    },

    /** The token that ends a turn of the model. @param {string} token */
    endsWith(token) {
      end = token;
    },

    /** The most tokens of a continuation so far. */
    length: () => (run ? Math.max(run.base.length, run.steered.length) : 0),
  };
}
