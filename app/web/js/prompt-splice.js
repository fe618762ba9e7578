// @ts-check
/* The splice switch of the prompt page: each SAE off, spliced, or edited with its error kept, and what
   that costs, alone and together. The states stand in the address as a list, an SAE each. */

import { el, shows } from "./dom.js";
import { busy, problem, saeLabel, saes } from "./frame.js";
import { fixed, signed } from "./numbers.js";
import { term } from "./prompt-compare-parts.js";
import { ServerError, call } from "./server.js";

/** @typedef {{delta: number | null, kl: number | null}} Cost */
/** @typedef {Cost & {loss: number | null}} Numbers */
/**
 * @typedef {{none: Numbers, each: (Numbers & {sae: string})[], all: Numbers, beyond: Cost,
 *   tokens: number, definitions: Record<string, string>}} Costs
 */
/** @typedef {"off" | "spliced" | "edited"} State */
/** @typedef {{sae: string, state: State, features: number[], mode: string, amount: number | null}} Switch
 * features, mode and amount are of the edits */

/** @type {[State, string][]} */
const STATES = [
  ["off", "Off"],
  ["spliced", "Spliced"],
  ["edited", "Edited, error kept"],
];
/** @type {[string, string][]} */
const MODES = [
  ["ablate", "switch off"],
  ["set", "set to"],
  ["add", "add"],
  ["scale", "scale by"],
  ["cap", "cap at"],
];

/** @param {Switch} given */
const editsOf = ({ sae, features, mode, amount }) =>
  features.map((feature) => ({
    sae,
    feature,
    mode,
    ...(mode === "ablate" || amount === null ? {} : { strength: amount }),
  }));

/** The states as they stand in an address. @param {Switch[]} switches */
export const written = (switches) =>
  JSON.stringify(
    switches.map(({ sae, state, features, mode, amount }) =>
      state === "edited" ? [sae, state, features, mode, amount] : [sae, state],
    ),
  );

/**
 * @param {HTMLElement} box where it is drawn
 * @param {import("./prompt-compare.js").Address} place
 */
export function spliceSwitch(box, place) {
  /** @type {Record<string, unknown> | null} */
  let text = null;
  /** @type {AbortController | null} */
  let asking = null;
  let asked = ""; // what the numbers are of, or will be
  /** @type {Switch[]} */
  let switches = [];
  const [list, wrong] = [el("div", { class: "switches" }), el("div")];
  const table = el("div", { "aria-live": "polite" });
  box.replaceChildren(
    el(
      "p",
      { class: "quiet" },
      "What SAEs cost on this text, each alone and all that are on together. Edited ones change the " +
        "features named and keep the SAE’s error.",
    ),
    list,
    wrong,
    table,
  );

  function changed() {
    place.set({ switch: written(switches) });
    measure();
  }

  /** Measure this text, in the states that there are. @param {Record<string, unknown>} given */
  function show(given) {
    text = given;
    const words = place.get("switch");
    if (!words || words !== written(switches)) {
      switches = switchesOf(
        words,
        saes().map(([name]) => name),
      );
      list.replaceChildren(...switches.map((each) => rowOf(each, changed)));
      place.set({ switch: written(switches) });
    }
    measure();
  }

  async function measure() {
    if (!text) return;
    wrong.replaceChildren();
    // An edit without a feature is still being typed.
    const on = switches.filter(({ state, features }) => state !== "edited" || features.length);
    const states = on.map(({ sae, state }) => ({ sae, state }));
    const edits = on.flatMap((each) => (each.state === "edited" ? editsOf(each) : []));
    const question = { ...text, states, edits: edits.length ? edits : null };
    const key = JSON.stringify(question);
    if (key === asked) return;
    asked = key;
    asking?.abort();
    const mine = (asking = new AbortController());
    table.setAttribute("aria-busy", "true");
    try {
      const answer = await busy(call("splice", question, { signal: mine.signal }));
      if (asking !== mine) return;
      table.replaceChildren(costTable(answer));
      shows(table, "splice", question, answer);
    } catch (error) {
      if (mine.signal.aborted) return;
      if (!(error instanceof ServerError)) throw error;
      asked = "";
      table.replaceChildren();
      wrong.replaceChildren(problem(error.message));
    }
    table.removeAttribute("aria-busy");
  }

  return { show };
}

/**
 * The switches of an address, one for each SAE: spliced where it says nothing that can be used.
 * @param {string} words such as [["first","off"],["second","edited",[12],"scale",2]]
 * @param {string[]} names
 * @returns {Switch[]}
 */
export function switchesOf(words, names) {
  /** @type {unknown} */
  let given = null;
  try {
    given = JSON.parse(words || "[]");
  } catch {
    // A link that was cut off: as if it said nothing.
  }
  const entries = Array.isArray(given) ? given.filter(Array.isArray) : [];
  return names.map((sae) => {
    const [, state, features, mode, amount] = entries.find(([name]) => name === sae) ?? [];
    return {
      sae,
      state: STATES.some(([value]) => value === state) ? state : "spliced",
      features: Array.isArray(features) ? features.filter(Number.isInteger) : [],
      mode: MODES.some(([value]) => value === mode) ? mode : "ablate",
      amount: typeof amount === "number" ? amount : 1,
    };
  });
}

/** The controls of one SAE. @param {Switch} own @param {() => void} changed */
function rowOf(own, changed) {
  const edits = editFields(own, changed);
  edits.node.hidden = own.state !== "edited";
  const states = STATES.map(([value, words]) => {
    const name = `switch-${own.sae}`;
    const radio = el("input", { type: "radio", name, value, autocomplete: "off" });
    radio.checked = own.state === value;
    radio.addEventListener("change", () => {
      own.state = value;
      edits.node.hidden = value !== "edited";
      if (value === "edited" && !own.features.length) edits.features.focus();
      changed();
    });
    return el("label", {}, radio, el("span", {}, words));
  });
  return el(
    "fieldset",
    {},
    el("legend", {}, saeLabel(own.sae)),
    el("div", { class: "segments" }, states),
    edits.node,
  );
}

/** What is done to which features. @param {Switch} own @param {() => void} changed */
function editFields(own, changed) {
  const features = el("input", { inputmode: "numeric", size: 12, placeholder: "12, 40" });
  const mode = el("select", {}, MODES.map(([value, words]) => el("option", { value }, words)));
  const amount = el("input", { type: "number", step: "any", value: own.amount ?? "" });
  const unit = el("span", { class: "quiet" });
  const much = el("label", {}, el("span", { class: "vh" }, "How much"), amount, " ", unit);
  features.value = own.features.join(", ");
  mode.value = own.mode;
  const take = () => {
    own.features = [...new Set(features.value.match(/\d+/g) ?? [])].map(Number);
    own.mode = mode.value;
    own.amount = amount.value === "" ? null : Number(amount.value);
    much.hidden = own.mode === "ablate";
    unit.textContent = own.mode === "scale" ? "times" : "× max";
  };
  take();
  for (const control of [features, mode, amount]) {
    control.addEventListener("change", () => {
      take();
      changed();
    });
  }
  const node = el(
    "div",
    { class: "switch-edits" },
    el("label", {}, "features ", features),
    el("label", {}, el("span", { class: "vh" }, "What is done"), mode),
    much,
  );
  return { node, features };
}

/** @param {Costs} costs */
function costTable({ none, each, all, beyond, tokens, definitions: of }) {
  /** @param {string} words @param {Partial<Numbers>} numbers */
  const row = (words, { loss, delta, kl }) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, words),
      el("td", { class: "n" }, loss === undefined ? "" : fixed(loss, 3)),
      el("td", { class: "n" }, signed(delta, 3)),
      el("td", { class: "n" }, fixed(kl, 3)),
    );
  const heads = /** @type {[string, string][]} */ ([
    ["loss", of.loss],
    ["delta", of.delta],
    ["KL", of.kl],
  ]);
  const several = each.length > 1;
  return el(
    "table",
    {},
    el("caption", { class: "quiet" }, `Nats per token, over ${fixed(tokens, 0)} predictions`),
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        el("th", { scope: "col" }, "on"),
        heads.map(([words, definition]) =>
          el("th", { scope: "col", class: "n" }, term(words, definition)),
        ),
      ),
    ),
    el(
      "tbody",
      {},
      row("none", none),
      each.map((cost) => row(several ? `${saeLabel(cost.sae)} alone` : saeLabel(cost.sae), cost)),
      several && row("all of these", all),
      several && beyondRow(row("beyond the sum of each", beyond), of.beyond),
    ),
  );
}

/** @param {HTMLElement} node @param {string} definition */
function beyondRow(node, definition) {
  const name = node.querySelector("th");
  name?.replaceChildren(term(name.textContent ?? "", definition));
  return node;
}
