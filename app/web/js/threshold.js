// @ts-check
/* The threshold lab of a feature's page: the threshold is dragged under the histogram, and at once the
   page says what would fire, what is gained and lost, and which contexts enter or leave. What the
   histogram cannot tell is measured with the model (threshold-measured.js). All of it is in the
   address: `threshold`, `function`, `lambda`, `bandwidth`. */

import { el, later } from "./dom.js";
import { query, setQuery } from "./frame.js";
import { number, percent } from "./numbers.js";
import { changed, firing, functionSays, outline, placeSays, reading } from "./threshold-numbers.js";

/** @typedef {import("./threshold-numbers.js").Lab} Lab */
/** @typedef {import("./threshold-numbers.js").Kind} Kind */

const SETTLED = 250; // ms without a move after which the address says so

/**
 * Make the lab of a feature's page live; nothing where there is none.
 * @param {HTMLElement} main
 */
export function showLab(main) {
  const root = main.querySelector("[data-lab]");
  const slider = root?.querySelector("input[type=range]");
  if (!(root instanceof HTMLElement) || !(slider instanceof HTMLInputElement)) return;
  /** @type {Lab} */
  const lab = JSON.parse(root.dataset.lab ?? "");
  const own = /** @type {HTMLButtonElement} */ (root.querySelector("[data-own]"));
  let threshold = asked(lab, Number(slider.min), Number(slider.max));
  const settled = later(SETTLED);
  const kind = () => kindOf(root);

  const draw = () => {
    slider.value = String(threshold);
    const cut = kind() === "relu" ? 0 : threshold;
    const { share } = firing(lab, cut);
    slider.setAttribute(
      "aria-valuetext",
      `${number(threshold)}: fires on ${threshold === lab.threshold ? "" : "about "}${percent(share)} of tokens`,
    );
    own.hidden = threshold === lab.threshold;
    drawChart(root, lab, threshold, kind());
    const reads = root.querySelector("[data-reading]");
    if (reads) reads.textContent = reading(lab, threshold);
    const contexts = markContexts(main, lab, cut);
    root.querySelector(".says")?.replaceChildren(
      el("p", {}, placeSays(lab, threshold)),
      el("p", {}, functionSays(lab, threshold, kind())),
      contexts && el("p", {}, contexts),
    );
  };
  const keep = () => {
    const kept = threshold === lab.threshold ? "" : Number(threshold.toPrecision(5));
    setQuery({ ...query(), threshold: kept, function: kind() });
  };
  const moved = () => {
    draw();
    settled.call(keep);
  };

  for (const radio of root.querySelectorAll("input[type=radio]")) {
    if (radio instanceof HTMLInputElement) radio.checked = radio.value === (query().function ?? "");
  }
  if (!root.querySelector("input[type=radio]:checked")) {
    const first = root.querySelector("input[type=radio]");
    if (first instanceof HTMLInputElement) first.checked = true;
  }
  root.addEventListener("input", (event) => {
    if (event.target === slider) threshold = Number(slider.value);
    else if (!(event.target instanceof HTMLInputElement) || event.target.type !== "radio") return;
    moved();
  });
  own.addEventListener("click", () => {
    threshold = lab.threshold;
    moved();
    slider.focus();
  });
  root.querySelector("[data-measure]")?.addEventListener("click", async () => {
    const { measure } = await import("./threshold-measured.js");
    await measure(root, lab, threshold);
  });
  draw();
  // They would do nothing before.
  for (const part of root.querySelectorAll("[inert]")) part.removeAttribute("inert");
}

/** The threshold of the address, else the feature's own. @param {Lab} lab @param {number} low @param {number} high */
function asked(lab, low, high) {
  const written = query().threshold;
  const value = Number(written);
  return written && value >= low && value <= high ? value : lab.threshold;
}

/** @param {HTMLElement} root @returns {Kind} */
function kindOf(root) {
  const chosen = root.querySelector("input[type=radio]:checked");
  const value = chosen instanceof HTMLInputElement ? chosen.value : "";
  return value === "relu" || value === "shifted" ? value : "";
}

/** @param {HTMLElement} root @param {Lab} lab @param {number} threshold @param {Kind} kind */
function drawChart(root, lab, threshold, kind) {
  const [low, high] = [lab.edges[0], lab.edges[lab.edges.length - 1]];
  const cut = kind === "relu" ? 0 : threshold;
  root.querySelectorAll(".bar").forEach((bar, k) => {
    bar.classList.toggle("below", (lab.edges[k] + lab.edges[k + 1]) / 2 <= cut);
  });
  const line = root.querySelector(".plot .threshold");
  if (line instanceof HTMLElement) {
    const at = (100 * (threshold - low)) / (high - low);
    line.style.left = `${at.toFixed(2)}%`;
    line.className = `threshold ${at > 55 ? "left" : "right"}`;
    line.firstElementChild?.replaceChildren(`threshold ${number(threshold)}`);
  }
  root.querySelector(".passes")?.setAttribute("d", outline(kind, threshold, low, high));
  root.querySelector(".same")?.setAttribute("d", outline("relu", 0, low, high));
}

/**
 * Say at each context of the page whether it would fire otherwise than it does; a sentence that
 * counts them, "" where none does.
 * @param {HTMLElement} main
 * @param {Lab} lab
 * @param {number} cut
 */
function markContexts(main, lab, cut) {
  const tally = { enters: 0, leaves: 0 };
  const contexts = main.querySelectorAll(".context[data-value]");
  for (const context of contexts) {
    if (!(context instanceof HTMLElement)) continue;
    const nearMiss = context.classList.contains("near-miss");
    const change = changed(Number(context.dataset.value), nearMiss, lab.threshold, cut);
    if (change) tally[/** @type {"enters" | "leaves"} */ (change)] += 1;
    const label = context.querySelector(".change");
    if (label?.textContent === change) continue;
    context.toggleAttribute("data-changed", change !== "");
    if (label) label.textContent = change;
    else if (change) context.querySelector(".n")?.before(el("b", { class: "change" }, change));
  }
  if (!tally.enters && !tally.leaves) return "";
  const parts = [
    tally.leaves && `${tally.leaves} would leave`,
    tally.enters && `${tally.enters} would enter`,
  ];
  return `Of the ${contexts.length} contexts on this page ${parts.filter(Boolean).join(", ")}.`;
}
