/* The badge beside the SAE's name, the line above numbers that may be wrong, the overview's panel:
   drawn by the server (app/render/badge.py), asked for again until the check is over. */

(() => {
  "use strict";

  const js = window.jumpscope;
  const PAUSES = [300, 600, 1000, 2000]; // ms between questions; the last is kept

  let asked = ""; // the SAEs asked about
  let found = {}; // what was answered, by SAE
  let timer = 0;

  /* The page's SAE first, then those that edits in the address name. */
  function names() {
    let edits = [];
    try {
      edits = JSON.parse(js.query().edits ?? "[]");
    } catch {
      // The page says itself that it cannot read them.
    }
    const others = Array.isArray(edits) ? edits.map((edit) => edit?.sae) : [];
    return [...new Set([js.sae(), ...others])].filter(js.known);
  }

  function look() {
    const now = names();
    if (now.join("\n") === asked) return draw();
    asked = now.join("\n");
    clearTimeout(timer);
    if (now.length) ask(now, 0);
    return undefined;
  }

  function ask(saes, times) {
    // Opening a page is a reason to try again what failed before; waiting is none.
    const question = { saes, again: times === 0 };
    const take = (answer) => {
      if (answer.error) return;
      found = answer.checks;
      draw();
      if (!Object.values(found).some((check) => check.state === "checking")) {
        document.dispatchEvent(new Event("jumpscope:checked"));
        return;
      }
      timer = setTimeout(() => ask(saes, times + 1), PAUSES[Math.min(times, PAUSES.length - 1)]);
    };
    js.ask("check", question, take, { quiet: true });
  }

  /* Only what has changed, so that the focus and an opened part stay. */
  function fill(slot, html) {
    if (!slot || slot.dataset.drawn === html) return;
    slot.dataset.drawn = html;
    slot.innerHTML = html;
  }

  function draw() {
    const own = found[js.sae()];
    fill(document.getElementById("badge"), own?.badge ?? "");
    // Until there is an answer the server's own drawing of the panel stays.
    if (own) fill(document.getElementById("check"), own.panel);
    const doubts = names().map((name) => found[name]?.doubt ?? "");
    for (const slot of document.querySelectorAll("[data-doubt]")) fill(slot, doubts.join(""));
  }

  document.addEventListener("jumpscope:sae", look);
  document.addEventListener("jumpscope:shown", draw, { capture: true });
})();
