// @ts-check
/* What every link to a feature can do besides leading there: show the feature's card (glance.js), take
   along the list it stands in (walk.js), and gather it with Shift (gather.js). Fetched with the first
   one that is pointed at (steps.js). */

import { sae, saeInAddress } from "./frame.js";
import { startGlances, subjectOfCard } from "./glance.js";
import { startGathering } from "./gather.js";
import { takeAlong } from "./walk.js";

/** @param {Event} event */
function taken({ target }) {
  const link = target instanceof Element ? target.closest("a[href*='feature=']") : null;
  if (!(link instanceof HTMLAnchorElement)) return;
  const place = (link.closest("#glance") && subjectOfCard()) || link;
  takeAlong(link, place, saeInAddress(sae()));
}

/** Listen; once a page. @param {EventTarget | null} first what was pointed at */
export function startFeatureLinks(first) {
  startGathering();
  // Before whoever follows the link; a press too, so that it is so in a window of its own.
  for (const kind of ["pointerdown", "click"]) document.addEventListener(kind, taken, { capture: true });
  startGlances(first);
}
