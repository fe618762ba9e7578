// @ts-check
/* An index that is renewed while a page is open, because it was rebuilt, replaced or removed: the
   page hears of it within seconds and says so. A page that can be drawn anew in place is; others
   offer to be loaded again, since what stands on them was asked for.

   The page says which index it shows (data-revision of the document, "NAME@which"). */

import { el } from "./dom.js";
import { ServerError, revision as ask } from "./server.js";

const EVERY = 4000; // ms between questions, while the page is looked at

/**
 * What is to be done about a new answer.
 * @param {string} shown the revision that the page shows
 * @param {string} now the one that is read
 * @returns {"nothing" | "adopt" | "renewed" | "gone"} `adopt` where it is another SAE's
 */
export function change(shown, now) {
  if (shown === now) return "nothing";
  const [[name], [other, which]] = [shown, now].map(parted);
  if (name !== other) return "adopt";
  return which ? "renewed" : "gone";
}

/** @param {string} revision */
function parted(revision) {
  const at = revision.lastIndexOf("@");
  return [revision.slice(0, at), revision.slice(at + 1)];
}

/**
 * Ask from now on. `refresh` draws the page anew, null where it cannot.
 * @param {() => string} sae
 * @param {(() => Promise<void>) | null} refresh
 */
export function watch(sae, refresh) {
  const page = document.documentElement;
  const look = async () => {
    // Not while the page is on its way to another view, which comes from the new index.
    if (document.hidden || page.hasAttribute("data-busy")) return;
    const name = sae();
    const answer = await ask(name);
    if (name !== sae() || page.hasAttribute("data-busy")) return;
    sayNote(answer.note);
    const what = change(page.dataset.revision ?? "", answer.revision);
    page.dataset.revision = answer.revision;
    if (what !== "renewed" && what !== "gone") return;
    if (refresh) await refresh();
    say(what, refresh !== null);
  };
  const again = async () => {
    try {
      await look();
    } catch (error) {
      // That nothing answers, the frame says.
      if (!(error instanceof ServerError)) throw error;
    } finally {
      setTimeout(again, EVERY);
    }
  };
  void again();
}

/** Above the page, unless the page itself says it. @param {string} words */
function sayNote(words) {
  const problems = [...document.querySelectorAll("main .problem")];
  const told = problems.some((problem) => problem.textContent === words);
  const note = document.getElementById("index-note");
  if (note && note.textContent !== (told ? "" : words)) note.textContent = told ? "" : words;
}

/** @param {"renewed" | "gone"} what @param {boolean} drawn whether the page shows it already */
function say(what, drawn) {
  const place = document.getElementById("renewed");
  if (!place) return;
  const words = what === "gone" ? "The index cannot be read any more" : "The index was renewed";
  if (drawn) {
    place.replaceChildren(`${words}: this page shows what there is now.`);
    return;
  }
  const button = el("button", { type: "button", class: "plain" }, "Load it again");
  button.addEventListener("click", () => location.reload());
  place.replaceChildren(`${words}: this page is from before. `, button);
}
