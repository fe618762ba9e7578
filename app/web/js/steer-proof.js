// @ts-check
/* Prove it: an edit and its controls, each run a dot, the sentence above them, the texts below each
   on a click. What is asked stands in the address, the whole proof in a file. */

import { el, shows } from "./dom.js";
import { busy, placeWords } from "./frame.js";
import { clearProblems, markProblem } from "./given.js";
import { drawProof } from "./proof-plot.js";
import { call } from "./server.js";

/** @typedef {import("./proof-plot.js").Proof} Proof */

const SEEDS = "proof_seeds";
const OPEN = "proof_open";

/** The name of the file that holds a proof. @param {Proof} proof */
export const fileName = ({ target }) => `proof-${target.edit.feature}.json`;

/** How far the texts are, in words. @param {{tokens: number, of: number, runs: number}} progress */
export const progressWords = ({ tokens, of, runs }) => `${runs} texts: ${tokens} of ${of} tokens…`;

/** @param {import("./steer.js").SteeringPage} page */
export function view(page) {
  /** @param {string} id */
  const at = (id) => /** @type {HTMLElement} */ (document.getElementById(id));
  const panel = at("proof");
  const seeds = /** @type {HTMLInputElement} */ (at("proof-seeds"));
  const choice = /** @type {HTMLSelectElement} */ (at("proof-edit"));
  const usualSeeds = seeds.defaultValue;
  /** @type {AbortController | null} */
  let running = null;
  /** @type {Proof | null} */
  let shown = null;
  let ran = ""; // what was asked for the proof on the page
  /** @type {Set<number>} */
  let opened = new Set();

  /** What the address says of this part. */
  function keep() {
    /** @type {Record<string, string>} */
    const values = { proof: choice.value || "0" };
    if (seeds.value !== usualSeeds) values[SEEDS] = seeds.value;
    if (opened.size) values[OPEN] = [...opened].sort((a, b) => a - b).join();
    page.keep(panel.hidden ? {} : values);
  }

  /** The proof as the server takes it. */
  const asked = () => ({
    ...page.settings(),
    edit: Number(choice.value) || 0,
    seeds: seeds.value === "" ? null : Number(seeds.value),
  });

  /** The edits to choose from; with one there is nothing to choose. @param {number} [chosen] */
  function drawChoice(chosen = Number(choice.value) || 0) {
    const edits = page.settings().edits ?? [];
    choice.replaceChildren(
      ...edits.map((edit, k) => el("option", { value: k, selected: k === chosen }, `#${edit.feature ?? "?"}`)),
    );
    at("proof-edit-label").hidden = edits.length < 2;
  }

  async function prove() {
    running?.abort();
    running = new AbortController();
    const { signal } = running;
    keep();
    clearProblems(panel);
    const question = asked();
    at("proof-stop").hidden = false;
    panel.setAttribute("aria-busy", "true");
    status("Beginning…");
    try {
      const last = await busy(
        call("prove", question, {
          signal,
          onProgress: (answer) => status(progressWords(answer.progress)),
          onQueue: (place) => status(placeWords(place)),
        }),
      );
      ran = JSON.stringify(question);
      show(last);
      shows(at("proof-result"), "prove", question, last);
      status(last.note ?? "");
    } catch (error) {
      if (running?.signal !== signal) return; // asked anew meanwhile
      if (signal.aborted) status("Stopped.");
      else complain(/** @type {import("./server.js").ServerError} */ (error));
    } finally {
      if (running?.signal === signal) {
        running = null;
        at("proof-stop").hidden = true;
        panel.setAttribute("aria-busy", "false");
      }
      drawStale();
    }
  }

  /** @param {Proof} proof */
  function show(proof) {
    shown = proof;
    at("proof-json").hidden = false;
    at("proof-title").textContent = `Proof of #${proof.target.edit.feature}`;
    at("proof-result").replaceChildren(
      drawProof(proof, {
        opened,
        onOpen(arm, open) {
          if (open) opened.add(arm);
          else opened.delete(arm);
          keep();
        },
      }),
    );
  }

  /** @param {import("./server.js").ServerError} error */
  function complain(error) {
    status("");
    /** @type {Record<string, HTMLElement>} */
    const fields = { seeds, edit: choice };
    const own = fields[error.field];
    if (own) {
      markProblem(own, error.message, own.closest("label") ?? own);
      own.focus();
    } else page.complain(error);
  }

  /** @param {string} words */
  function status(words) {
    at("proof-status").textContent = words;
  }

  function drawStale() {
    at("proof-stale").hidden = !shown || Boolean(running) || JSON.stringify(asked()) === ran;
  }

  function save() {
    if (!shown) return;
    const file = new Blob([`${JSON.stringify(shown, null, 2)}\n`], { type: "application/json" });
    const link = el("a", { href: URL.createObjectURL(file), download: fileName(shown) });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href));
  }

  at("proof-form").addEventListener("submit", (event) => {
    event.preventDefault();
    opened = new Set();
    prove();
  });
  at("proof-form").addEventListener("input", () => {
    keep();
    drawStale();
  });
  at("proof-stop").addEventListener("click", () => running?.abort());
  at("proof-json").addEventListener("click", save);
  at("proof-close").addEventListener("click", () => {
    close();
    keep();
    at("prove").focus();
  });

  function close() {
    running?.abort();
    panel.hidden = true;
  }

  return {
    /** Prove an edit, with what the address says of this part.
     * @param {number} edit @param {Record<string, string>} [query] */
    open(edit, query) {
      drawChoice(edit);
      opened = new Set();
      if (query) {
        seeds.value = query[SEEDS] ?? usualSeeds;
        opened = new Set((query[OPEN] ?? "").split(",").filter(Boolean).map(Number));
      }
      panel.hidden = false;
      panel.scrollIntoView({ block: "nearest" });
      return prove();
    },
    close,
    /** The form is another one. */
    changed() {
      drawChoice();
      drawStale();
    },
  };
}
