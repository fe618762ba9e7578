/* A steering run on the page: the conversation if there is one, the two continuations side by side,
   each token coloured by a feature's own activation. */

(() => {
  "use strict";

  const js = window.jumpscope;
  const { el, format } = js;
  const at = (id) => document.getElementById(id);

  const WHERE = { all: "all tokens", prompt: "the prompt", generated: "new tokens" };
  const KINDS = ["", "markup", "markup"];
  const OF_TEMPLATE = ["", ", of the chat template", ", of the chat template: it is left alone"];

  /* `carryOn(arm)` is called to continue with an arm's answer. */
  js.runView = ({ carryOn }) => {
    let run = null;
    let key = 0; // another one for each run
    let end = ""; // the token that ends a turn of the model
    let settings = null; // of the run
    let chosen = null; // a new token: {arm, step}

    const text = (arm) => run[arm].map((token) => token.text).join("");

    /* A feature's number; with its SAE where edits are of several. */
    function name(edit) {
      const several = new Set(run.edits.map((each) => each.sae)).size > 1;
      return several ? `#${edit.feature} of ${js.saeLabel(edit.sae)}` : `#${edit.feature}`;
    }

    function summary(edit) {
      const done = {
        set: `${name(edit)} set to ${format.number(edit.value)}`,
        scale: `${name(edit)} scaled by ${format.number(edit.value)}`,
        add: `${format.number(edit.value)} added to ${name(edit)}`,
        cap: `${name(edit)} capped at ${format.number(edit.value)}`,
        ablate: `${name(edit)} switched off`,
      };
      return `${done[edit.mode]} on ${WHERE[edit.positions] ?? `tokens ${[edit.positions].flat().join(", ")}`}`;
    }

    function drawWatch() {
      const select = at("watch");
      const names = run.edits.map(name);
      if (select.dataset.names !== names.join()) {
        select.dataset.names = names.join();
        select.replaceChildren(...names.map((words, k) => el("option", { value: k }, words)));
      }
      // With one edit there is nothing to choose.
      select.hidden = names.length < 2;
      at("watch-one").textContent = names.length < 2 ? (names[0] ?? "") : "";
    }

    /* Tokens of a turn; the template's are faint. */
    function turnTokens(turn) {
      return run.conversation.tokens.flatMap(([words, of, kind], i) => {
        if (of !== turn) return [];
        const tip = `token ${i}${OF_TEMPLATE[kind]}`;
        return [js.tokenText(el("span", { class: KINDS[kind] || null, "data-tip": tip }), words)];
      });
    }

    /* All turns but the one that is being written: that one begins in both arms. */
    function drawConversation() {
      const box = at("conversation");
      box.hidden = !run.conversation;
      if (!run.conversation || box.dataset.drawn === String(key)) return;
      box.dataset.drawn = key;
      box.replaceChildren(
        ...run.conversation.turns.slice(0, -1).map((role, turn) => {
          const steps = { "data-steps": "span[data-tip]", tabindex: 0, role: "group" };
          const words = `Turn ${turn + 1}: ${js.ROLES[role]}`;
          return el(
            "div",
            { class: `said ${role}` },
            el("h3", {}, js.ROLES[role]),
            el("div", { class: "tokens", "aria-label": words, ...steps }, turnTokens(turn)),
          );
        }),
      );
    }

    /* What the arm begins with: the prompt, or how the template opens the model's turn. */
    function opening() {
      const { conversation } = run;
      return conversation
        ? turnTokens(conversation.turns.length - 1)
        : [js.tokenText(el("span", { class: "given" }), run.prompt)];
    }

    /* The beginning faint, then each new token coloured by the feature's own activation. Only what
       has come since the last time is added. */
    function drawArm(box, tokens, k) {
      const edit = run.edits[k];
      const scale = edit.max_act ?? largest(k);
      const drawn = `${key}/${k}/${scale}`;
      if (box.dataset.drawn !== drawn) {
        box.dataset.drawn = drawn;
        box.replaceChildren(...opening());
      }
      for (const token of tokens.slice(box.querySelectorAll(".new").length)) {
        const [own, after] = [token.own[k], token.after[k]];
        const same = Math.abs(own - after) < 1e-6 * Math.max(1, Math.abs(own));
        const span = el("span", {
          class: "new",
          "data-tip": `#${edit.feature}: ${format.number(own)}${same ? "" : `, ${format.number(after)} after the edit`}`,
          style: own > 0 ? `--a:${Math.min(1, own / scale).toFixed(3)}` : null,
        });
        box.append(js.tokenText(span, token.text));
      }
      // The model has ended its turn itself: its marker is no token of the answer.
      const ended = run.conversation && run.done && !run.note && tokens.length < run.limit;
      if (ended && end && !box.querySelector(".end"))
        box.append(el("span", { class: "markup end" }, end));
    }

    const ARMS = { base: "base", "with-edits": "steered" };
    const ARM_NAMES = { base: "as it is", steered: "steered" };

    function drawChosen() {
      for (const box of [at("base"), at("with-edits")]) {
        box.querySelectorAll(".new").forEach((span, step) => {
          const here = chosen?.arm === ARMS[box.id] && chosen.step === step;
          span.classList.toggle("chosen", here);
        });
      }
      const token = chosen && run[chosen.arm][chosen.step];
      if (!token) {
        at("new-token").replaceChildren("Choose a new token to see its activations.");
        return;
      }
      const numbers = run.edits.map((edit, k) => {
        const [own, after] = [token.own[k], token.after[k]].map((value) => format.number(value));
        return `${name(edit)}: ${own}${own === after ? "" : `, ${after} after the edit`}`;
      });
      const where = `new token ${chosen.step + 1}, ${ARM_NAMES[chosen.arm]}`;
      at("new-token").replaceChildren(
        el("b", { class: "mono" }, js.quoted(token.text)),
        ` ${where} · ${numbers.join("; ")} · `,
        js.reproduceButton(() => choices(token), "activations on this token"),
      );
    }

    /* The numbers of a new token that the card can be about. */
    function choices(token) {
      return run.edits.flatMap((edit, k) => {
        const number = (when, words) => ({
          words: `${name(edit)} ${words}`,
          asked: { settings, ...chosen, edit: k, when },
          value: token[when][k],
        });
        const own = number("own", "before the edit");
        const after = number("after", "after the edit");
        return own.value === after.value ? [own] : [own, after];
      });
    }

    for (const box of [at("base"), at("with-edits")]) {
      box.addEventListener("click", (event) => {
        const span = event.target.closest(".new");
        if (!span || !run) return;
        const step = [...box.querySelectorAll(".new")].indexOf(span);
        const same = chosen?.arm === ARMS[box.id] && chosen.step === step;
        chosen = same ? null : { arm: ARMS[box.id], step };
        drawChosen();
      });
    }

    /* The full colour where no index says what the largest activation is: the run's own. */
    const largest = (k) =>
      Math.max(...["base", "steered"].flatMap((arm) => run[arm].map((token) => token.own[k])));

    function draw() {
      at("run").hidden = false;
      drawWatch();
      drawConversation();
      const k = Number(at("watch").value) || 0;
      drawArm(at("base"), run.base, k);
      drawArm(at("with-edits"), run.steered, k);
      drawChosen();
      at("edit-summary").textContent = run.edits.map(summary).join("; ");
    }

    at("watch").addEventListener("change", draw);
    for (const button of document.querySelectorAll("[data-carry-on]")) {
      const arm = button.dataset.carryOn;
      button.addEventListener("click", () => carryOn(text(arm)));
    }

    function offer(possible) {
      for (const button of document.querySelectorAll("[data-carry-on]")) {
        button.hidden = !possible || !text(button.dataset.carryOn).trim();
      }
    }

    return {
      get run() {
        return run;
      },

      /* A new run of these settings begins; what stands there stays until its first token. */
      begin(given = null) {
        run = null;
        settings = given;
        chosen = null;
        key += 1;
        offer(false);
      },

      show(grown) {
        run = grown;
        draw();
      },

      /* No more tokens will come. */
      finish() {
        offer(Boolean(run?.conversation));
      },

      hide() {
        run = null;
        at("run").hidden = true;
      },

      endsWith(token) {
        end = token ?? "";
      },

      /* The most tokens of a continuation so far. */
      length: () => Math.max(run.base.length, run.steered.length),
    };
  };
})();
