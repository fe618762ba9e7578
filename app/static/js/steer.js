/* The steering page: settings in the address, two continuations that grow side by side. */

(() => {
  "use strict";

  const js = window.jumpscope;
  const { el, format } = js;

  js.pages.steer = (main) => {
    const at = (id) => document.getElementById(id);
    const fields = {
      max_new_tokens: at("steer-tokens"),
      temperature: at("steer-temperature"),
      seed: at("steer-seed"),
    };
    const usual = Object.fromEntries(
      Object.entries(fields).map(([name, field]) => [name, Number(field.value)]),
    );
    const kinds = [...main.querySelectorAll("[name=kind]")];
    const edits = js.editList(at("edits"), {
      most: Number(main.dataset.mostEdits),
      add: at("add-edit"),
      changed: () => changed(),
    });
    const turns = js.turnList(at("turns"), {
      add: at("add-turn"),
      addSystem: at("add-system"),
      changed: () => changed(),
    });
    const view = js.runView({ carryOn });
    let asked = null; // the settings of the run on the page
    let started = 0;
    let ideas = [];

    /* Settings: the form, the address and the JSON say the same. */

    const isChat = () => kinds.find((radio) => radio.checked).value === "chat";

    function settings() {
      const numbers = Object.fromEntries(
        Object.entries(fields).map(([name, field]) => [
          name,
          field.value === "" ? null : Number(field.value),
        ]),
      );
      const read = isChat() ? { messages: turns.get() } : { prompt: at("steer-prompt").value };
      return { sae: js.sae(), ...read, edits: edits.get(), ...numbers };
    }

    function fill(given) {
      if (given.messages) turns.set(given.messages);
      else at("steer-prompt").value = given.prompt ?? "";
      show(given.messages ? "chat" : "text");
      for (const [name, field] of Object.entries(fields)) field.value = given[name] ?? usual[name];
      edits.set(given.edits ?? []);
      at("json-text").value = JSON.stringify(settings(), null, 2);
    }

    /* Text or chat. */
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
      const written = at("steer-prompt").value;
      if (kind === "chat" && !turns.get().some((turn) => turn.content.trim()))
        turns.set([{ role: "user", content: written === prompt ? question : written }]);
      show(kind);
      changed();
      drawIdeas();
    }

    function write(push) {
      const s = settings();
      const other = (name) => (s[name] === usual[name] ? "" : s[name]);
      js.setQuery(
        {
          sae: js.saeInAddress(s.sae),
          prompt: s.prompt,
          messages: s.messages && JSON.stringify(s.messages),
          edits: s.edits.length ? JSON.stringify(s.edits) : "",
          tokens: other("max_new_tokens"),
          temperature: other("temperature"),
          seed: other("seed"),
        },
        { push },
      );
    }

    function changed() {
      write(false);
      at("json-text").value = JSON.stringify(settings(), null, 2);
    }

    /* What the address says; a sentence if its edits or messages cannot be read. */
    function read() {
      const q = js.query();
      const number = (text) => (text === undefined ? undefined : Number(text));
      const given = {
        prompt: q.prompt,
        edits: [],
        max_new_tokens: number(q.tokens),
        temperature: number(q.temperature),
        seed: number(q.seed),
      };
      for (const [name, why] of [
        ["messages", js.messagesProblem],
        ["edits", js.editProblem],
      ]) {
        if (!q[name]) continue;
        let value;
        try {
          value = JSON.parse(q[name]);
        } catch {
          given.problem = `The ${name} in this link cannot be read: it may have been cut off.`;
          return given;
        }
        if (why(value)) {
          given.problem = `The ${name} in this link cannot be used: ${why(value)}.`;
          return given;
        }
        given[name] = value;
      }
      return given;
    }

    /* Running */

    function generate({ push }) {
      if (js.pending("steer")) return;
      write(push);
      complain("");
      asked = settings();
      view.begin(asked);
      started = performance.now();
      at("generate").disabled = true;
      at("stop").disabled = false;
      status("Generating…");
      let moved = false;
      js.ask("steer", asked, (answer) => {
        if (answer.run) {
          at("ideas").hidden = true;
          view.show(answer.run);
          if (!answer.run.done) status(`Generating… ${view.length()} tokens`);
          // On a narrow screen the texts stand below the form.
          if (push && !moved && at("run").getBoundingClientRect().top > innerHeight * 0.7)
            at("run").scrollIntoView();
          moved = true;
        }
        if (!answer.final) return;
        finished();
        view.finish();
        if (answer.error) complain(answer.error);
        else if (answer.stopped) status(view.run ? `Stopped: ${words()}.` : "Stopped.");
        else status(view.run.note || `Done: ${words()}.`);
      });
    }

    function words() {
      const made = view.length();
      return `${made} token${made === 1 ? "" : "s"} each in ${format.number((performance.now() - started) / 1000, 2)} s`;
    }

    function finished() {
      at("generate").disabled = false;
      at("stop").disabled = true;
    }

    /* The conversation that was asked, with an answer to it, and the next turn to write. */
    function carryOn(answer) {
      turns.set([
        ...asked.messages,
        { role: "model", content: answer },
        { role: "user", content: "" },
      ]);
      show("chat");
      write(true);
      changed();
      turns.focusLast();
    }

    function stop() {
      js.stop("steer");
      at("stop").disabled = true;
      status("Stopping…");
    }

    function status(text) {
      at("run-status").textContent = text;
    }

    function complain(sentence) {
      at("problem").replaceChildren(...(sentence ? [js.problem(sentence)] : []));
      if (sentence && !view.run) view.hide();
    }

    /* Where to begin */

    /* An idea as it is tried here: in a chat, its edits on the conversation that is there. */
    const tried = (idea) =>
      isChat() && !idea.messages ? { ...idea, prompt: undefined, messages: turns.get() } : idea;

    function drawIdeas() {
      if (!ideas.length || !at("run").hidden) return;
      at("ideas").replaceChildren(
        el("h2", {}, "Try one"),
        el(
          "div",
          { class: "cards" },
          ideas.map((idea) => {
            const given = idea.messages?.at(-1)?.content ?? (isChat() ? "" : `${idea.prompt}…`);
            return el(
              "button",
              { type: "button", class: "panel card idea", onclick: () => use(tried(idea)) },
              el("b", {}, idea.title ?? given),
              given ? el("span", { class: "mono given" }, given) : null,
              el("span", { class: "quiet" }, (idea.edits ?? []).map(wish).join("; ")),
            );
          }),
        ),
      );
    }

    function wish({ feature, mode = "set", strength = 1, value }) {
      const much = value ?? `${strength} × its largest`;
      return {
        set: `#${feature} set to ${much}`,
        scale: `#${feature} scaled by ${value ?? strength}`,
        add: `${much} added to #${feature}`,
        cap: `#${feature} capped at ${much}`,
        ablate: `#${feature} switched off`,
      }[mode];
    }

    /* Settings written by hand; returns why they cannot be used, or "". */
    function useJson(text) {
      let given;
      try {
        given = JSON.parse(text);
      } catch {
        return "it is not JSON";
      }
      if (given === null || typeof given !== "object" || Array.isArray(given))
        return "it must be an object with prompt or messages, and edits";
      const why =
        js.editProblem(given.edits ?? []) || (given.messages && js.messagesProblem(given.messages));
      if (why) return why;
      if (given.sae) js.setQuery({ ...js.query(), sae: js.saeInAddress(String(given.sae)) });
      fill(given);
      write(true);
      return "";
    }

    function use(idea) {
      if (idea.sae && idea.sae !== js.sae())
        js.setQuery({ ...js.query(), sae: js.saeInAddress(idea.sae) });
      fill(idea);
      generate({ push: true });
    }

    /* What people do */

    at("steer-form").addEventListener("submit", (event) => {
      event.preventDefault();
      generate({ push: true });
    });
    at("steer-form").addEventListener("input", (event) => {
      if (!event.target.closest("#json, #edits, #kinds")) changed();
    });
    for (const radio of kinds) radio.addEventListener("change", () => change(radio.value));
    at("prompt-fields").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) generate({ push: true });
    });
    at("stop").addEventListener("click", stop);
    at("copy-link").addEventListener("click", (event) => {
      const short = new URLSearchParams(location.search);
      const whole = Object.entries(js.query()).every(([name, value]) => short.get(name) === value);
      js.copy(location.href, event.target, whole ? "Copied" : "Copied without the long prompt");
    });
    at("json-copy").addEventListener("click", (event) =>
      js.copy(at("json-text").value, event.target),
    );
    at("json-apply").addEventListener("click", () => {
      const why = useJson(at("json-text").value);
      at("json-problem").replaceChildren(
        ...(why ? [js.problem(`These settings cannot be used: ${why}.`)] : []),
      );
    });
    document.getElementById("sae").addEventListener("change", (event) => {
      const before = js.sae();
      const kept = edits.get().map((edit) => ({ sae: before, ...edit }));
      js.setQuery({ ...js.query(), sae: js.saeInAddress(event.target.value) });
      edits.set(kept);
      changed();
    });

    function restore() {
      js.stop("steer");
      js.forget("steer");
      finished();
      js.carrySae();
      const given = read();
      const { messages, prompt } = given;
      const complete = messages ? messages.at(-1).content.trim() : prompt;
      if (!messages && prompt === undefined) given.prompt = main.dataset.prompt;
      fill(given);
      view.begin();
      view.hide();
      at("ideas").hidden = false;
      complain(given.problem ?? "");
      if (complete && given.edits.length && !given.problem) generate({ push: false });
    }

    /* The model is there and says whether it chats; one that does begins so, unless somebody has
       begun already. */
    function meet(chat) {
      if (!chat) return;
      turns.knows(chat.system);
      view.endsWith(chat.end);
      at("kinds").hidden = false;
      const { prompt, messages } = js.query();
      const untouched = at("steer-prompt").value === main.dataset.prompt && !asked;
      if (prompt === undefined && !messages && untouched) {
        turns.set([{ role: "user", content: main.dataset.question }]);
        show("chat");
        at("json-text").value = JSON.stringify(settings(), null, 2);
        drawIdeas();
      }
    }

    addEventListener("popstate", restore);
    js.title("Steer");
    restore();
    js.ask("chat", {}, (answer) => meet(answer.chat));
    js.ask("ideas", { sae: js.sae() }, (answer) => {
      ideas = answer.ideas ?? [];
      drawIdeas();
    });
  };
})();
