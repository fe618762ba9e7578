/* The tables of the prompt page: features of the text, of one token, tokens of one feature.

   `page` is the state of prompt.js; buttons say what they choose by data-feature, data-token,
   data-close and data-unhide, and prompt.js listens. */

(() => {
  "use strict";

  const js = window.jumpscope;
  const { el, format } = js;
  const TOKENS = 12;

  /* Orders of [feature row, activation] pairs. */
  const ORDERS = {
    activation: (a, b) => b[1] - a[1],
    share: (a, b) => js.share(b[1], b[0]) - js.share(a[1], a[0]),
    frequency: (a, b) => a[0].frequency - b[0].frequency,
  };

  const button = (kind, attributes, words) =>
    el("button", { type: "button", class: kind, ...attributes }, words);

  const bar = (share) =>
    el(
      "span",
      { class: "mini", "aria-hidden": "true" },
      el("i", { style: `width:${Math.min(100, 100 * share).toFixed(1)}%` }),
    );

  const head = (words, kind) => el("th", { scope: "col", class: kind }, words);
  const cell = (kind, ...content) => el("td", { class: kind }, ...content);

  /* A table of features: how many pass the filter, and the markup of the first `most` of them. */
  function table(page, pairs, { caption, where, most = Infinity }) {
    const visible = pairs.filter(([row]) => page.shown(row)).sort(ORDERS[page.state.sort]);
    const indexed = !page.data.missing;
    const strongest = Math.max(...pairs.map(([, activation]) => activation));
    const rows = visible.slice(0, most).map(([row, activation]) =>
      line(row, activation, {
        where,
        indexed,
        // Without an index, beside the others.
        share: indexed ? js.share(activation, row) : activation / strongest,
        chosen: page.state.feature === row.feature,
      }),
    );
    const heads = [
      head("feature"),
      el("td"),
      head(where === "text" ? "peak" : "act", "n"),
      ...(indexed ? [head("of max", "n"), head("fires on", "n often")] : []),
    ];
    const node = el(
      "table",
      {},
      el("caption", { class: "vh" }, caption),
      el("thead", {}, el("tr", {}, ...heads)),
      el("tbody", {}, ...rows),
    );
    return { node, passing: visible.length, hidden: pairs.length - visible.length };
  }

  function line(row, activation, { where, indexed, share, chosen }) {
    const what = {
      "data-feature": row.feature,
      "data-where": where,
      "aria-pressed": String(chosen),
    };
    return el(
      "tr",
      { "aria-current": chosen ? "true" : null },
      cell("id", button("pick", what, `#${row.feature}`)),
      cell("words", el("span", { class: "signature-text" }, row.signature), bar(share)),
      cell("n", format.number(activation)),
      ...(indexed
        ? [cell("n", format.percent(share)), cell("n often", format.percent(row.frequency))]
        : []),
    );
  }

  function hiddenNote(page, count) {
    if (!count) return null;
    const features = count === 1 ? "feature" : "features";
    const limit = format.percent(page.state.hide);
    const words = `Hidden: ${count} ${features} firing on more than ${limit} of tokens. `;
    return el("p", { class: "quiet" }, words, button("plain", { "data-unhide": true }, "Show"));
  }

  /* All features of the text, the first `most` of them; and how many pass the filter. */
  js.promptFeatures = (page, most) => {
    const pairs = page.data.features.map((row) => [row, row.peak]);
    const { node, passing, hidden } = table(page, pairs, {
      caption: "Features on this text",
      where: "text",
      most,
    });
    const rest = passing - most;
    const words = `Show the other ${rest.toLocaleString("en-US")}`;
    const more = rest > 0 ? button("plain", { "data-all": true }, words) : null;
    return { passing, nodes: [node, more, hiddenNote(page, hidden)].filter(Boolean) };
  };

  const panel = (label, ...content) =>
    el("section", { class: "panel", "aria-label": label }, ...content);

  const title = (...content) => el("h2", { class: "in-panel" }, ...content);

  const close = (what) =>
    button("close", { "data-close": what, "aria-label": `Close this ${what}` }, "×");

  js.promptToken = (page, token) => {
    const name = el("b", { class: "mono" }, js.quoted(token.text));
    const heading = title(name, ` token ${token.i}`, close("token"));
    if (token.special) {
      const words = "A special token: the SAE leaves it alone.";
      return panel("Selected token", heading, el("p", { class: "quiet" }, words));
    }
    const losses = `loss ${js.promptLosses(token)} (${format.signed(token.delta)})`;
    const facts = [`${token.active} features`, ...(token.loss === null ? [] : [losses])];
    const { node, hidden } = table(page, page.byToken[token.i], {
      caption: "Features on the selected token",
      where: "token",
    });
    const reproduce = reproduceToken(page, token);
    const about = el("p", { class: "quiet" }, `${facts.join(" · ")} `, reproduce);
    return panel("Selected token", heading, about, node, hiddenNote(page, hidden));
  };

  js.promptFeature = (page, row) => {
    const { data } = page;
    const tokens = [...row.tokens].sort((a, b) => b[1] - a[1]);
    const rows = tokens.slice(0, TOKENS).map(([i, activation]) => {
      const share = js.share(activation, row);
      return el(
        "tr",
        {},
        cell("mono", button("pick", { "data-token": i }, js.quoted(data.tokens[i].text))),
        cell("wide", bar(share)),
        cell("n", format.number(activation)),
        data.missing ? null : cell("n", format.percent(share)),
      );
    });
    const often = data.missing ? "" : `${format.percent(row.frequency)} of tokens, on `;
    return panel(
      "Selected feature",
      title(el("b", { class: "id" }, `#${row.feature}`), ` ${row.signature}`, close("feature")),
      el("p", { class: "quiet" }, `fires on ${often}${tokens.length} of these`),
      el(
        "table",
        {},
        el("caption", { class: "vh" }, "Tokens of the selected feature"),
        el("tbody", {}, ...rows),
      ),
      links(row, data, reproduceFeature(data, row, tokens.slice(0, TOKENS))),
    );
  };

  /* What the card can be about; app/cards.py has the form of the questions. */

  const number = (data, words, asked) => {
    const read = data.messages ? { messages: data.messages } : { text: data.text };
    return { words, asked: { sae: data.sae, ...read, ...asked } };
  };

  js.promptNumbers = (data) =>
    [
      ["l0", "features per token (L0)"],
      ["fvu", "variance unexplained (FVU)"],
      ["ce_base", "cross-entropy as it is"],
      ["ce_spliced", "cross-entropy, spliced"],
      ["delta_lm_loss", "delta LM loss"],
      ["kl_mean", "KL divergence"],
    ].map(([quantity, words]) => number(data, words, { quantity }));

  function reproduceToken(page, { i, loss }) {
    const losses = [
      ["loss", "loss"],
      ["spliced_loss", "loss, spliced"],
      ["delta", "spliced loss minus loss"],
      ["kl", "KL divergence"],
    ].map(([quantity, words]) => number(page.data, words, { quantity, token: i }));
    const activations = [...page.byToken[i]]
      .sort(ORDERS.activation)
      .map(([row]) =>
        number(page.data, `activation of #${row.feature} ${row.signature}`, {
          quantity: "activation",
          token: i,
          feature: row.feature,
        }),
      );
    const choices = () => [...(loss === null ? [] : losses), ...activations];
    return choices().length ? js.reproduceButton(choices, "numbers of this token") : "";
  }

  function reproduceFeature(data, { feature }, tokens) {
    const choices = () =>
      tokens.map(([token]) =>
        number(data, `activation on ${js.quoted(data.tokens[token].text)}, token ${token}`, {
          quantity: "activation",
          token,
          feature,
        }),
      );
    return js.reproduceButton(choices, "activations of this feature");
  }

  function links({ feature, max_act: largest, peak }, data, reproduce) {
    const sae = js.saeInAddress(js.sae());
    // As strong as it ever was in the index, or as it is here.
    const much = largest === null ? { value: Number(peak.toPrecision(3)) } : { strength: 1 };
    const edits = JSON.stringify([{ feature, mode: "set", ...much, positions: "all" }]);
    // A long text would make a link that no browser opens.
    const short = (text) => (text.length < 2000 ? text : "");
    const read = data.messages
      ? { messages: short(JSON.stringify(data.messages)) }
      : { prompt: short(data.text) };
    return el(
      "p",
      { class: "links" },
      el("a", { href: js.address("features", { sae, feature }) }, "Open its page"),
      el("a", { href: js.address("steer", { sae, ...read, edits }) }, "Steer with it"),
      reproduce,
    );
  }
})();
