// @ts-check
/* The overview: its sentence is live, what is loaded and checked is drawn anew as it changes, and
   another SAE is shown in place. */

import { fill, markup, onState, start } from "./frame.js";
import { navigation } from "./navigate.js";

const { onSae, refresh } = navigation({ onShown: startSentence });
start({ onSae, refresh });

onState(({ checks, memory }) => {
  const [own] = Object.values(checks);
  if (own?.panel !== undefined) fill(document.getElementById("check"), own.panel);
  if (memory !== undefined) remember(memory);
});

/* What makes the sentence live is fetched once the page is there. */
function startSentence() {
  import("./living.js").then(
    ({ startLiving }) => startLiving(),
    () => {
      const hint = document.getElementById("living-hint");
      if (hint) hint.textContent = "What reads it could not be fetched: load the page again.";
    },
  );
}

/** What is unfolded stays so, and the focus where it is. @param {string} html */
function remember(html) {
  const slot = document.getElementById("memory");
  const fresh = markup(html).firstElementChild;
  const old = slot?.firstElementChild;
  if (!slot || !fresh) return;
  if (old?.localName === "details" && fresh.localName === "details") {
    for (const part of ["summary span", ".panel"]) {
      const piece = fresh.querySelector(part);
      if (piece) old.querySelector(part)?.replaceWith(piece);
    }
  } else {
    slot.replaceChildren(fresh);
  }
}
