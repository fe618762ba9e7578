// @ts-check
/* The steering page: settings in the address, two continuations that grow side by side. */

import { copy, el, later } from "./dom.js";
import { editList } from "./edits.js";
import { onState, placeWords, problem, query, sae, saeInAddress, setQuery, start, title } from "./frame.js";
import { given as givenFields, clearProblems, listInAddress, markProblem, messagesProblem } from "./given.js";
import { number } from "./numbers.js";
import { ServerError, call } from "./server.js";
import { NUMBERS, addressSettings, editProblem, ideaWords, queryOf, settingsOf, tried } from "./steer-settings.js";

/**
 * @typedef {import("./steer-settings.js").Settings} Settings
 * @typedef {import("./steer-settings.js").Idea} Idea
 * @typedef {{settings: () => Settings, edits: ReturnType<typeof editList>,
 *   complain: (refusal: {message: string, field: string}) => void,
 *   keep: (values: Record<string, string>) => void}} SteeringPage
 * @typedef {{open: (edit: number, address?: Record<string, string>) => unknown, close: () => void,
 *   changed: () => void}} Part
 */

/** @param {string} id */
const at = (id) => /** @type {HTMLElement} */ (document.getElementById(id));
/** @param {string} id */
const inputAt = (id) => /** @type {HTMLInputElement} */ (document.getElementById(id));
/** @param {string} id */
const buttonAt = (id) => /** @type {HTMLButtonElement} */ (document.getElementById(id));

const main = at("content");
const prompt = /** @type {HTMLTextAreaElement} */ (at("steer-prompt"));
const json = /** @type {HTMLTextAreaElement} */ (at("json-text"));
const usualPrompt = main.dataset.prompt ?? "";
const names = /** @type {(keyof typeof NUMBERS)[]} */ (Object.keys(NUMBERS));
const numbers = Object.fromEntries(names.map((name) => [name, inputAt(`steer-${name}`)]));
/** @type {Settings} */
const usual = Object.fromEntries(names.map((name) => [name, Number(numbers[name].value)]));

const edits = editList(at("edits"), {
  most: Number(main.dataset.mostEdits),
  add: buttonAt("add-edit"),
  changed,
  find: (edit) => openPart("ladder", edit),
  promptTokens,
});
const given = givenFields(main, {
  field: prompt,
  changed: () => {
    changed();
    edits.promptChanged();
    drawIdeas();
  },
  usual: { prompt: usualPrompt, question: main.dataset.question },
});
/** The two texts; what draws them is fetched at the first run.
 * @type {ReturnType<typeof import("./steer-run.js").runView> | null} */
let view = null;
/* Parts of this page that are fetched when they are asked for; values of the address that begin with
   a part's name are its own. */
/** @type {Record<string, () => Promise<{view: (page: SteeringPage) => Part}>>} */
const PARTS = { ladder: () => import("./steer-ladder.js"), proof: () => import("./steer-proof.js") };
/** @type {Record<string, Part>} */
const parts = {};
/** What they keep in the address. @type {Record<string, Record<string, string>>} */
const kept = {};
let turnEnd = ""; // the token that ends a turn of the model
/** The settings of the run on the page. @type {Settings | null} */
let ran = null;
/** @type {AbortController | null} */
let running = null;
let started = 0;
let restored = 0; // how often the page was made what its address says
const ideas = [.../** @type {NodeListOf<HTMLElement>} */ (main.querySelectorAll("[data-idea]"))];

/* Settings: the form, the address and the JSON say the same. */

/** @returns {Settings} */
function settings() {
  const values = names.map((name) => [name, numbers[name].value === "" ? null : Number(numbers[name].value)]);
  const messages = given.messages();
  const text = messages ? { messages } : { prompt: given.text() };
  return { sae: sae(), ...text, edits: edits.get(), ...Object.fromEntries(values) };
}

/** @param {Settings} wanted */
function fill(wanted) {
  given.set(wanted.messages, wanted.prompt ?? "");
  for (const name of names) numbers[name].value = String(wanted[name] ?? usual[name]);
  edits.set(wanted.edits ?? []);
  json.value = JSON.stringify(settings(), null, 2);
}

/** @param {boolean} push */
function write(push) {
  const own = Object.assign({}, ...Object.values(kept));
  setQuery({ sae: saeInAddress(sae()), ...queryOf(settings(), usual), ...own }, { push });
}

function changed() {
  write(false);
  json.value = JSON.stringify(settings(), null, 2);
  drawStale();
  for (const part of Object.values(parts)) part.changed();
}

/** What the address says; `problem` if its edits, conversation or a number cannot be read. */
const read = () =>
  addressSettings(
    query(),
    listInAddress("messages", "conversation", messagesProblem),
    listInAddress("edits", "edits", editProblem),
  );

/** The tokens of what stands in the prompt's fields. */
async function promptTokens() {
  const messages = given.messages();
  const answer = await call("tokens", messages ? { messages } : { text: given.text() });
  return answer.tokens;
}

/* Running */

/** @param {{push: boolean}} how */
async function generate({ push }) {
  if (running) return;
  write(push);
  complain();
  const asked = settings();
  running = new AbortController();
  const { signal } = running;
  started = performance.now();
  waiting(true);
  status("Generating…");
  let moved = false;
  let begun = false;
  /** @param {any} answer */
  function show(answer) {
    if (!begun) {
      // What stood there stays until the first token of the new run.
      begun = true;
      ran = asked;
      view?.begin();
      at("ideas").hidden = true;
    }
    view?.show(answer);
    drawStale();
    if (!answer.done) status(`Generating… ${view?.length()} tokens`);
    // On a narrow screen the texts stand below the form.
    if (push && !moved && at("run").getBoundingClientRect().top > innerHeight * 0.7) at("run").scrollIntoView();
    moved = true;
  }
  try {
    await fetchView();
    const last = await call("steer", /** @type {Record<string, unknown>} */ (asked), {
      signal,
      onProgress: show,
      onQueue: (place) => status(placeWords(place)),
      onStart: () => status("Generating…"),
    });
    show(last);
    status(last.note || `Done: ${words()}.`);
  } catch (error) {
    if (running?.signal !== signal) return; // another page of the history took its place
    if (signal.aborted) status(begun ? `Stopped: ${words()}.` : "Stopped.");
    else {
      status("");
      complain(/** @type {ServerError} */ (error));
    }
  } finally {
    if (running?.signal === signal) {
      running = null;
      waiting(false);
      view?.finish();
    }
  }
}

async function fetchView() {
  if (view) return;
  const { runView } = await import("./steer-run.js").catch(() => {
    throw new ServerError("A part of this page could not be fetched: try again.");
  });
  view = runView({ carryOn });
  view.endsWith(turnEnd);
}

/** @param {string} name @param {number} edit @param {Record<string, string>} [address] */
async function openPart(name, edit, address) {
  const fetched = await PARTS[name]().catch(() => null);
  if (!fetched) return complain(new ServerError("A part of this page could not be fetched: try again."));
  parts[name] ??= fetched.view({
    settings,
    edits,
    complain,
    keep(values) {
      kept[name] = values;
      write(false);
    },
  });
  at("ideas").hidden = true;
  return parts[name].open(edit, address);
}

function hideRun() {
  view?.hide();
  at("run").hidden = true;
  // A strength that was taken from the ladder can be proven without a run.
  at("proving").hidden = !at("proving").dataset.taken;
}

/** @param {boolean} busy */
function waiting(busy) {
  const generating = buttonAt("generate");
  // Not disabled, so that the focus stays where it is; it does nothing while a run goes.
  generating.setAttribute("aria-disabled", String(busy));
  buttonAt("stop").hidden = !busy;
  at("steered").setAttribute("aria-busy", String(busy));
  if (busy) at("run").hidden = at("proving").hidden = false;
}

function words() {
  const made = view?.length() ?? 0;
  const seconds = number((performance.now() - started) / 1000, 2);
  return `${made} token${made === 1 ? "" : "s"} each in ${seconds} s`;
}

/** The conversation that was asked, with an answer to it, and the next turn to write. @param {string} answer */
function carryOn(answer) {
  given.set([...(ran?.messages ?? []), { role: "model", content: answer }, { role: "user", content: "" }]);
  write(true);
  changed();
  given.focusLast();
}

const stop = () => running?.abort();

/** @param {string} text */
function status(text) {
  at("run-status").textContent = text;
}

/** That the texts are of other settings than the form's. */
function drawStale() {
  const stale = ran !== null && !running && JSON.stringify(settings()) !== JSON.stringify(ran);
  at("run").classList.toggle("stale", stale);
  at("stale").hidden = !stale;
}

/** A sentence at the field that it is about, else above the texts. @param {{message: string, field: string}} [refusal] */
function complain(refusal) {
  clearProblems(main);
  at("problem").replaceChildren();
  if (!refusal) return;
  const field = given.complain(refusal) ?? edits.complain(refusal) ?? complainOfNumber(refusal);
  if (field) field.focus();
  else if (refusal.field === "edits") {
    markProblem(buttonAt("add-edit"), refusal.message, at("edits-foot"));
    buttonAt("add-edit").focus();
  } else at("problem").replaceChildren(problem(refusal.message));
  if (!ran) hideRun();
}

/** @param {{message: string, field: string}} refusal */
function complainOfNumber({ message, field }) {
  const control = numbers[field];
  if (!control) return null;
  markProblem(control, message, control.closest(".sampling") ?? control);
  return control;
}

/* Where to begin */

/** @param {HTMLElement} button @returns {Idea} */
const ideaOf = (button) => JSON.parse(button.dataset.idea ?? "{}");

function drawIdeas() {
  for (const button of ideas) {
    const said = ideaWords(ideaOf(button), given.isChat());
    button.replaceChildren(
      el("b", {}, said.title),
      ...(said.given ? [el("span", { class: "mono given", dir: "auto" }, said.given)] : []),
      el("span", { class: "quiet" }, said.edits),
    );
  }
}

/** @param {Idea} idea */
function use(idea) {
  if (idea.sae && idea.sae !== sae()) setQuery({ ...query(), sae: saeInAddress(idea.sae) });
  fill(idea);
  generate({ push: true });
}

/* What people do */

const typed = later(400);

at("steer-form").addEventListener("submit", (event) => {
  event.preventDefault();
  generate({ push: true });
});
at("steer-form").addEventListener("input", (event) => {
  const target = /** @type {Element} */ (event.target);
  if (target.closest("#json, #edits, #kinds")) return;
  changed();
  if (target.closest("#prompt-fields")) typed.call(edits.promptChanged);
});
at("prompt-fields").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) generate({ push: true });
});
at("stop").addEventListener("click", stop);
at("copy-link").addEventListener("click", () => {
  const short = new URLSearchParams(location.search);
  const whole = Object.entries(query()).every(([name, value]) => short.get(name) === value);
  copy(location.href, buttonAt("copy-link"), whole ? "Copied" : "Copied without the long prompt");
});
at("json-copy").addEventListener("click", () => copy(json.value, buttonAt("json-copy")));
at("json-apply").addEventListener("click", () => {
  clearProblems(at("json"));
  const { settings: wanted, problem: why } = settingsOf(json.value, messagesProblem);
  if (wanted) take(wanted);
  else markProblem(json, `These settings cannot be used: ${why}.`);
});
/** Settings for the form, with their SAE. @param {Settings} wanted */
function take(wanted) {
  if (wanted.sae) setQuery({ ...query(), sae: saeInAddress(String(wanted.sae)) });
  fill(wanted);
  write(true);
  drawStale();
}
main.addEventListener("click", (event) => {
  const target = /** @type {Element} */ (event.target);
  const idea = target.closest("[data-idea]");
  if (idea instanceof HTMLElement) use(tried(ideaOf(idea), given.isChat() ? (given.messages() ?? []) : null));
  if (target.closest("[data-take-back]") && ran) take(ran);
  if (target.closest("[data-prove]")) openPart("proof", Number(at("prove").dataset.prove));
});

/** Another SAE: the edits stay those of the one before. @param {string} name */
function onSae(name) {
  const before = sae();
  const same = edits.get().map((edit) => ({ sae: before, ...edit }));
  setQuery({ ...query(), sae: saeInAddress(name) });
  edits.set(same);
  changed();
}

function restore() {
  const mine = ++restored;
  stop();
  running = null;
  waiting(false);
  status("");
  const wanted = read();
  const { messages } = wanted;
  const complete = messages ? messages.at(-1)?.content.trim() : wanted.prompt;
  if (!messages && wanted.prompt === undefined) wanted.prompt = usualPrompt;
  fill(wanted);
  ran = null;
  view?.begin();
  delete at("proving").dataset.taken;
  hideRun();
  at("ideas").hidden = false;
  drawIdeas();
  complain(wanted.problem ? { message: wanted.problem, field: "" } : undefined);
  const asked = query();
  for (const part of Object.values(parts)) part.close();
  for (const name of Object.keys(PARTS)) {
    kept[name] = Object.fromEntries(Object.entries(asked).filter(([each]) => each.startsWith(name)));
  }
  if (!complete || !wanted.edits?.length || wanted.problem) return;
  setTimeout(async () => {
    if (mine === restored) await generate({ push: false });
    for (const name of Object.keys(PARTS)) {
      if (mine === restored && asked[name] !== undefined) await openPart(name, Number(asked[name]), asked);
    }
  });
}

/* The model is there and says whether it chats; one that does begins so, unless somebody has begun
   already. */
let met = false;
onState(({ chat }) => {
  if (!chat || met) return;
  met = true;
  given.offer(chat);
  turnEnd = chat.end ?? "";
  view?.endsWith(turnEnd);
  const { prompt: text, messages } = query();
  if (text === undefined && !messages && prompt.value === usualPrompt && !ran && !running) {
    given.set([{ role: "user", content: main.dataset.question ?? "" }]);
    json.value = JSON.stringify(settings(), null, 2);
    drawIdeas();
  }
});

addEventListener("popstate", restore);
title("Steer");
start({ onSae });
restore();
