// @ts-check
/* What the model is to read, on the pages that take either: a text, or a conversation where the
   model has a chat template, one small field for each turn in the roles that a template knows.
   templates/given.html has the fields. */

import { el } from "./dom.js";
import { query } from "./frame.js";

/** @typedef {{role: string, content: string, in_user_turn?: boolean}} Message */
/** @typedef {{message: string, field: string}} Refusal a ServerError, or the like of it */

/** @type {Record<string, string>} */
export const ROLES = { system: "System", user: "User", model: "Model" };

/* Roles as they may be written, and what we call them. */
/** @type {Record<string, string>} */
const NAMES = { system: "system", user: "user", model: "model", assistant: "model" };

/**
 * @typedef {object} Given
 * @property {() => boolean} isChat
 * @property {() => string} text what stands in the text's field
 * @property {() => Message[] | null} messages the conversation; null where the text is what counts
 * @property {(messages: Message[] | null | undefined, text?: string) => void} set a conversation, or
 * else a text
 * @property {(chat: {system: boolean}) => void} offer the model has a chat template, and whether
 * that has system turns
 * @property {(refusal: Refusal) => HTMLElement | null} complain put a sentence at the field that it
 * is about, and return that field; null if it is about none here
 * @property {() => void} clear no more of such sentences
 * @property {() => void} focusLast
 */

/**
 * @param {HTMLElement} main
 * @param {{field: HTMLTextAreaElement, changed: () => void, usual?: {prompt?: string,
 *   question?: string}}} how `field` is the text's, its name the request's parameter; `changed` is
 * called after every change of the kind or of the turns. A text that is still `usual.prompt` becomes
 * the first turn `usual.question`.
 * @returns {Given}
 */
export function given(main, { field, changed, usual = {} }) {
  const at = (/** @type {string} */ id) =>
    /** @type {HTMLElement} */ (main.querySelector(`#${id}`));
  const kinds = /** @type {HTMLInputElement[]} */ ([...main.querySelectorAll("[name=kind]")]);
  const turns = turnList(at("turns"), {
    add: at("add-turn"),
    addSystem: at("add-system"),
    changed,
  });

  const isChat = () => kinds.some((radio) => radio.checked && radio.value === "chat");

  /** @param {string} kind */
  function show(kind) {
    for (const radio of kinds) radio.checked = radio.value === kind;
    at("as-text").hidden = kind !== "text";
    at("as-chat").hidden = kind !== "chat";
    // A link may bring a conversation to a model that has none: then this is the way back.
    if (kind === "chat") at("kinds").hidden = false;
  }

  /** From one to the other, with what is there. @param {string} kind */
  function change(kind) {
    if (kind === "chat" && !turns.get().some((turn) => turn.content.trim())) {
      const begun = field.value === usual.prompt ? (usual.question ?? "") : field.value;
      turns.set([{ role: "user", content: begun }]);
    }
    show(kind);
    changed();
  }
  for (const radio of kinds) radio.addEventListener("change", () => change(radio.value));
  main.addEventListener("submit", (event) => {
    const form = event.target;
    if (!(form instanceof HTMLFormElement) || !form.matches("[data-save-page]")) return;
    event.preventDefault();
    void import("./save-page.js").then(({ savePage }) => savePage(form));
  });

  return {
    isChat,
    text: () => field.value,
    messages: () => (isChat() ? turns.get() : null),
    set(messages, text = "") {
      if (messages) turns.set(messages);
      else field.value = text;
      show(messages ? "chat" : "text");
    },
    offer({ system }) {
      turns.knows(system);
      at("kinds").hidden = false;
    },
    complain({ message, field: about }) {
      const [name, number] = about.split(".");
      const marked =
        name === "messages" ? turns.field(Number(number ?? NaN)) : name === field.name && field;
      if (!marked || (name === "messages") !== isChat()) return null;
      markProblem(marked, message);
      return marked;
    },
    clear: () => clearProblems(main),
    focusLast: turns.focusLast,
  };
}

/**
 * A list in this page's address: {value}, {problem} if it cannot be used, {} if there is none.
 * @template T
 * @param {string} name of the parameter
 * @param {string} noun what a person calls it: "conversation"
 * @param {(value: any) => string} why it cannot be used, as the end of a sentence; "" if it can
 * @returns {{value?: T, problem?: string}}
 */
export function listInAddress(name, noun, why) {
  const written = query()[name];
  if (!written) return {};
  let value;
  try {
    value = JSON.parse(written);
  } catch {
    return { problem: `The ${noun} in this link cannot be read: it may have been cut off.` };
  }
  const wrong = why(value);
  return wrong ? { problem: `The ${noun} in this link cannot be used: ${wrong}.` } : { value };
}

/**
 * Why a value cannot be a conversation, as the end of a sentence; "" if it can. Order and emptiness
 * are the server's to judge.
 * @param {any} messages
 * @returns {string}
 */
export function messagesProblem(messages) {
  if (!Array.isArray(messages) || !messages.length) return "it has no turns";
  for (const [i, message] of messages.entries()) {
    const turn = `turn ${i + 1}`;
    if (message === null || typeof message !== "object") return `${turn} says neither who speaks nor what`;
    if (!Object.hasOwn(NAMES, message.role)) {
      const roles = Object.keys(ROLES).join(", ");
      return `${turn} is by “${String(message.role ?? "")}”, which is none of ${roles}`;
    }
    if (typeof message.content !== "string") return `${turn} has no text`;
  }
  return "";
}

/* Sentences at the fields that they are about */

let marks = 0;

/**
 * Say at a field what is wrong with it, until it is changed or `clearProblems` is called.
 * @param {HTMLElement} control
 * @param {string} sentence
 * @param {Element} [after] what the sentence follows; the field itself
 */
export function markProblem(control, sentence, after = control) {
  unmark(control);
  const id = `problem-${++marks}`;
  after.after(el("p", { class: "problem", role: "alert", id }, sentence));
  control.setAttribute("aria-invalid", "true");
  control.dataset.problem = id;
  const others = control.getAttribute("aria-describedby");
  control.setAttribute("aria-describedby", others ? `${id} ${others}` : id);
  control.addEventListener("input", () => unmark(control), { once: true });
}

/** @param {HTMLElement} control */
function unmark(control) {
  const id = control.dataset.problem;
  if (!id) return;
  document.getElementById(id)?.remove();
  delete control.dataset.problem;
  control.removeAttribute("aria-invalid");
  const others = (control.getAttribute("aria-describedby") ?? "").split(" ");
  const kept = others.filter((each) => each && each !== id).join(" ");
  if (kept) control.setAttribute("aria-describedby", kept);
  else control.removeAttribute("aria-describedby");
}

/** Take back what `markProblem` has said within an element. @param {HTMLElement} within */
export function clearProblems(within) {
  const marked = /** @type {NodeListOf<HTMLElement>} */ (within.querySelectorAll("[data-problem]"));
  for (const control of marked) unmark(control);
}

/* The turns of a conversation */

/**
 * @typedef {{role: string, field: HTMLTextAreaElement, remove: HTMLButtonElement,
 *   inUserTurn: HTMLInputElement, rule: HTMLElement, node: HTMLElement}} Row
 */

/**
 * @param {HTMLElement} box holds the fields
 * @param {{add: HTMLElement, addSystem: HTMLElement, changed: () => void}} how `changed` is called
 * after every change but typing
 */
function turnList(box, { add, addSystem, changed }) {
  /** @type {Row[]} */
  let rows = [];
  let hasSystem = true; // whether the template has a system turn of its own

  const spoken = () => rows.filter((row) => row.role !== "system");
  const due = () => (spoken().at(-1)?.role === "user" ? "model" : "user");
  // A system field without text is no turn.
  const written = () => rows.filter((row) => row.role !== "system" || row.field.value.trim());

  /** @param {Message} message @returns {Row} */
  function rowOf({ role, content = "", in_user_turn: inUserTurn = false }) {
    const name = NAMES[role];
    const id = `turn-${++marks}`;
    const field = el("textarea", { id, rows: 2, dir: "auto", spellcheck: "false" });
    field.value = content;
    const remove = el(
      "button",
      { type: "button", class: "close", "aria-label": "Remove this turn" },
      "×",
    );
    const early = el("input", { type: "checkbox" });
    early.checked = inUserTurn;
    const rule = el(
      "div",
      { class: "rule" },
      el("p", { class: "quiet" }, "This model's chat template has no system turn."),
      el("label", {}, early, " put this text before the first user turn"),
    );
    const node = el(
      "div",
      { class: "turn" },
      el("div", { class: "line" }, el("label", { for: id }, ROLES[name]), remove),
      field,
      name === "system" && rule,
    );
    const row = { role: name, field, remove, inUserTurn: early, rule, node };
    remove.addEventListener("click", () => {
      rows = rows.filter((each) => each !== row);
      tidy();
      (spoken().at(-1)?.field ?? add).focus();
      changed();
    });
    early.addEventListener("change", changed);
    return row;
  }

  /* What may be removed and added, and what the template says of a system text. */
  function tidy() {
    box.replaceChildren(...rows.map((row) => row.node));
    const last = spoken().at(-1);
    for (const [i, row] of rows.entries()) {
      row.remove.hidden = row.role !== "system" && (row !== last || spoken().length < 2);
      row.field.setAttribute("aria-label", `${ROLES[row.role]}, turn ${i + 1}`);
      row.rule.hidden = hasSystem && !row.inUserTurn.checked;
    }
    add.textContent = `+ Add a ${due()} turn`;
    addSystem.hidden = rows[0]?.role === "system";
  }

  /** @param {Row} row @param {"push" | "unshift"} where */
  function put(row, where) {
    rows[where](row);
    tidy();
    row.field.focus();
    changed();
  }
  add.addEventListener("click", () => put(rowOf({ role: due(), content: "" }), "push"));
  addSystem.addEventListener("click", () => {
    put(rowOf({ role: "system", content: "" }), "unshift");
  });

  return {
    /** Whether the template has system turns. @param {boolean} system */
    knows(system) {
      hasSystem = system;
      tidy();
    },
    /** @param {Message[]} messages */
    set(messages) {
      rows = messages.map(rowOf);
      tidy();
    },
    /** The messages as the server takes them. @returns {Message[]} */
    get: () =>
      written().map(({ role, field, inUserTurn }) => ({
        role,
        content: field.value,
        ...(role === "system" && inUserTurn.checked ? { in_user_turn: true } : {}),
      })),
    /** The field of a message by its number among those of `get`; the last where there is none. */
    field: (/** @type {number} */ number) => (written()[number] ?? rows.at(-1))?.field ?? null,
    focusLast: () => rows.at(-1)?.field.focus(),
  };
}
