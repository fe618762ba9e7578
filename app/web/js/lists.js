// @ts-check
/* Lists of features: made, renamed, removed, put in order by buttons and by Alt with the arrow keys;
   another's file is merged, and where both say something else one chooses. Saved pages are removed. */

import { address, el } from "./dom.js";
import { busy, problem, start } from "./frame.js";
import { navigation } from "./navigate.js";
import { ServerError, call } from "./server.js";

/**
 * @typedef {object} Conflict
 * @property {string} what name or order of the list; label, verdict or note of a feature
 * @property {number | null} feature
 * @property {string} yours
 * @property {string} theirs
 * @property {string} key
 */

const WORDS = /** @type {Record<string, string>} */ ({
  name: "The name of the list",
  order: "The order of the list",
  label: "The label of",
  verdict: "The verdict on",
  note: "The note on",
});

/** What a conflict is about, in words. @param {Conflict} conflict */
export const aboutWords = ({ what, feature }) =>
  feature === null ? WORDS[what] : `${WORDS[what]} #${feature}`;

/**
 * Where a feature comes to stand; null where there is no further place.
 * @param {number} place @param {number} by 1 is down, -1 up @param {number} size of the list
 */
export function placeAfter(place, by, size) {
  const to = place + by;
  return to < 0 || to >= size ? null : to;
}

/** @param {string} sentence */
function say(sentence) {
  document.getElementById("said")?.replaceChildren(sentence && el("p", { class: "quiet" }, sentence));
}

/** Do something that the server may refuse with a sentence. @param {() => Promise<void>} act */
async function attempt(act) {
  say("");
  try {
    await busy(act());
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    document.getElementById("said")?.replaceChildren(problem(error.message));
  }
}

/** The list on the page, "" if it shows all. */
const listHere = () =>
  document.querySelector("[data-view]")?.getAttribute("data-list") ?? "";

function begin() {
  const main = /** @type {HTMLElement} */ (document.getElementById("content"));
  const { go, onSae, refresh } = navigation();
  let moving = Promise.resolve();

  /**
   * After all changes before it: where an entry stands is read when its turn has come.
   * @param {Element} control
   * @param {(entry: HTMLElement) => Record<string, unknown> | null} changeOf null for none
   */
  function changeEntry(control, changeOf) {
    const { feature, hash: sae } = /** @type {HTMLElement | null} */ (control.closest("[data-entry]"))?.dataset ?? {};
    const act = async () => {
      const entry = main.querySelector(`[data-entry][data-feature="${feature}"][data-hash="${sae}"]`);
      const change = entry instanceof HTMLElement ? changeOf(entry) : null;
      if (!change) return;
      await call("lists", { list_id: listHere(), feature: Number(feature), sae, ...change });
      await refresh();
    };
    moving = moving.then(() => attempt(act)).catch((error) => reportError(error));
  }

  /** @param {Element} control @param {number} by */
  function move(control, by) {
    const entry = control.closest("[data-entry]");
    if (!(entry instanceof HTMLElement)) return;
    // What is drawn anew keeps the focus by its id.
    if (!document.activeElement?.id) entry.querySelector("button")?.focus();
    changeEntry(entry, ({ dataset }) => {
      const size = main.querySelectorAll("[data-entry]").length;
      const place = placeAfter(Number(dataset.place), by, size);
      return place === null ? null : { action: "move", place };
    });
  }

  /** @param {unknown} document_ @param {string} source @param {string} theirs keys with commas */
  async function merge(document_, source, theirs) {
    const asked = { action: "merge", document: document_, source, theirs };
    const answer = await call("lists", asked);
    await go(address("lists", { list: answer.list.id }));
    // What is chosen is settled: where yours stays is not asked again.
    const open = theirs ? [] : answer.conflicts;
    say(theirs ? "What is chosen is kept." : open.length ? "" : "Merged.");
    showConflicts(open, (keys) => attempt(() => merge(document_, source, keys)));
  }

  /** @param {FileList | null | undefined} files */
  function mergeFile(files) {
    const file = files?.[0];
    if (!file) return;
    void attempt(async () => {
      // Each may have conflicts that are asked about.
      if (files.length > 1) throw new ServerError(`These are ${files.length} files: drop one at a time.`);
      let written;
      try {
        written = JSON.parse(await file.text());
      } catch {
        throw new ServerError(`${file.name} is no JSON file.`);
      }
      if (written === null || typeof written !== "object" || Array.isArray(written)) {
        throw new ServerError(`${file.name} is no list of features.`);
      }
      await merge(written, file.name, "");
    });
  }

  main.addEventListener("submit", (event) => {
    const form = event.target;
    if (!(form instanceof HTMLFormElement) || !form.dataset.listForm) return;
    event.preventDefault();
    const action = form.dataset.listForm;
    const name = String(new FormData(form).get("name") ?? "");
    if (form.ariaBusy === "true") return; // a second Enter makes no second list
    form.ariaBusy = "true";
    void attempt(async () => {
      const answer = await call("lists", { action, list_id: listHere(), name });
      if (action === "rename") await refresh();
      else await go(address("lists", { list: answer.list?.id }));
    }).finally(() => (form.ariaBusy = "false"));
  });
  main.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    const button = target?.closest("button");
    if (!button) return;
    if (button.dataset.move) move(button, Number(button.dataset.move));
    else if (button.hasAttribute("data-take")) changeEntry(button, () => ({ action: "take" }));
    else if (button.dataset.forget) {
      void attempt(async () => {
        await call("saved", { action: "remove", saved_id: button.dataset.forget });
        await refresh();
      });
    }
  });
  main.addEventListener("keydown", (event) => {
    const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!event.altKey || !by || !(event.target instanceof Element)) return;
    if (!event.target.closest("[data-entry]")) return;
    event.preventDefault();
    move(event.target, by);
  });
  main.addEventListener("change", (event) => {
    const input = event.target;
    if (input instanceof HTMLInputElement && input.hasAttribute("data-merge")) {
      mergeFile(input.files);
      input.value = "";
    }
  });
  /** @param {DragEvent} event */
  const hasFile = (event) => event.dataTransfer?.types.includes("Files");
  main.addEventListener("dragover", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    main.classList.add("dropping");
  });
  main.addEventListener("dragleave", () => main.classList.remove("dropping"));
  main.addEventListener("drop", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    main.classList.remove("dropping");
    mergeFile(event.dataTransfer?.files);
  });
  start({ onSae, refresh });
}

/**
 * Where both say something else: yours stays unless theirs is chosen.
 * @param {Conflict[]} conflicts
 * @param {(keys: string) => void} take
 */
function showConflicts(conflicts, take) {
  const place = document.getElementById("conflicts");
  if (!place) return;
  if (!conflicts.length) {
    place.replaceChildren();
    return;
  }
  const one = (/** @type {Conflict} */ { key, yours, theirs, ...about }) =>
    el("fieldset", { class: "conflict" }, [
      el("legend", {}, aboutWords({ key, yours, theirs, ...about })),
      el("label", {}, el("input", { type: "radio", name: key, value: "yours", checked: true }), " Yours: ", el("bdi", {}, yours)),
      el("label", {}, el("input", { type: "radio", name: key, value: "theirs" }), " Theirs: ", el("bdi", {}, theirs)),
    ]);
  const form = el("form", { class: "panel", "aria-label": "Where you and the file differ" }, [
    el("p", { tabindex: "-1" }, "Merged. Here the file says something else than you; yours stays unless you choose theirs."),
    ...conflicts.map(one),
    el("button", { class: "primary" }, "Keep what is chosen"),
  ]);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const chosen = [...new FormData(form)].filter(([, value]) => value === "theirs");
    if (chosen.length) take(chosen.map(([key]) => key).join(","));
    else {
      place.replaceChildren();
      say("Yours stay.");
    }
  });
  place.replaceChildren(form);
  form.querySelector("p")?.focus();
}

if (globalThis.document) begin();
