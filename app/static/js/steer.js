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
    const edits = js.editList(at("edits"), {
      most: Number(main.dataset.mostEdits),
      add: at("add-edit"),
      changed: () => changed(),
    });
    const given = js.given(main, {
      field: at("steer-prompt"),
      changed: () => {
        changed();
        drawIdeas();
      },
    });
    const { isChat, turns } = given;
    const view = js.runView({ carryOn });
    let asked = null; // the settings of the run on the page
    let started = 0;
    let ideas = [];

    /* Settings: the form, the address and the JSON say the same. */

    function settings() {
      const numbers = Object.fromEntries(
        Object.entries(fields).map(([name, field]) => [
          name,
          field.value === "" ? null : Number(field.value),
        ]),
      );
      const messages = given.messages();
      const read = messages ? { messages } : { prompt: at("steer-prompt").value };
      return { sae: js.sae(), ...read, edits: edits.get(), ...numbers };
    }

    function fill(wanted) {
      given.set(wanted.messages, wanted.prompt ?? "");
      for (const [name, field] of Object.entries(fields)) field.value = wanted[name] ?? usual[name];
      edits.set(wanted.edits ?? []);
      at("json-text").value = JSON.stringify(settings(), null, 2);
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
      const messages = js.listInAddress("messages", js.messagesProblem);
      const listed = js.listInAddress("edits", js.editProblem);
      return {
        prompt: q.prompt,
        messages: messages.value,
        edits: listed.value ?? [],
        max_new_tokens: number(q.tokens),
        temperature: number(q.temperature),
        seed: number(q.seed),
        problem: messages.problem ?? listed.problem,
      };
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
      given.set([
        ...asked.messages,
        { role: "model", content: answer },
        { role: "user", content: "" },
      ]);
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
            const words = idea.messages?.at(-1)?.content ?? (isChat() ? "" : `${idea.prompt}…`);
            return el(
              "button",
              { type: "button", class: "panel card idea", onclick: () => use(tried(idea)) },
              el("b", {}, idea.title ?? words),
              words ? el("span", { class: "mono given" }, words) : null,
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
      let wanted;
      try {
        wanted = JSON.parse(text);
      } catch {
        return "it is not JSON";
      }
      if (wanted === null || typeof wanted !== "object" || Array.isArray(wanted))
        return "it must be an object with prompt or messages, and edits";
      const why =
        js.editProblem(wanted.edits ?? []) || (wanted.messages && js.messagesProblem(wanted.messages));
      if (why) return why;
      if (wanted.sae) js.setQuery({ ...js.query(), sae: js.saeInAddress(String(wanted.sae)) });
      fill(wanted);
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
      const wanted = read();
      const { messages, prompt } = wanted;
      const complete = messages ? messages.at(-1).content.trim() : prompt;
      if (!messages && prompt === undefined) wanted.prompt = main.dataset.prompt;
      fill(wanted);
      view.begin();
      view.hide();
      at("ideas").hidden = false;
      complain(wanted.problem ?? "");
      if (complete && wanted.edits.length && !wanted.problem) generate({ push: false });
    }

    /* The model is there and says whether it chats; one that does begins so, unless somebody has
       begun already. */
    function meet(chat) {
      if (!chat) return;
      given.offer(chat);
      view.endsWith(chat.end);
      const { prompt, messages } = js.query();
      const untouched = at("steer-prompt").value === main.dataset.prompt && !asked;
      if (prompt === undefined && !messages && untouched) {
        given.set([{ role: "user", content: main.dataset.question }]);
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
