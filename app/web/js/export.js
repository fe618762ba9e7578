// @ts-check
/* "Export": a dialog that lists what can be taken from the page as it is now: the server's answers
   that it shows, its tables, its texts, and each plot and heat map as a picture with a caption.

   Files are made here, of what is on the page, with its filters; nothing is sent anywhere. */

import { copy, el } from "./dom.js";
import { answerOf, cutSays, shownIn } from "./export-answers.js";
import { pictureOf, pngOf } from "./export-picture.js";
import { cellOf, csvOf, jsonOf, rowsTable, tableOf, tablesOf } from "./export-tables.js";
import { problem, sae } from "./frame.js";
import { ServerError, about, call, within } from "./server.js";

/** @typedef {import("./export-answers.js").Shown} Shown */
/** @typedef {import("./export-tables.js").Table} Table */
/** @typedef {{words: string, make: (row: HTMLElement) => Promise<void> | void}} Choice */

const PICTURES = "[data-picture], details.group, figure, .chart, .tokens, .next-bars, svg[role], canvas";
const MOST_PICTURES = 60;

/** @type {Record<string, string>} what an endpoint's answer is called; others by their own name */
const NAMES = {
  search_features: "All features that match",
  feature: "This feature",
  prompt_features: "This text",
  test_text: "Your own text",
  effects: "What comes next",
  compare: "Two texts compared",
  patch: "Patched features",
  splice: "Splice switch",
  steer: "Steering",
  ladder: "Ladder of strengths",
  prove: "Proof",
  sql: "This query",
  threshold: "Another threshold",
  find: "Features by example",
  co_activation: "What fires together",
  lists: "This list",
};

/** @type {HTMLDialogElement | null} */
let dialog = null;

/** Show what the page has to take away. */
export async function openExport() {
  dialog ??= made();
  if (!dialog.isConnected) document.body.append(dialog);
  const list = /** @type {HTMLElement} */ (dialog.querySelector(".export-list"));
  const page = /** @type {HTMLElement} */ (document.getElementById("content"));
  const groups = [
    group("Answers, exact", shownIn(page).map(answerRow)),
    group("Tables as shown", tableRows(page)),
    group("Pictures", pictureRows(page)),
  ].filter((each) => each !== null);
  const nothing = el("p", { class: "quiet" }, "There is nothing on this page to take away.");
  list.replaceChildren(...(groups.length ? groups : [nothing]));
  dialog.showModal();
}

function made() {
  const close = el("button", { type: "button", class: "close", "aria-label": "Close" }, "×");
  const head = el("div", { class: "card-head" }, el("h2", { id: "export-title" }, "Export"), close);
  const list = el("div", { class: "export-list" });
  const inside = el("div", { class: "card-inside" }, head, list);
  const box = el("dialog", { id: "taken", "aria-labelledby": "export-title" }, inside);
  close.addEventListener("click", () => box.close());
  box.addEventListener("click", (event) => {
    if (event.target === box) box.close(); // outside of what it shows
  });
  // The page's own keys rest meanwhile.
  box.addEventListener("keydown", (event) => event.stopPropagation());
  return box;
}

/** @param {string} title @param {HTMLElement[]} rows */
function group(title, rows) {
  if (!rows.length) return null;
  const heading = el("h3", {}, title);
  return el("section", {}, heading, el("ul", {}, rows));
}

/** A thing to take, with a button for each form of it. @param {string} name @param {Choice[]} choices */
function row(name, choices) {
  const below = el("div", { class: "export-below", "aria-live": "polite" });
  const buttons = choices.map(({ words, make }) =>
    el(
      "button",
      {
        type: "button",
        "aria-label": `${words}: ${name}`,
        onclick: async () => {
          below.replaceChildren();
          below.setAttribute("aria-busy", "true");
          try {
            await make(below);
          } catch (error) {
            if (!(error instanceof ServerError)) throw error;
            below.replaceChildren(problem(error.message));
          } finally {
            below.removeAttribute("aria-busy");
          }
        },
      },
      words,
    ),
  );
  return el(
    "li",
    {},
    el("div", { class: "between" }, el("span", { class: "export-name" }, name), el("span", { class: "export-forms" }, buttons)),
    below,
  );
}

/* The server's answers */

/** @param {Shown} shown */
function answerRow(shown) {
  const name = NAMES[shown.endpoint] ?? shown.endpoint;
  const stem = fileStem(name);
  const choices = [
    {
      words: "JSON",
      make: async (/** @type {HTMLElement} */ below) => {
        const answer = await answerOf(shown, call);
        const whole = { ...(await facts()), endpoint: `/${shown.endpoint}`, asked: shown.asked, answer };
        save(`${stem}.json`, `${JSON.stringify(whole, null, 1)}\n`, "application/json");
        tellCut(below, shown);
      },
    },
    {
      words: "CSV",
      make: async (/** @type {HTMLElement} */ below) => {
        const tables = await answerTables(shown);
        if (tables.length === 1) saveTable(stem, tables[0]);
        else below.replaceChildren(el("ul", {}, tables.map((table) => tableRow(table.name, table))));
        tellCut(below, shown);
      },
    },
    {
      words: "Python",
      make: async (/** @type {HTMLElement} */ below) => {
        // The rows of pages are asked for by the cell itself.
        const tables = shown.paged ? [] : await answerTables(shown);
        below.replaceChildren(...cell(cellOf(within("./"), shown, tables)));
      },
    },
  ];
  const texts = textsOf(shown);
  if (texts) choices.push({ words: "Texts", make: async () => save(`${stem}.txt`, texts, "text/plain") });
  return row(name, choices);
}

/** Say below a row what its file leaves out. @param {HTMLElement} below @param {Shown} shown */
function tellCut(below, shown) {
  const words = cutSays(shown);
  if (words) below.append(el("p", { class: "quiet" }, words));
}

/** @param {Shown} shown */
async function answerTables(shown) {
  const answer = await answerOf(shown, call);
  return shown.paged ? [rowsTable(shown.paged, answer[shown.paged])] : tablesOf(answer);
}

/** The texts of a steering, one below the other. @param {Shown} shown */
function textsOf({ endpoint, answer }) {
  if (endpoint !== "steer" || !answer) return "";
  const text = (/** @type {{text: string, special?: boolean}[]} */ tokens) =>
    tokens.map((token) => (token.special ? "" : token.text)).join("");
  const prompt = text(answer.prompt_tokens);
  return ["base", "steered"]
    .map((arm) => `# ${arm === "base" ? "as it is" : "steered"}\n\n${prompt}${text(answer[arm])}\n`)
    .join("\n");
}

/** @param {string} code */
function cell(code) {
  const button = el("button", { type: "button", class: "plain" }, "Copy");
  button.addEventListener("click", () => void copy(code, button));
  const pre = el("pre", { class: "code", tabindex: 0, role: "group", "aria-label": "Python" }, el("code", {}, code));
  return [el("div", { class: "between" }, el("span", { class: "quiet" }, "A cell for a notebook beside this app"), button), pre];
}

/* The tables of the page */

/** @param {HTMLElement} page */
function tableRows(page) {
  const nodes = /** @type {NodeListOf<HTMLTableElement | HTMLDListElement>} */ (
    page.querySelectorAll("table, dl.stats, dl.facts")
  );
  const seen = [...nodes].filter((node) => node.checkVisibility());
  const tables = seen
    .map((node) => tableOf(node, nameOf(node, node instanceof HTMLTableElement ? "Table" : "Numbers")))
    .filter((table) => table.rows.length);
  return told(tables, ({ columns }) => columns[0]).map((table) => tableRow(table.name, table));
}

/** @param {string} name @param {Table} table */
function tableRow(name, table) {
  const stem = fileStem(name);
  return row(name, [
    { words: "CSV", make: () => saveTable(stem, table) },
    { words: "JSON", make: () => save(`${stem}.json`, jsonOf(table), "application/json") },
  ]);
}

/** @param {string} stem @param {Table} table */
function saveTable(stem, table) {
  save(`${stem}.csv`, csvOf(table), "text/csv");
}

/* Pictures */

/** @param {HTMLElement} page */
function pictureRows(page) {
  const nodes = /** @type {HTMLElement[]} */ ([...page.querySelectorAll(PICTURES)]);
  const seen = nodes.filter(
    (node) =>
      !node.parentElement?.closest(PICTURES) &&
      node.checkVisibility() &&
      node.getBoundingClientRect().height > 1 &&
      (node.textContent?.trim() || node.querySelector("svg, canvas") || node.matches("svg, canvas")),
  );
  const named = seen.slice(0, MOST_PICTURES).map((node) => ({ node, name: nameOf(node, "Picture") }));
  return told(named, () => "").map(({ node, name }) => {
    const draw = async () => pictureOf(node, { title: name, caption: await captionOf() });
    return row(name, [
      {
        words: "SVG",
        make: async () => save(`${fileStem(name)}.svg`, (await draw()).text, "image/svg+xml"),
      },
      { words: "PNG", make: async () => download(`${fileStem(name)}.png`, await pngOf(await draw())) },
    ]);
  });
}

/** What a picture or file is of. @returns {Promise<Record<string, string>>} */
async function facts() {
  return { ...(await about(sae())), page: location.href };
}

/** The lines below a picture. */
async function captionOf() {
  const { jumpscope, model, name, site, content_hash: hash, page } = await facts();
  const of = [`SAE ${name}`, site && `at ${site}`, model && `of ${model}`].filter(Boolean).join(" ");
  const weights = hash ? `weights SHA-256 ${hash}` : "";
  const from = [weights, `Jumpscope ${jumpscope}`].filter(Boolean).join(" · ");
  return [document.title.replace(/ · Jumpscope$/, ""), `${of} · ${from}`, page];
}

/* Names and files */

/** What a part of the page is called: by itself, and by the section that it stands in.
 * @param {Element} node @param {string} fallback */
function nameOf(node, fallback) {
  const own = labelOf(node) || wordsOf(node.querySelector("figcaption b, summary h3, caption"));
  const inside = node.querySelector("svg[aria-label]")?.getAttribute("aria-label") ?? "";
  const section = node.parentElement?.closest("[aria-labelledby], section, figure, .panel") ?? null;
  const before = [...(section?.querySelectorAll("h2, h3") ?? [])].filter(
    (each) => each.compareDocumentPosition(node) === Node.DOCUMENT_POSITION_FOLLOWING,
  );
  const around = section ? wordsOf(before.at(-1) ?? null) || labelOf(section) : "";
  const name = own || around || inside.split(":")[0] || fallback;
  const whole = own && around && !own.includes(around) ? `${around}: ${own}` : name;
  return whole.length > 90 ? `${whole.slice(0, 89)}…` : whole;
}

/** Things of one name told apart: by other words, or by a number.
 * @template {{name: string}} Thing
 * @param {Thing[]} things @param {(thing: Thing) => string} by
 * @returns {Thing[]} */
function told(things, by) {
  /** @type {Map<string, number>} */
  const many = new Map();
  for (const { name } of things) many.set(name, (many.get(name) ?? 0) + 1);
  /** @type {Map<string, number>} */
  const before = new Map();
  return things.map((thing) => {
    const longer = (many.get(thing.name) ?? 0) > 1 && by(thing) ? `${thing.name}: ${by(thing)}` : thing.name;
    const times = (before.get(longer) ?? 0) + 1;
    before.set(longer, times);
    return { ...thing, name: times > 1 ? `${longer} (${times})` : longer };
  });
}

/** A label's first part: what follows says how it is used. @param {Element} node */
function labelOf(node) {
  const label = node.getAttribute("aria-label");
  if (label) return label.split(node instanceof SVGElement ? /[:;] / : /; /)[0];
  const named = document.getElementById(node.getAttribute("aria-labelledby") ?? "");
  return wordsOf(named);
}

/** @param {Element | null} node */
function wordsOf(node) {
  return (node?.textContent ?? "").replace(/\s+/g, " ").trim();
}

/** A file's name without its ending. @param {string} name */
function fileStem(name) {
  const of = document.documentElement.dataset.page ?? "page";
  const number = /** @type {HTMLElement | null} */ (document.querySelector("[data-view='feature']"))?.dataset.feature;
  const words = [of, number ?? "", name].filter(Boolean).join("-");
  return words.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 70);
}

/** @param {string} name @param {string} text @param {string} kind */
function save(name, text, kind) {
  download(name, new Blob([text], { type: `${kind};charset=utf-8` }));
}

/** @param {string} name @param {Blob} blob */
function download(name, blob) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
