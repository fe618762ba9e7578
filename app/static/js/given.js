/* What the model is to read, on the pages that take either: a text, or a conversation where the
   model has a chat template (app/pages/given.py has the fields). */

(() => {
  "use strict";

  const js = window.jumpscope;
  const at = (id) => document.getElementById(id);

  /* `field` is the text's; `changed` is called after every change of the kind or of the turns. */
  js.given = (main, { field, changed }) => {
    const kinds = [...main.querySelectorAll("[name=kind]")];
    const turns = js.turnList(at("turns"), {
      add: at("add-turn"),
      addSystem: at("add-system"),
      changed,
    });

    const isChat = () => kinds.find((radio) => radio.checked).value === "chat";

    function show(kind) {
      for (const radio of kinds) radio.checked = radio.value === kind;
      at("as-text").hidden = kind !== "text";
      at("as-chat").hidden = kind !== "chat";
      // A link may bring a conversation to a model that has none: then this is the way back.
      if (kind === "chat") at("kinds").hidden = false;
    }

    /* From one to the other, with what is there. */
    function change(kind) {
      const { prompt, question } = main.dataset;
      if (kind === "chat" && !turns.get().some((turn) => turn.content.trim()))
        turns.set([{ role: "user", content: field.value === prompt ? question : field.value }]);
      show(kind);
      changed();
    }
    for (const radio of kinds) radio.addEventListener("change", () => change(radio.value));

    return {
      isChat,
      turns,

      /* The conversation; null where the text is what counts. */
      messages: () => (isChat() ? turns.get() : null),

      /* A conversation, or else a text. */
      set(messages, text) {
        if (messages) turns.set(messages);
        else field.value = text;
        show(messages ? "chat" : "text");
      },

      /* The model has a chat template, and whether that has system turns. */
      offer({ system }) {
        turns.knows(system);
        at("kinds").hidden = false;
      },
    };
  };

  /* A list in this page's address: {value}, {problem} if it cannot be read, {} if there is none. */
  js.listInAddress = (name, why) => {
    const written = js.query()[name];
    if (!written) return {};
    let value;
    try {
      value = JSON.parse(written);
    } catch {
      return { problem: `The ${name} in this link cannot be read: it may have been cut off.` };
    }
    const wrong = why(value);
    return wrong ? { problem: `The ${name} in this link cannot be used: ${wrong}.` } : { value };
  };
})();
