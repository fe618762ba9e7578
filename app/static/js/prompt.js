/* The prompt page: one answer of the server holds everything; choosing, sorting, hiding and
   colouring happen here, and stand in the address. */

(() => {
  "use strict";

  const js = window.jumpscope;
  const { el, format } = js;
  const FEW = 40;
  const VIEWS = ["cost", "active", "feature"];
  const SORTS = ["activation", "share", "frequency"];
  const at = (id) => document.getElementById(id);

  js.pages.prompt = (main) => {
    const form = at("prompt-form");
    const field = at("prompt-text");
    const given = js.given(main, { field, changed: () => {} });
    let spans = [];
    let most = FEW; // rows of the long table
    const page = {
      state: read(),
      data: null, // the analysis
      byToken: [], // token -> [[feature row, activation], ...]
      byId: new Map(), // feature -> row
      shown: (row) => page.state.hide >= 1 || row.frequency <= page.state.hide,
    };

    /* State and address */

    function read() {
      const q = js.query();
      const whole = (text) => (/^\d+$/.test(text ?? "") ? Number(text) : null);
      const hide = Number(q.hide);
      return {
        text: q.text ?? "",
        messages: js.listInAddress("messages", js.messagesProblem).value ?? null,
        view: VIEWS.includes(q.view) ? q.view : "cost",
        token: whole(q.token),
        feature: whole(q.feature),
        sort: SORTS.includes(q.sort) ? q.sort : "activation",
        hide: hide > 0 && hide < 1 ? hide : 1,
      };
    }

    /* All that the model reads, to compare. */
    const reading = ({ text, messages }) => (messages ? JSON.stringify(messages) : text);

    function write(push) {
      const { text, messages, view, token, feature, sort, hide } = page.state;
      const values = {
        sae: js.saeInAddress(js.sae()),
        text,
        messages: messages && JSON.stringify(messages),
        view: view === "cost" ? "" : view,
        token,
        feature,
        sort: sort === "activation" ? "" : sort,
        hide: hide < 1 ? String(Number(hide.toPrecision(3))) : "",
      };
      js.setQuery(values, { push });
    }

    /* Change something that the address remembers, and redraw what depends on it. */
    function set(changes, { push = true } = {}) {
      Object.assign(page.state, changes);
      write(push);
      draw();
    }

    /* The view to go back to when no feature is chosen any more. */
    const withoutFeature = () => ({
      feature: null,
      view: page.state.view === "feature" ? "cost" : page.state.view,
    });

    /* The analysis */

    function analyse({ push }) {
      const messages = given.messages();
      const text = messages ? "" : field.value;
      Object.assign(page.state, { text, messages });
      write(push);
      at("problem").replaceChildren();
      js.ask("analyse", { text, messages, sae: js.sae() }, (answer) => {
        if (answer.error) refuse(answer.error);
        else take(answer.analysis);
      });
    }

    function refuse(sentence) {
      page.data = null;
      at("result").hidden = true;
      at("start").hidden = false;
      at("problem").replaceChildren(...(sentence ? [js.problem(sentence)] : []));
      js.title("Prompt");
    }

    function take(analysis) {
      const { state } = page;
      page.data = { ...analysis, of: reading(state) };
      page.byId = new Map(analysis.features.map((row) => [row.feature, row]));
      page.byToken = analysis.tokens.map(() => []);
      for (const row of analysis.features) {
        for (const [i, activation] of row.tokens) page.byToken[i].push([row, activation]);
      }
      if (state.token >= analysis.tokens.length) state.token = null;
      // How often features fire, and their largest activations, only an index knows.
      if (analysis.missing) Object.assign(state, { sort: "activation", hide: 1 });
      if (!page.byId.has(state.feature)) Object.assign(state, withoutFeature());
      most = FEW;
      drawTotals();
      at("missing").replaceChildren(...(analysis.missing ? [js.missing(analysis.missing)] : []));
      spans = analysis.tokens.map(tokenSpan);
      at("tokens").replaceChildren(...spans);
      at("start").hidden = true;
      at("result").hidden = false;
      const said = state.messages?.at(-1).content ?? state.text;
      js.title(`Prompt: ${said.trim().slice(0, 40)}`);
      draw();
    }

    /* Drawing */

    function drawTotals() {
      const { totals, definitions } = page.data;
      const losses = `${format.fixed(totals.ce_base, 2)} to ${format.fixed(totals.ce_spliced, 2)}`;
      const stats = [
        ["tokens", "tokens", totals.tokens.toLocaleString("en-US")],
        ["l0", "features per token (L0)", format.number(totals.l0)],
        ["fvu", "variance unexplained (FVU)", format.fixed(totals.fvu, 3)],
        ["delta_lm_loss", `delta LM loss (${losses})`, format.signed(totals.delta_lm_loss)],
        ["kl", "KL divergence, nats per token", format.fixed(totals.kl, 3)],
      ];
      const nodes = stats.map(([key, name, value]) => {
        const definition = definitions[key] ?? "";
        const explained = { "data-tip": definition, "aria-description": definition };
        const word = el("button", { type: "button", class: "term", ...explained }, name);
        return el("div", { class: "stat" }, el("dt", {}, word), el("dd", {}, value));
      });
      at("totals").replaceChildren(...nodes);
      const choices = () => js.promptNumbers(page.data);
      at("reproduce-totals").replaceChildren(js.reproduceButton(choices, "numbers of this text"));
    }

    function tokenSpan(token) {
      const kind = token.special ? "special" : null;
      const attributes = { role: "button", tabindex: "-1", "data-i": token.i, class: kind };
      return js.tokenText(el("span", attributes), token.text);
    }

    function draw() {
      if (!page.data) return;
      drawControls();
      drawColours();
      drawSelection();
      drawFeatures();
    }

    function drawControls() {
      const { view, sort, hide } = page.state;
      for (const radio of main.querySelectorAll("[name=view]"))
        radio.checked = radio.value === view;
      at("sort").value = sort;
      for (const node of main.querySelectorAll(".filters label")) node.hidden = page.data.missing;
      at("hide").value = String(Math.log10(hide));
      const words = hide >= 1 ? "none" : `over ${format.percent(hide)} of tokens`;
      at("hide").setAttribute("aria-valuetext", words);
      at("hide-value").textContent = words;
    }

    function drawColours() {
      const { values, kind, words, legend } = js.promptColours(page);
      const { tokens } = page.data;
      const { token: chosen } = page.state;
      const stop = chosen ?? tokens.findIndex((token) => !token.special);
      at("tokens").dataset.kind = kind;
      spans.forEach((span, i) => {
        const value = values[i] ?? 0;
        span.style.setProperty("--a", Math.min(1, Math.abs(value)).toFixed(3));
        span.classList.toggle("better", value < 0);
        span.dataset.v = words(tokens[i]);
        span.tabIndex = i === stop ? 0 : -1;
        span.setAttribute("aria-pressed", String(i === chosen));
      });
      at("legend").replaceChildren(...legend);
    }

    function drawSelection() {
      const { feature, token } = page.state;
      const panels = [];
      if (feature !== null) panels.push(js.promptFeature(page, page.byId.get(feature)));
      if (token !== null) panels.push(js.promptToken(page, page.data.tokens[token]));
      if (!panels.length) {
        const hint = "Choose a token to see its features, or a feature to see its tokens.";
        panels.push(el("p", { class: "panel quiet" }, hint));
      }
      at("selection").replaceChildren(...panels);
    }

    function drawFeatures() {
      const { passing, nodes } = js.promptFeatures(page, most);
      const count = passing.toLocaleString("en-US");
      at("features-title").textContent = `Features on this text (${count})`;
      at("text-features").replaceChildren(...nodes);
    }

    /* What people do */

    const chooseToken = (i) => set({ token: page.state.token === i ? null : i });

    function chooseFeature(button) {
      const feature = Number(button.dataset.feature);
      set(page.state.feature === feature ? withoutFeature() : { feature, view: "feature" });
      // The tables have been drawn anew: the focus goes back to where it was.
      const same = `[data-feature="${feature}"][data-where="${button.dataset.where}"]`;
      main.querySelector(same)?.focus({ preventScroll: true });
    }

    const CLICKS = {
      "[data-example]": (node) => {
        given.set(null, node.dataset.example);
        form.requestSubmit();
      },
      "#tokens [data-i]": (node) => chooseToken(Number(node.dataset.i)),
      "[data-feature]": chooseFeature,
      "[data-token]": (node) => set({ token: Number(node.dataset.token) }),
      "[data-close=token]": () => set({ token: null }),
      "[data-close=feature]": () => set(withoutFeature()),
      "[data-unhide]": () => set({ hide: 1 }, { push: false }),
      "[data-all]": () => {
        most = Infinity;
        drawFeatures();
      },
    };
    main.addEventListener("click", (event) => {
      for (const [selector, act] of Object.entries(CLICKS)) {
        const node = event.target.closest(selector);
        if (node) act(node);
      }
    });

    form.addEventListener("submit", (event) => {
      event.preventDefault();
      Object.assign(page.state, withoutFeature(), { token: null });
      analyse({ push: true });
    });
    at("prompt-fields").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });

    at("tokens").addEventListener("keydown", (event) => {
      const i = spans.indexOf(event.target);
      if (i < 0) return;
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        chooseToken(i);
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
    at("hide").addEventListener("input", (event) => {
      set({ hide: 10 ** Number(event.target.value) }, { push: false });
    });
    at("sae").addEventListener("change", (event) => {
      Object.assign(page.state, withoutFeature());
      js.setQuery({ ...js.query(), sae: js.saeInAddress(event.target.value) }, { push: true });
      if (given.isChat() || field.value.trim()) analyse({ push: false });
      else write(false);
    });

    /* Make the page what the address says. */
    function restore() {
      js.carrySae();
      page.state = read();
      given.set(page.state.messages, page.state.text);
      if (!reading(page.state)) {
        js.forget("analyse");
        refuse(js.listInAddress("messages", js.messagesProblem).problem ?? "");
      } else if (page.data?.of === reading(page.state) && page.data.sae === js.sae()) {
        draw();
      } else {
        analyse({ push: false });
      }
    }

    addEventListener("popstate", restore);
    restore();
    js.ask("chat", {}, ({ chat }) => chat && given.offer(chat), { quiet: true });
  };
})();
