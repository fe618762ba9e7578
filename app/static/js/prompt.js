/* The prompt page. One answer of the server holds everything; what follows is drawn here. */

(() => {
  "use strict";

  const js = window.jumpscope;
  const { el, format } = js;
  const LONGEST_LINK = 6000;
  const FEW = 40;

  js.pages.prompt = (main) => {
    const at = (id) => document.getElementById(id);
    const form = at("prompt-form");
    const field = at("prompt-text");
    let data = null; // the analysis on the page
    let byToken = []; // token -> [[feature row, activation], ...]
    let byId = new Map(); // feature -> row
    let spans = [];
    let all = false; // whether the long table shows every row
    let state = read();

    function read() {
      const q = js.query();
      const whole = (text) => (/^\d+$/.test(text ?? "") ? Number(text) : null);
      return {
        text: q.text ?? "",
        view: ["cost", "active", "feature"].includes(q.view) ? q.view : "cost",
        token: whole(q.token),
        feature: whole(q.feature),
        sort: ["activation", "share", "frequency"].includes(q.sort) ? q.sort : "activation",
        hide: q.hide !== undefined && Number(q.hide) > 0 ? Math.min(1, Number(q.hide)) : 1,
      };
    }

    function write(push) {
      const tooLong = encodeURIComponent(state.text).length > LONGEST_LINK;
      js.setQuery(
        {
          sae: js.saeInAddress(js.sae()),
          text: tooLong ? "" : state.text,
          view: state.view === "cost" ? "" : state.view,
          token: state.token,
          feature: state.feature,
          sort: state.sort === "activation" ? "" : state.sort,
          hide: state.hide < 1 ? String(Number(state.hide.toPrecision(3))) : "",
        },
        { push }
      );
    }

    /* Change something that the address remembers, and redraw what depends on it. */
    function set(changes, { push = true } = {}) {
      Object.assign(state, changes);
      write(push);
      draw();
    }

    function analyse({ push }) {
      state.text = field.value;
      write(push);
      at("problem").replaceChildren();
      js.ask("analyse", { text: state.text, sae: js.sae() }, (answer) => {
        if (answer.error) return refuse(answer.error);
        take(answer.analysis);
        return draw();
      });
    }

    function refuse(sentence) {
      data = null;
      at("result").hidden = true;
      at("start").hidden = false;
      at("problem").replaceChildren(js.problem(sentence));
      js.title("Prompt");
    }

    function take(analysis) {
      data = analysis;
      data.of = state.text;
      byId = new Map(data.features.map((row) => [row.feature, row]));
      byToken = data.tokens.map(() => []);
      for (const row of data.features) for (const [i, activation] of row.tokens) byToken[i].push([row, activation]);
      if (state.token !== null && state.token >= data.tokens.length) state.token = null;
      if (state.feature !== null && !byId.has(state.feature)) state.feature = null;
      if (state.view === "feature" && state.feature === null) state.view = "cost";
      all = false;
      drawTotals();
      drawTokens();
      at("start").hidden = true;
      at("result").hidden = false;
      js.title(`Prompt: ${state.text.trim().slice(0, 40)}`);
    }

    /* Drawing */

    function drawTotals() {
      const t = data.totals;
      const stats = [
        ["tokens", "tokens", t.tokens.toLocaleString("en-US")],
        ["l0", "features per token (L0)", format.number(t.l0)],
        ["fvu", "variance unexplained (FVU)", format.fixed(t.fvu, 3)],
        ["delta_lm_loss", `delta LM loss (${format.fixed(t.ce_base, 2)} to ${format.fixed(t.ce_spliced, 2)})`, format.signed(t.delta_lm_loss)],
        ["kl", "KL divergence, nats per token", format.fixed(t.kl, 3)],
      ];
      at("totals").replaceChildren(
        ...stats.map(([key, name, value]) => {
          const definition = data.definitions[key] ?? "";
          const word = el("button", { type: "button", class: "term", "data-tip": definition, "aria-description": definition }, name);
          return el("div", { class: "stat" }, el("dt", {}, word), el("dd", {}, value));
        })
      );
    }

    function drawTokens() {
      spans = data.tokens.map((token) =>
        js.tokenText(
          el("span", { role: "button", tabindex: "-1", "data-i": token.i, class: token.special ? "special" : null }),
          token.text
        )
      );
      at("tokens").replaceChildren(...spans);
    }

    function draw() {
      if (!data) return;
      for (const radio of main.querySelectorAll("[name=view]")) {
        radio.checked = radio.value === state.view;
      }
      at("sort").value = state.sort;
      at("hide").value = String(Math.log10(state.hide));
      at("hide").setAttribute("aria-valuetext", state.hide >= 1 ? "none hidden" : format.percent(state.hide));
      at("hide-value").textContent = state.hide >= 1 ? "none" : `over ${format.percent(state.hide)} of tokens`;
      colour();
      drawSelection();
      drawFeatures();
    }

    const shown = (row) => state.hide >= 1 || row.frequency <= state.hide;

    function colour() {
      const { values, kind, words, legend } = colouring();
      at("tokens").dataset.kind = kind;
      const chosen = state.token ?? spans.findIndex((_, i) => !data.tokens[i].special);
      spans.forEach((span, i) => {
        const value = values[i];
        span.style.setProperty("--a", value === null ? "0" : Math.min(1, Math.abs(value)).toFixed(3));
        span.classList.toggle("better", value !== null && value < 0);
        span.dataset.v = words(i);
        span.tabIndex = i === chosen ? 0 : -1;
        span.setAttribute("aria-pressed", String(i === state.token));
      });
      at("legend").replaceChildren(...legend);
    }

    /* What each view colours by: a value from -1 to 1 for each token, and its words. */
    function colouring() {
      const tokens = data.tokens;
      if (state.view === "feature" && state.feature !== null) {
        const row = byId.get(state.feature);
        const acts = tokens.map(() => 0);
        for (const [i, activation] of row.tokens) acts[i] = activation;
        return {
          kind: "act",
          values: acts.map((value) => value / row.max_act),
          words: (i) => (tokens[i].special ? "special token, left alone" : format.number(acts[i])),
          legend: [`activation of #${row.feature}; full colour is its largest, ${format.number(row.max_act)}`],
        };
      }
      if (state.view === "active" || state.view === "feature") {
        const counts = byToken.map((pairs) => pairs.filter(([row]) => shown(row)).length);
        const most = Math.max(1, ...counts);
        const hint = state.view === "feature" ? "Choose a feature from a table to colour by it. Until then: " : "";
        return {
          kind: "act",
          values: counts.map((count) => count / most),
          words: (i) => (tokens[i].special ? "special token, left alone" : `${counts[i]} features`),
          legend: [`${hint}features active on each token${state.hide < 1 ? ", frequent ones left out" : ""}; at most ${most}`],
        };
      }
      const largest = Math.max(...tokens.map((token) => Math.abs(token.delta ?? 0)));
      const full = Math.max(0.5, Math.min(largest, 2));
      return {
        kind: "cost",
        values: tokens.map((token) => (token.delta === null ? null : token.delta / full)),
        words: (i) =>
          tokens[i].delta === null ? "first token, nothing predicts it" : `${format.signed(tokens[i].delta)} nats (${losses(tokens[i])})`,
        legend: [
          el("span", { class: "key worse" }, "red"), ": the splice makes this token harder to predict; ",
          el("span", { class: "key better" }, "blue"), ": easier",
        ],
      };
    }

    const losses = (token) => `${format.fixed(token.loss, 2)} → ${format.fixed(token.spliced_loss, 2)}`;

    /* Sorting of [row, activation] pairs. */
    const ORDERS = {
      activation: (a, b) => b[1] - a[1],
      share: (a, b) => b[1] / b[0].max_act - a[1] / a[0].max_act,
      frequency: (a, b) => a[0].frequency - b[0].frequency,
    };

    /* A table of features: how many pass the filter, and the markup of the first `most` of them. */
    function table(pairs, { caption, where, most = Infinity }) {
      const visible = pairs.filter(([row]) => shown(row)).sort(ORDERS[state.sort]);
      const rows = visible.slice(0, most).map(([row, activation]) => tableRow(row, activation, where));
      const head = el("tr", {},
        el("th", { scope: "col" }, "feature"), el("td"), el("th", { scope: "col", class: "n" }, where === "text" ? "peak" : "act"),
        el("th", { scope: "col", class: "n" }, "of max"), el("th", { scope: "col", class: "n often" }, "fires on"));
      const node = el("table", {}, el("caption", { class: "vh" }, caption), el("thead", {}, head), el("tbody", {}, ...rows));
      return { node, passing: visible.length, hidden: pairs.length - visible.length };
    }

    function tableRow(row, activation, where) {
      const chosen = row.feature === state.feature;
      const share = activation / row.max_act;
      const pick = el("button", { type: "button", class: "pick", "data-feature": row.feature, "data-where": where, "aria-pressed": String(chosen) }, `#${row.feature}`);
      return el("tr", { "aria-current": chosen ? "true" : null },
        el("td", { class: "id" }, pick),
        el("td", { class: "words" }, el("span", { class: "signature-text" }, row.signature), bar(share)),
        el("td", { class: "n" }, format.number(activation)),
        el("td", { class: "n" }, format.percent(share)),
        el("td", { class: "n often" }, format.percent(row.frequency)));
    }

    const bar = (share) =>
      el("span", { class: "mini", "aria-hidden": "true" }, el("i", { style: `width:${Math.min(100, 100 * share).toFixed(1)}%` }));

    const hiddenNote = (count) =>
      count
        ? el("p", { class: "quiet" }, `Hidden: ${count} feature${count === 1 ? "" : "s"} firing on more than ${format.percent(state.hide)} of tokens. `,
            el("button", { type: "button", class: "plain", onclick: () => set({ hide: 1 }, { push: false }) }, "Show"))
        : null;

    function drawFeatures() {
      const pairs = data.features.map((row) => [row, row.peak]);
      const { node, passing, hidden } = table(pairs, { caption: "Features on this text", where: "text", most: all ? Infinity : FEW });
      at("features-title").textContent = `Features on this text (${passing.toLocaleString("en-US")})`;
      const more = all ? 0 : passing - FEW;
      const showAll = () => {
        all = true;
        drawFeatures();
      };
      const rest = more > 0 ? el("button", { type: "button", class: "plain", onclick: showAll }, `Show the other ${more.toLocaleString("en-US")}`) : null;
      at("text-features").replaceChildren(...[node, rest, hiddenNote(hidden)].filter(Boolean));
    }

    function drawSelection() {
      const panels = [];
      if (state.feature !== null) panels.push(featurePanel(byId.get(state.feature)));
      if (state.token !== null) panels.push(tokenPanel(data.tokens[state.token]));
      if (!panels.length) {
        panels.push(el("p", { class: "panel quiet" }, "Choose a token to see its features, or a feature to see its tokens."));
      }
      at("selection").replaceChildren(...panels);
    }

    function tokenPanel(token) {
      const head = el("h2", { class: "in-panel" }, el("b", { class: "mono" }, js.quoted(token.text)), ` token ${token.i}`, close("token", "Close this token"));
      if (token.special) {
        return el("section", { class: "panel", "aria-label": "Selected token" }, head, el("p", { class: "quiet" }, "A special token: the SAE leaves it alone."));
      }
      const loss = token.loss === null ? "" : ` · loss ${losses(token)} (${format.signed(token.delta)})`;
      const { node, hidden } = table(byToken[token.i], { caption: "Features on the selected token", where: "token" });
      return el("section", { class: "panel", "aria-label": "Selected token" }, head,
        el("p", { class: "quiet" }, `${token.active} features${loss}`), node, hiddenNote(hidden));
    }

    function featurePanel(row) {
      const sae = js.saeInAddress(js.sae());
      const edits = JSON.stringify([{ feature: row.feature, mode: "set", strength: 1, positions: "all" }]);
      const tokens = [...row.tokens].sort((a, b) => b[1] - a[1]);
      const list = tokens.slice(0, 12).map(([i, activation]) =>
        el("tr", {},
          el("td", { class: "mono" }, el("button", { type: "button", class: "pick", "data-token": i }, js.quoted(data.tokens[i].text))),
          el("td", { class: "wide" }, bar(activation / row.max_act)),
          el("td", { class: "n" }, format.number(activation)),
          el("td", { class: "n" }, format.percent(activation / row.max_act))));
      return el("section", { class: "panel", "aria-label": "Selected feature" },
        el("h2", { class: "in-panel" }, el("b", { class: "id" }, `#${row.feature}`), ` ${row.signature}`, close("feature", "Close this feature")),
        el("p", { class: "quiet" }, `fires on ${format.percent(row.frequency)} of tokens, on ${tokens.length} of these`),
        el("table", {}, el("caption", { class: "vh" }, "Tokens of the selected feature"), el("tbody", {}, ...list)),
        el("p", { class: "links" },
          el("a", { href: js.address("features", { sae, feature: row.feature }) }, "Open its page"),
          el("a", { href: js.address("steer", { sae, prompt: data.of.length < 2000 ? data.of : "", edits }) }, "Steer with it")));
    }

    function close(what, label) {
      return el("button", { type: "button", class: "close", "aria-label": label, onclick: () => {
        const view = what === "feature" && state.view === "feature" ? "cost" : state.view;
        set({ [what]: null, view });
      } }, "×");
    }

    /* What people do */

    const choose = (i) => set({ token: state.token === i ? null : i });

    form.addEventListener("submit", (event) => {
      event.preventDefault();
      Object.assign(state, { token: null, feature: null, view: state.view === "feature" ? "cost" : state.view });
      analyse({ push: true });
    });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
    main.addEventListener("click", (event) => {
      const example = event.target.closest("[data-example]");
      if (example) {
        field.value = example.dataset.example;
        form.requestSubmit();
      }
      const span = event.target.closest("#tokens [data-i]");
      if (span) choose(Number(span.dataset.i));
      const feature = event.target.closest("[data-feature]");
      if (feature) pickFeature(feature);
      const token = event.target.closest("[data-token]");
      if (token) set({ token: Number(token.dataset.token) });
    });

    function pickFeature(button) {
      const feature = Number(button.dataset.feature);
      const again = state.feature === feature;
      set({ feature: again ? null : feature, view: again ? "cost" : "feature" });
      // The table has been drawn anew: the focus goes back to where it was.
      main.querySelector(`[data-feature="${feature}"][data-where="${button.dataset.where}"]`)?.focus({ preventScroll: true });
    }

    at("tokens").addEventListener("keydown", (event) => {
      const i = spans.indexOf(event.target);
      if (i < 0) return;
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        choose(i);
      } else if (js.stepKeys.includes(event.key)) {
        const target = js.nextStep(spans, i, event.key);
        if (!target) return;
        event.preventDefault();
        event.target.tabIndex = -1;
        target.tabIndex = 0;
        target.focus();
      }
    });
    main.addEventListener("change", (event) => {
      if (event.target.name === "view") set({ view: event.target.value });
      if (event.target.id === "sort") set({ sort: event.target.value });
    });
    at("hide").addEventListener("input", (event) => set({ hide: 10 ** Number(event.target.value) }, { push: false }));
    document.getElementById("sae").addEventListener("change", (event) => {
      js.setQuery({ ...js.query(), sae: js.saeInAddress(event.target.value) }, { push: true });
      Object.assign(state, { feature: null, view: state.view === "feature" ? "cost" : state.view });
      if (field.value.trim()) analyse({ push: false });
      else write(false);
    });

    function restore() {
      const before = data;
      state = read();
      field.value = state.text || (before && !js.query().text ? "" : state.text);
      if (!state.text) {
        data = null;
        js.forget("analyse");
        at("result").hidden = true;
        at("start").hidden = false;
        at("problem").replaceChildren();
        return;
      }
      if (before && before.of === state.text && before.sae === js.sae()) {
        draw();
        return;
      }
      analyse({ push: false });
    }

    addEventListener("popstate", () => {
      js.carrySae();
      restore();
    });
    js.title("Prompt");
    restore();
  };
})();
