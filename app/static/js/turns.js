/* The turns of a conversation on the steering page: one small field for each, in the roles that a
   chat template knows. */

(() => {
  "use strict";

  const js = window.jumpscope;
  const { el } = js;

  js.ROLES = { system: "System", user: "User", model: "Model" };
  const NAMES = { ...Object.fromEntries(Object.keys(js.ROLES).map((r) => [r, r])), assistant: "model" };

  /* Why a value cannot be a conversation, as the end of a sentence; "" if it can. Order and
     emptiness are the server's to judge. */
  js.messagesProblem = (messages) => {
    if (!Array.isArray(messages) || !messages.length) return "they must be a list of messages";
    for (const message of messages) {
      if (message === null || typeof message !== "object")
        return "each message must be an object with role and content";
      if (!(message.role in NAMES))
        return `${JSON.stringify(message.role)} is not one of the roles ${Object.keys(NAMES).join(", ")}`;
      if (typeof message.content !== "string") return "the content of each message must be text";
    }
    return "";
  };

  /* `box` holds the fields; `changed` is called after every change. */
  js.turnList = (box, { add, addSystem, changed }) => {
    let rows = [];
    let hasSystem = true; // whether the template has a system turn of its own

    const spoken = () => rows.filter((r) => r.role !== "system");
    const due = () => (spoken().at(-1)?.role === "user" ? "model" : "user");

    function row({ role, content = "", in_user_turn: inUserTurn = false }) {
      const id = `turn-${Math.random().toString(36).slice(2, 8)}`;
      const r = {
        role: NAMES[role],
        field: el("textarea", { id, rows: 2, spellcheck: "false" }),
        remove: el("button", { type: "button", class: "close", "aria-label": "Remove this turn" }, "×"),
        inUserTurn: el("input", { type: "checkbox" }),
      };
      r.field.value = content;
      r.inUserTurn.checked = inUserTurn;
      r.rule = el(
        "div",
        { class: "rule" },
        el("p", { class: "quiet" }, "This model's chat template has no system turn."),
        el("label", {}, r.inUserTurn, " put this text before the first user turn"),
      );
      r.node = el(
        "div",
        { class: "turn" },
        el("div", { class: "line" }, el("label", { for: id }, js.ROLES[r.role]), r.remove),
        r.field,
        r.role === "system" ? r.rule : null,
      );
      r.remove.addEventListener("click", () => {
        rows = rows.filter((each) => each !== r);
        tidy();
        (spoken().at(-1)?.field ?? add).focus();
        changed();
      });
      return r;
    }

    /* What may be removed and added, and what the template says of a system text. */
    function tidy() {
      box.replaceChildren(...rows.map((r) => r.node));
      const last = spoken().at(-1);
      for (const r of rows) {
        r.remove.hidden = r.role !== "system" && (r !== last || spoken().length < 2);
        r.field.setAttribute("aria-label", `${js.ROLES[r.role]}, turn ${rows.indexOf(r) + 1}`);
        r.rule.hidden = hasSystem && !r.inUserTurn.checked;
      }
      add.textContent = `+ Add a ${due()} turn`;
      addSystem.hidden = rows[0]?.role === "system";
    }

    add.addEventListener("click", () => {
      rows.push(row({ role: due() }));
      tidy();
      rows.at(-1).field.focus();
      changed();
    });
    addSystem.addEventListener("click", () => {
      rows.unshift(row({ role: "system" }));
      tidy();
      rows[0].field.focus();
      changed();
    });

    return {
      /* Whether the template has system turns. */
      knows(system) {
        hasSystem = system;
        tidy();
      },

      set(messages) {
        rows = messages.map(row);
        tidy();
      },

      /* The messages as the server takes them; a system field without text is none. */
      get() {
        return rows
          .filter((r) => r.role !== "system" || r.field.value.trim())
          .map((r) => ({
            role: r.role,
            content: r.field.value,
            ...(r.role === "system" && r.inUserTurn.checked ? { in_user_turn: true } : {}),
          }));
      },

      focusLast() {
        rows.at(-1)?.field.focus();
      },
    };
  };
})();
