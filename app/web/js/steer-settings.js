// @ts-check
/* The settings of a steering run as they stand in an address, in JSON and in words. Nothing here
   touches the page. */

/**
 * @typedef {{condition_feature?: number | string, condition_above?: number, condition_sae?: string,
 *   fade?: number}} Restriction
 * @typedef {{feature?: number | string, mode?: string, strength?: number | null, value?: number | null,
 *   positions?: string | (number | string)[], sae?: string} & Restriction} Edit
 * @typedef {import("./given.js").Message} Message
 * @typedef {{sae?: string, prompt?: string, messages?: Message[], edits?: Edit[],
 *   max_new_tokens?: number | null, temperature?: number | null, seed?: number | null}} Settings
 * @typedef {Settings & {title?: string}} Idea
 */

/** @type {Record<string, string>} */
export const MODES = {
  set: "set to",
  scale: "scale by",
  add: "add",
  cap: "cap at",
  ablate: "switch off",
};
export const PLACES = ["continuation", "all", "prompt", "generated"];
/** Where an edit applies that does not say. */
export const USUAL_PLACE = PLACES[0];

/**
 * Why a value cannot be a list of edits, as the end of a sentence; "" if it can. Numbers are the
 * server's to judge.
 * @param {any} edits
 * @returns {string}
 */
export function editProblem(edits) {
  if (!Array.isArray(edits)) return "they are no list";
  for (const [i, edit] of edits.entries()) {
    const name = `edit ${i + 1}`;
    if (edit === null || typeof edit !== "object" || Array.isArray(edit)) return `${name} names no feature`;
    const { mode = "set", positions = USUAL_PLACE } = edit;
    if (!Object.hasOwn(MODES, mode))
      {return `${name} is to “${String(mode)}”, which is none of ${Object.keys(MODES).join(", ")}`;}
    if (!Array.isArray(positions) && !PLACES.includes(positions))
      {return `${name} is on “${String(positions)}”, which is none of ${PLACES.join(", ")}, and no list of token numbers`;}
  }
  return "";
}

/** Token numbers as written, from 0; what is no number stays as it is. @param {string} text */
export function positionsOf(text) {
  const parts = text.split(/[\s,]+/).filter(Boolean);
  return parts.map((part) => (/^\d+$/.test(part) ? Number(part) : part));
}

/** The number of a feature in a field, null if it holds words. @param {string} text */
export function featureNumber(text) {
  const match = /^\s*#?\s*(\d+)\s*$/.exec(text);
  return match ? Number(match[1]) : null;
}

/** The condition and the fading of an edit, where it has them. @param {Edit} edit @returns {Restriction} */
export function restrictionOf({ condition_feature, condition_above, condition_sae, fade }) {
  const all = Object.entries({ condition_feature, condition_above, condition_sae, fade });
  return Object.fromEntries(all.filter(([, value]) => value !== undefined && value !== null && value !== ""));
}

/** The same in words. @param {Restriction} restriction */
export function restriction({ condition_feature: feature, condition_above: above, fade }) {
  const words = [];
  if (feature !== undefined) words.push(`only where #${feature} fires${above ? ` above ${above}` : ""}`);
  if (fade !== undefined) words.push(`fading over ${fade} new token${fade === 1 ? "" : "s"}`);
  return words.join(", ");
}

/** What an edit does, in words. @param {Edit} edit */
export function wish({ feature, mode = "set", strength = 1, value }) {
  const much = value ?? `${strength} × its largest`;
  /** @type {Record<string, string>} */
  const words = {
    set: `#${feature} set to ${much}`,
    scale: `#${feature} scaled by ${value ?? strength}`,
    add: `${much} added to #${feature}`,
    cap: `#${feature} capped at ${much}`,
    ablate: `#${feature} switched off`,
  };
  return words[mode];
}


/**
 * @template {object} T
 * @param {T} object
 * @returns {[keyof T, T[keyof T]][]}
 */
const entries = (object) => /** @type {any} */ (Object.entries(object));

/** Numbers of the form by name, and how an address calls them. */
export const NUMBERS = /** @type {const} */ ({
  max_new_tokens: "tokens",
  temperature: "temperature",
  seed: "seed",
});

/**
 * What an address says of a run; what is as usual is left out.
 * @param {Settings} settings
 * @param {Settings} usual
 * @returns {Record<string, string>}
 */
export function queryOf(settings, usual) {
  /** @type {Record<string, string>} */
  const query = {
    prompt: settings.prompt ?? "",
    messages: settings.messages ? JSON.stringify(settings.messages) : "",
    edits: settings.edits?.length ? JSON.stringify(settings.edits) : "",
  };
  for (const [name, written] of entries(NUMBERS)) {
    const value = settings[name];
    query[written] = value === usual[name] || value === null ? "" : String(value);
  }
  return query;
}

/**
 * The numbers that an address gives.
 * @param {Record<string, string>} query
 * @returns {Settings}
 */
export function numbersOf(query) {
  /** @type {Settings} */
  const settings = {};
  for (const [name, written] of entries(NUMBERS)) {
    if (query[written] !== undefined) settings[name] = Number(query[written]);
  }
  return settings;
}

const TITLES = { max_new_tokens: "New tokens", temperature: "Temperature", seed: "Seed" };

/**
 * The settings of an address, with the sentence about what in it cannot be read.
 * @param {Record<string, string>} query
 * @param {{value?: any, problem?: string}} messages
 * @param {{value?: any, problem?: string}} edits
 * @returns {Settings & {problem?: string}}
 */
export function addressSettings(query, messages, edits) {
  const wrong = entries(NUMBERS).find(([, written]) => Number.isNaN(Number(query[written] ?? 0)));
  const number = wrong && `${TITLES[wrong[0]]} in this link must be a number, not “${query[wrong[1]]}”.`;
  return {
    ...numbersOf(query),
    prompt: query.prompt,
    messages: messages.value,
    edits: edits.value ?? [],
    problem: messages.problem ?? edits.problem ?? number,
  };
}

/**
 * Settings written by hand: {settings}, or {problem}, the end of a sentence.
 * @param {string} text
 * @param {(messages: any) => string} messagesProblem
 * @returns {{settings?: Settings, problem?: string}}
 */
export function settingsOf(text, messagesProblem) {
  let settings;
  try {
    settings = JSON.parse(text);
  } catch {
    return { problem: "they are not JSON" };
  }
  if (settings === null || typeof settings !== "object" || Array.isArray(settings))
    {return { problem: "they hold neither a prompt nor edits" };}
  const why = settings.messages ? messagesProblem(settings.messages) : "";
  const wrong = editProblem(settings.edits ?? []);
  if (why) return { problem: `in the conversation, ${why}` };
  return wrong ? { problem: `of the edits, ${wrong}` } : { settings };
}

/** What a button says of settings to try: their name, the text that they give, their edits.
 * @param {Idea} idea @param {boolean} inChat a prompt is not shown where the conversation that is there stays */
export function ideaWords(idea, inChat) {
  const given = idea.messages?.at(-1)?.content ?? (inChat ? "" : `${idea.prompt}…`);
  const edits = (idea.edits ?? []).map(wish).join("; ");
  return { title: idea.title ?? (given || edits), given, edits };
}

/** An idea as it is tried: in a conversation, its edits on that.
 * @param {Idea} idea @param {Message[] | null} messages the conversation that is there @returns {Idea} */
export const tried = (idea, messages) =>
  messages && !idea.messages ? { ...idea, prompt: undefined, messages } : idea;
