// @ts-check
/* A training run: its page follows it. What has changed is drawn anew in place, piece by piece, so
   that the reader's place, an open table and the focus stay; the address names the open table. */

import { query, setQuery, start } from "./frame.js";
import { ServerError, page, progress } from "./server.js";

const EVERY = 2000; // ms between questions, while the page is looked at

const main = /** @type {HTMLElement} */ (document.getElementById("content"));

start({ refresh: draw });

/** The pieces of a page that change, by name. @param {ParentNode} root */
const parts = (root) =>
  new Map(
    [...root.querySelectorAll("[data-part]")].map((part) => [
      /** @type {HTMLElement} */ (part).dataset.part ?? "",
      part,
    ]),
  );

/** Draw what is new of the run, as the server's templates write it. */
async function draw() {
  const { html } = await page(location.href);
  const fresh = new DOMParser().parseFromString(html, "text/html");
  const now = parts(fresh);
  // The first numbers, or another kind of chart: all of them are drawn.
  if ([...now.keys()].join() !== [...parts(main).keys()].join()) {
    take(document.getElementById("numbers"), fresh.getElementById("numbers"));
  }
  for (const [name, part] of parts(main)) take(part, now.get(name) ?? null);
}

/** Put what stands in one element into another, if it is something else; the focus stays.
 * @param {Element | null} part @param {Element | null} other */
function take(part, other) {
  if (!part || !other || part === other || part.isEqualNode(other)) return;
  const stops = () => [...part.querySelectorAll("button, summary, [tabindex]")];
  const held = stops().findIndex((stop) => stop === document.activeElement);
  if (part.className !== other.className) part.className = other.className;
  part.replaceChildren(...other.childNodes);
  const stop = held < 0 ? null : stops()[held];
  if (stop instanceof HTMLElement) stop.focus({ preventScroll: true });
}

/* The open table */

main.addEventListener(
  "toggle",
  ({ target }) => {
    if (!(target instanceof HTMLDetailsElement) || !target.isConnected) return;
    const curve = target.dataset.curve ?? "";
    const open = query().curve ?? "";
    if (!curve || target.open === (open === curve)) return;
    if (target.open) {
      for (const other of main.querySelectorAll("details[data-curve][open]")) {
        if (other !== target) other.removeAttribute("open");
      }
    }
    setQuery({ ...query(), curve: target.open ? curve : "" });
  },
  { capture: true },
);

/* Following */

async function follow() {
  try {
    if (!document.hidden) {
      const { revision } = await progress();
      if (revision !== main.dataset.revisionOfRun) {
        await draw();
        main.dataset.revisionOfRun = revision;
      }
    }
  } catch (error) {
    // That nothing answers, the frame says.
    if (!(error instanceof ServerError)) throw error;
  } finally {
    setTimeout(follow, EVERY);
  }
}

setTimeout(follow, EVERY);
