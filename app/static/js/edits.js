/* The list of edits on the steering page: one small form for each, with the feature's signature and
   the raw value of its strength beside it. Where no index knows the feature's largest activation,
   and where an edit comes with a value, the number is in the activation's own units. */

(() => {
  "use strict";

  const js = window.jumpscope;
  const { el, format } = js;

  const MODES = {
    set: "set to",
    scale: "scale by",
    add: "add",
    cap: "cap at",
    ablate: "switch off",
  };
  const WHERE = {
    all: "all tokens",
    prompt: "the prompt",
    generated: "new tokens",
    list: "token numbers…",
  };

  /* A new edit sets a feature without an index to so many times its threshold. */
  const TIMES = 10;

  const NO_LARGEST =
    "In the activation's own units: without an index the feature's largest activation is not known.";

  /* Why a value cannot be a list of edits, as the end of a sentence; "" if it can. Numbers are the
     server's to judge. */
  js.editProblem = (edits) => {
    if (!Array.isArray(edits)) return "they must be a list of edits";
    for (const edit of edits) {
      if (edit === null || typeof edit !== "object" || Array.isArray(edit))
        return "each edit must be an object";
      const { mode = "set", positions = "all" } = edit;
      if (!(mode in MODES))
        return `${JSON.stringify(mode)} is not one of the modes ${Object.keys(MODES).join(", ")}`;
      if (!Array.isArray(positions) && !["all", "prompt", "generated"].includes(positions)) {
        return `${JSON.stringify(positions)} is not one of the positions all, prompt, generated, or a list of numbers`;
      }
    }
    return "";
  };

  /* `box` holds the forms; `changed` is called after every change. */
  js.editList = (box, { most, add, changed }) => {
    let rows = [];
    const known = new Map(); // "sae/feature" -> summary, or null if there is no such feature
    const wanted = []; // look-ups to come, one at a time

    const key = (sae, feature) => `${sae}/${feature}`;

    /* One look-up after another: the channel keeps only the latest question. */
    function lookUp(sae, query, then) {
      wanted.push({ sae, query, then });
      if (wanted.length === 1) nextLookUp();
    }
    function nextLookUp() {
      const [{ sae, query, then }] = wanted;
      js.ask("look-up", { sae, query }, (answer) => {
        wanted.shift();
        then(answer);
        if (wanted.length) nextLookUp();
      });
    }

    function row(edit) {
      const id = `edit-${Math.random().toString(36).slice(2, 8)}`;
      const options = (names, chosen) =>
        Object.entries(names).map(([value, words]) =>
          el("option", { value, selected: value === chosen }, words),
        );
      const list = Array.isArray(edit.positions) ? edit.positions.join(", ") : "";
      const { strength, value } = edit;
      const r = {
        sae: edit.sae || js.sae(),
        // In the activation's own units; of a new edit the feature decides.
        own: strength === undefined && value !== undefined,
        fresh: strength === undefined && value === undefined,
        feature: el("input", {
          class: "feature",
          inputmode: "search",
          "aria-label": "Feature: number, or words to search for",
          value: edit.feature === undefined ? "" : `#${edit.feature}`,
          placeholder: "number or words",
          list: id,
          autocomplete: "off",
          spellcheck: "false",
        }),
        whose: el("select", { class: "whose", "aria-label": "SAE of this edit" }),
        choices: el("datalist", { id }),
        words: el("p", { class: "signature" }),
        mode: el(
          "select",
          { "aria-label": "What to do with it" },
          options(MODES, edit.mode ?? "set"),
        ),
        strength: el("input", {
          type: "number",
          "aria-label": "Strength",
          value: strength ?? value ?? 1,
        }),
        raw: el("span", { class: "raw" }),
        where: el(
          "select",
          { "aria-label": "Where" },
          options(WHERE, Array.isArray(edit.positions) ? "list" : (edit.positions ?? "all")),
        ),
        list: el("input", {
          "aria-label": "Token numbers, from 0",
          placeholder: "0, 1, 5",
          value: list,
        }),
      };
      const remove = el(
        "button",
        { type: "button", class: "close", "aria-label": "Remove this edit" },
        "×",
      );
      r.node = el(
        "fieldset",
        { class: "edit" },
        el("legend", { class: "vh" }, "Edit"),
        el("div", { class: "line" }, r.feature, r.choices, remove),
        r.whose,
        r.words,
        el("div", { class: "line" }, r.mode, r.strength, r.raw),
        el("label", { class: "line" }, "on ", r.where),
        r.list,
      );
      remove.addEventListener("click", () => {
        rows = rows.filter((each) => each !== r);
        r.node.remove();
        limit();
        add.focus();
        changed();
      });
      const saes = js.saes();
      if (!js.known(r.sae)) saes.push([r.sae, r.sae]); // a link's mistake, which the server names
      for (const [value, words] of saes)
        r.whose.append(el("option", { value, selected: value === r.sae }, words));
      r.whose.hidden = saes.length < 2;
      r.whose.addEventListener("change", () => {
        r.sae = r.whose.value;
        r.choices.replaceChildren();
        look(r);
        describe(r);
        changed();
      });
      let timer = 0;
      r.feature.addEventListener("input", () => {
        clearTimeout(timer);
        timer = setTimeout(() => look(r), 150);
        changed();
      });
      r.strength.addEventListener("input", () => (r.fresh = false));
      for (const field of [r.mode, r.strength, r.where, r.list]) {
        field.addEventListener("input", () => {
          begin(r);
          describe(r);
          changed();
        });
      }
      return r;
    }

    const chosen = (r) => {
      const match = /^\s*#?\s*(\d+)\s*$/.exec(r.feature.value);
      return match ? Number(match[1]) : null;
    };

    function look(r) {
      const feature = chosen(r);
      const text = r.feature.value.trim();
      if (!text) return describe(r);
      if (feature !== null && known.has(key(r.sae, feature))) return lookedUp(r);
      return lookUp(r.sae, feature === null ? text : `#${feature}`, (answer) => {
        const found = answer.features ?? [];
        for (const summary of found) known.set(key(r.sae, summary.feature), summary);
        if (
          feature !== null &&
          !answer.error &&
          !found.some((summary) => summary.feature === feature)
        )
          known.set(key(r.sae, feature), null);
        if (feature === null) {
          r.choices.replaceChildren(
            ...found.map((summary) =>
              el("option", { value: `#${summary.feature}`, label: summary.signature }),
            ),
          );
        }
        lookedUp(r, answer.error);
      });
    }

    /* The feature has been looked up. */
    function lookedUp(r, error) {
      const before = r.own;
      begin(r);
      describe(r, error);
      if (r.own !== before) changed();
    }

    /* A new edit of a feature whose largest activation nobody knows: a value to begin with. */
    function begin(r) {
      const summary = known.get(key(r.sae, chosen(r)));
      if (!r.fresh || !summary || summary.max_act !== null || r.mode.value === "scale") return;
      r.own = true;
      r.fresh = false;
      const { threshold } = summary;
      r.strength.value = threshold > 0 ? Number((TIMES * threshold).toPrecision(2)) : "";
    }

    /* The words under the number, and the strength in the activation's own units. */
    function describe(r, error) {
      const feature = chosen(r);
      const summary = feature === null ? undefined : known.get(key(r.sae, feature));
      const mode = r.mode.value;
      r.words.classList.toggle("bad", Boolean(error) || summary === null);
      if (error) r.words.textContent = error;
      else if (summary === null)
        r.words.textContent = `There is no feature ${feature} in this SAE.`;
      else if (summary) {
        r.words.replaceChildren(
          el(
            "a",
            { href: js.address("features", { sae: js.saeInAddress(r.sae), feature }) },
            summary.signature,
          ),
        );
      } else if (feature === null && r.choices.children.length && r.feature.value.trim())
        r.words.textContent = "Choose one of the suggestions.";
      else r.words.textContent = "";
      r.strength.hidden = mode === "ablate";
      r.raw.hidden = mode === "ablate";
      r.strength.step = r.own ? "any" : "0.1";
      if (r.own && summary?.max_act === null) r.raw.dataset.tip = NO_LARGEST;
      else delete r.raw.dataset.tip;
      r.raw.textContent = unit(r, summary, Number(r.strength.value));
      r.list.hidden = r.where.value !== "list";
    }

    /* What the number beside it means. */
    function unit(r, summary, value) {
      if (r.mode.value === "scale") return "times what it is";
      if (r.own && summary?.threshold > 0)
        return `in its own units; fires above ${format.number(summary.threshold)}`;
      if (r.own) return "in its own units";
      if (!summary) return "× max";
      if (summary.max_act === null) return "× max, which only an index knows";
      return `× max = ${format.number(value * summary.max_act)}`;
    }

    function limit() {
      add.disabled = rows.length >= most;
    }

    function append(edit, { focus = false } = {}) {
      const r = row(edit);
      rows.push(r);
      box.append(r.node);
      describe(r);
      if (r.feature.value) look(r);
      if (focus) r.feature.focus();
      limit();
    }

    add.addEventListener("click", () => {
      append({}, { focus: true });
      changed();
    });

    return {
      set(edits) {
        rows = [];
        box.replaceChildren();
        for (const edit of edits) append(edit);
        limit();
      },

      /* The edits as the server takes them; a field that makes no sense goes as written, and the
         server's sentence says what is wrong with it. */
      get() {
        return rows
          .filter((r) => r.feature.value.trim())
          .map((r) => {
            const edit = { feature: chosen(r) ?? r.feature.value.trim(), mode: r.mode.value };
            if (edit.mode !== "ablate")
              edit[r.own ? "value" : "strength"] =
                r.strength.value === "" ? null : Number(r.strength.value);
            edit.positions = r.where.value;
            if (edit.positions === "list") {
              edit.positions = r.list.value
                .split(/[\s,]+/)
                .filter(Boolean)
                .map((part) => (/^\d+$/.test(part) ? Number(part) : part));
            }
            if (r.sae !== js.sae()) edit.sae = r.sae;
            return edit;
          });
      },
    };
  };
})();
