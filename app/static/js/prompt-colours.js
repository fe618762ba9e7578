/* What the tokens of the prompt page are coloured by.

   A view gives each token a value from -1 to 1 (or null), the words that say it, and a legend.
   `page` is the state of prompt.js. */

(() => {
  "use strict";

  const js = window.jumpscope;
  const { el, format } = js;
  const SPECIAL = "special token, left alone";

  js.promptColours = (page) => {
    const { state } = page;
    if (state.view === "feature" && state.feature !== null) return byFeature(page);
    if (state.view === "cost") return byCost(page);
    return byCount(page);
  };

  function byFeature({ data, byId, state }) {
    const row = byId.get(state.feature);
    const acts = data.tokens.map(() => 0);
    for (const [i, activation] of row.tokens) acts[i] = activation;
    const own = row.max_act === null;
    const largest = `${own ? " here" : ""}, ${format.number(own ? row.peak : row.max_act)}`;
    return {
      kind: "act",
      values: acts.map((value) => (value ? js.share(value, row) : 0)),
      words: (token) => (token.special ? SPECIAL : format.number(acts[token.i])),
      legend: [`activation of #${row.feature}; full colour is its largest${largest}`],
    };
  }

  function byCount({ byToken, state, shown }) {
    const counts = byToken.map((pairs) => pairs.filter(([row]) => shown(row)).length);
    const most = Math.max(1, ...counts);
    // The view of one feature, before one is chosen.
    const hint = state.view === "feature" ? "Choose a feature from a table. Until then: " : "";
    const filtered = state.hide < 1 ? ", frequent ones left out" : "";
    return {
      kind: "act",
      values: counts.map((count) => count / most),
      words: (token) => (token.special ? SPECIAL : `${counts[token.i]} features`),
      legend: [`${hint}features active on each token${filtered}; at most ${most}`],
    };
  }

  function byCost({ data }) {
    const largest = Math.max(...data.tokens.map((token) => Math.abs(token.delta ?? 0)));
    // A nat or two is a strong effect; a text without any is not painted as if it had one.
    const full = Math.max(0.5, Math.min(largest, 2));
    return {
      kind: "cost",
      values: data.tokens.map((token) => (token.delta === null ? null : token.delta / full)),
      words: (token) =>
        token.delta === null
          ? "first token, nothing predicts it"
          : `${format.signed(token.delta)} nats (${js.promptLosses(token)})`,
      legend: [
        el("span", { class: "key worse" }, "red"),
        ": the splice makes this token harder to predict; ",
        el("span", { class: "key better" }, "blue"),
        ": easier",
      ],
    };
  }

  js.promptLosses = ({ loss, spliced_loss: spliced }) =>
    `${format.fixed(loss, 2)} → ${format.fixed(spliced, 2)}`;

  /* An activation as a share of the feature's largest in the index; 1 where it never fired there.
     Without an index, of its largest on this text. */
  js.share = (activation, { max_act: largest, peak }) => {
    if (largest === null) return activation / peak;
    return largest > 0 ? activation / largest : 1;
  };
})();
