// @ts-check
/* Where to begin on the steering page: buttons with settings to try. */

import { el } from "./dom.js";
import { wish } from "./steer-settings.js";

/** @typedef {import("./steer-settings.js").Settings & {title?: string}} Idea */

/** @param {HTMLElement} main @param {ReturnType<typeof import("./given.js").given>} given */
export function ideaButtons(main, given) {
  const buttons = [.../** @type {NodeListOf<HTMLElement>} */ (main.querySelectorAll("[data-idea]"))];

  /** @param {HTMLElement} button @returns {Idea} */
  const ideaOf = (button) => JSON.parse(button.dataset.idea ?? "{}");

  return {
    draw() {
      for (const button of buttons) {
        const idea = ideaOf(button);
        const said = idea.messages?.at(-1)?.content ?? (given.isChat() ? "" : `${idea.prompt}…`);
        button.replaceChildren(
          el("b", {}, idea.title ?? said),
          ...(said ? [el("span", { class: "mono given", dir: "auto" }, said)] : []),
          el("span", { class: "quiet" }, (idea.edits ?? []).map(wish).join("; ")),
        );
      }
    },

    /** The settings of a button as they are tried here: in a chat, its edits on the conversation that
     * is there. @param {HTMLElement} button @returns {Idea} */
    tried(button) {
      const idea = ideaOf(button);
      const taken = given.isChat() && !idea.messages;
      return taken ? { ...idea, prompt: undefined, messages: given.messages() ?? [] } : idea;
    },
  };
}
