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
    let run = null;
    let started = 0;

    /* Settings: the form, the address and the JSON say the same. */

    function settings() {
      const numbers = Object.fromEntries(
        Object.entries(fields).map(([name, field]) => [
          name,
          field.value === "" ? null : Number(field.value),
        ]),
      );
      return { sae: js.sae(), prompt: at("steer-prompt").value, edits: edits.get(), ...numbers };
    }

    function fill(given) {
      at("steer-prompt").value = given.prompt ?? "";
      for (const [name, field] of Object.entries(fields)) field.value = given[name] ?? usual[name];
      edits.set(given.edits ?? []);
      at("json-text").value = JSON.stringify(settings(), null, 2);
    }

    function write(push) {
      const s = settings();
      const other = (name) => (s[name] === usual[name] ? "" : s[name]);
      js.setQuery(
        {
          sae: js.saeInAddress(s.sae),
          prompt: s.prompt,
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

    /* What the address says; a sentence if its edits cannot be read. */
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
      if (!q.edits) return given;
      let edits;
      try {
        edits = JSON.parse(q.edits);
      } catch {
        given.problem = "The edits in this link cannot be read: it may have been cut off.";
        return given;
      }
      const why = js.editProblem(edits);
      if (why) given.problem = `The edits in this link cannot be used: ${why}.`;
      else given.edits = edits;
      return given;
    }

    /* Running */

    function generate({ push }) {
      if (js.pending("steer")) return;
      write(push);
      complain("");
      run = null;
      started = performance.now();
      at("generate").disabled = true;
      at("stop").disabled = false;
      status("Generating…");
      let moved = false;
      js.ask("steer", settings(), (answer) => {
        if (answer.run) {
          run = answer.run;
          drawRun();
          // On a narrow screen the texts stand below the form.
          if (push && !moved && at("run").getBoundingClientRect().top > innerHeight * 0.7)
            at("run").scrollIntoView();
          moved = true;
        }
        if (!answer.final) return;
        finished();
        if (answer.error) complain(answer.error);
        else if (answer.stopped) status(`Stopped: ${words(run)}.`);
        else status(run.note || `Done: ${words(run)}.`);
      });
    }

    const words = (grown) => {
      const made = Math.max(grown.base.length, grown.steered.length);
      return `${made} token${made === 1 ? "" : "s"} each in ${format.number((performance.now() - started) / 1000, 2)} s`;
    };

    function finished() {
      at("generate").disabled = false;
      at("stop").disabled = true;
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
      if (sentence && !run) at("run").hidden = true;
    }

    /* Drawing */

    function drawRun() {
      at("ideas").hidden = true;
      at("run").hidden = false;
      drawWatch();
      const k = Number(at("watch").value) || 0;
      drawArm(at("base"), run.base, k);
      drawArm(at("with-edits"), run.steered, k);
      if (!run.done) status(`Generating… ${Math.max(run.base.length, run.steered.length)} tokens`);
      at("edit-summary").textContent = run.edits.map(summary).join("; ");
    }

    function summary(edit) {
      const done = {
        set: `#${edit.feature} set to ${format.number(edit.value)}`,
        scale: `#${edit.feature} scaled by ${format.number(edit.value)}`,
        add: `${format.number(edit.value)} added to #${edit.feature}`,
        cap: `#${edit.feature} capped at ${format.number(edit.value)}`,
        ablate: `#${edit.feature} switched off`,
      };
      const where = { all: "all tokens", prompt: "the prompt", generated: "new tokens" };
      return `${done[edit.mode]} on ${where[edit.positions] ?? `tokens ${[edit.positions].flat().join(", ")}`}`;
    }

    function drawWatch() {
      const select = at("watch");
      const names = run.edits.map((edit) => `#${edit.feature}`);
      if (select.dataset.names !== names.join()) {
        select.dataset.names = names.join();
        select.replaceChildren(...names.map((name, k) => el("option", { value: k }, name)));
      }
      // With one edit there is nothing to choose.
      select.hidden = names.length < 2;
      at("watch-one").textContent = names.length < 2 ? (names[0] ?? "") : "";
    }

    /* The prompt faint, then each new token coloured by the feature's own activation. Only what has
       come since the last time is added. */
    function drawArm(box, tokens, k) {
      const edit = run.edits[k];
      const scale = edit.max_act ?? largest(k);
      const drawn = `${started}/${k}/${scale}`;
      if (box.dataset.drawn !== drawn) {
        box.dataset.drawn = drawn;
        box.replaceChildren(js.tokenText(el("span", { class: "given" }), run.prompt.join("")));
      }
      for (const token of tokens.slice(box.querySelectorAll("[data-tip]").length)) {
        const [own, after] = [token.own[k], token.after[k]];
        const same = Math.abs(own - after) < 1e-6 * Math.max(1, Math.abs(own));
        const span = el("span", {
          "data-tip": `#${edit.feature}: ${format.number(own)}${same ? "" : `, ${format.number(after)} after the edit`}`,
          style: own > 0 ? `--a:${Math.min(1, own / scale).toFixed(3)}` : null,
        });
        box.append(js.tokenText(span, token.text));
      }
    }

    /* The full colour where no index says what the largest activation is: the run's own. */
    const largest = (k) =>
      Math.max(...run.base.map((token) => token.own[k]), ...run.steered.map((token) => token.own[k]));

    function drawIdeas(ideas) {
      if (!ideas.length || !at("run").hidden) return;
      at("ideas").replaceChildren(
        el("h2", {}, "Try one"),
        el(
          "div",
          { class: "cards" },
          ideas.map((idea) =>
            el(
              "button",
              { type: "button", class: "panel card idea", onclick: () => use(idea) },
              el("b", {}, idea.title ?? idea.prompt),
              el("span", { class: "mono given" }, `${idea.prompt}…`),
              el("span", { class: "quiet" }, (idea.edits ?? []).map(wish).join("; ")),
            ),
          ),
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
        return "it must be an object with prompt and edits";
      const why = js.editProblem(given.edits ?? []);
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
      if (!event.target.closest("#json, #edits")) changed();
    });
    at("steer-prompt").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) generate({ push: true });
    });
    at("stop").addEventListener("click", stop);
    at("watch").addEventListener("change", drawRun);
    at("copy-link").addEventListener("click", (event) => {
      const whole =
        settings().prompt === (new URLSearchParams(location.search).get("prompt") ?? "");
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
      const asked = Boolean(given.prompt && given.edits.length);
      if (given.prompt === undefined) given.prompt = main.dataset.prompt;
      fill(given);
      run = null;
      at("run").hidden = true;
      at("ideas").hidden = false;
      complain(given.problem ?? "");
      if (asked && !given.problem) generate({ push: false });
    }

    addEventListener("popstate", restore);
    js.title("Steer");
    restore();
    js.ask("ideas", { sae: js.sae() }, (answer) => drawIdeas(answer.ideas ?? []));
  };
})();
