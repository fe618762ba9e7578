// @ts-check
/* Tables to take away: those in an endpoint's answer, exact, and those drawn on the page; as CSV, as
   JSON, and as a cell of Python that makes them again through the endpoint. */

/**
 * @typedef {object} Table
 * @property {string} name
 * @property {string[]} columns
 * @property {unknown[][]} rows
 * @property {string[]} [path] where an answer has its rows
 * @property {"list" | "inner" | "parallel" | "histogram"} [kind] how it was made of what is there
 * @property {string} [inner] the list within each row whose items are its rows
 */

/* Of an answer */

/** @param {unknown} value @returns {value is Record<string, unknown>} */
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/** @param {unknown} value */
const isPlain = (value) => typeof value !== "object" || value === null;

/**
 * The tables of an answer: each list of objects, also those within the objects of one, histograms,
 * and lists of values of one length side by side.
 * @param {unknown} answer
 * @param {string[]} [path]
 * @returns {Table[]}
 */
export function tablesOf(answer, path = []) {
  if (!isObject(answer)) return [];
  const { edges, counts } = answer;
  if (Array.isArray(edges) && Array.isArray(counts) && edges.length === counts.length + 1) {
    const rows = counts.map((count, i) => [edges[i], edges[i + 1], count]);
    return [{ name: path.join("."), columns: ["low", "high", "count"], rows, path, kind: "histogram" }];
  }
  /** @type {[string, unknown[]][]} */
  const lists = Object.entries(answer).flatMap(([name, value]) =>
    Array.isArray(value) && value.length ? [[name, value]] : [],
  );
  const tables = lists
    .filter(([, rows]) => rows.every(isObject))
    .flatMap(([name, rows]) => {
      const objects = /** @type {Record<string, unknown>[]} */ (rows);
      return [listed([...path, name], objects), ...within([...path, name], objects)];
    });
  const inside = Object.entries(answer)
    .filter(([, value]) => isObject(value))
    .flatMap(([name, value]) => tablesOf(value, [...path, name]));
  return [...tables, ...parallel(lists, path), ...inside];
}

/** A list of objects as one table, lists within them as JSON. @param {string} name
 * @param {Record<string, unknown>[]} list @returns {Table} */
export function rowsTable(name, list) {
  return { ...tabled(list.map((each) => flattened(each))), name };
}

/** @param {string[]} path @param {Record<string, unknown>[]} list @returns {Table} */
function listed(path, list) {
  const inner = innerLists(list);
  const flat = list.map((each) => flattened(without(each, inner)));
  return { ...tabled(flat), name: path.join("."), path, kind: "list" };
}

/** Rows within the rows of a list, each with what its own row says. @param {string[]} path
 * @param {Record<string, unknown>[]} list @returns {Table[]} */
function within(path, list) {
  const inner = innerLists(list);
  const outer = list.map((each) => flattened(without(each, inner), `${path.at(-1)}.`));
  return inner.map((name) => {
    const rows = list.flatMap((each, i) =>
      /** @type {Record<string, unknown>[]} */ (each[name]).map((row) => ({ ...outer[i], ...flattened(row) })),
    );
    return { ...tabled(rows), name: [...path, name].join("."), path, inner: name, kind: "inner" };
  });
}

/** Names under which every object of a list has a list of objects, some of them not empty.
 * @param {Record<string, unknown>[]} list */
function innerLists(list) {
  return Object.keys(list[0]).filter(
    (name) =>
      list.every((each) => Array.isArray(each[name]) && each[name].every(isObject)) &&
      list.some((each) => /** @type {unknown[]} */ (each[name]).length),
  );
}

/** @param {Record<string, unknown>} row @param {string[]} names */
function without(row, names) {
  return Object.fromEntries(Object.entries(row).filter(([name]) => !names.includes(name)));
}

/** @param {Record<string, unknown>[]} flat */
function tabled(flat) {
  const columns = [...new Set(flat.flatMap((each) => Object.keys(each)))];
  return { columns, rows: flat.map((each) => columns.map((column) => each[column] ?? null)) };
}

/** Lists of plain values that have one length. @param {[string, unknown[]][]} lists
 * @param {string[]} path @returns {Table[]} */
function parallel(lists, path) {
  /** @type {Map<number, [string, unknown[]][]>} */
  const byLength = new Map();
  for (const [name, values] of lists) {
    if (!values.every(isPlain)) continue;
    byLength.set(values.length, [...(byLength.get(values.length) ?? []), [name, values]]);
  }
  return [...byLength.values()].map((columns) => {
    const names = columns.map(([name]) => name);
    return {
      name: [...path, names[0]].join("."),
      columns: names,
      rows: columns[0][1].map((_, i) => columns.map(([, values]) => values[i])),
      path,
      kind: "parallel",
    };
  });
}

/** Objects within a row as columns of their own, named with dots; lists as JSON.
 * @param {Record<string, unknown>} row @param {string} [before] @returns {Record<string, unknown>} */
function flattened(row, before = "") {
  return Object.fromEntries(
    Object.entries(row).flatMap(([name, value]) => {
      if (isObject(value)) return Object.entries(flattened(value, `${before}${name}.`));
      return [[before + name, Array.isArray(value) ? JSON.stringify(value) : value]];
    }),
  );
}

/* Of the page */

const UNREAD = ".vh, .mini, [aria-hidden='true'], button:not(.term), input, select, svg";

/** What a cell says; a number without the signs that are for the eye. @param {Element} cell */
function said(cell) {
  const exact = /** @type {HTMLElement} */ (cell).dataset.value;
  if (exact !== undefined) return plain(exact);
  const copy = /** @type {Element} */ (cell.cloneNode(true));
  for (const each of copy.querySelectorAll(UNREAD)) each.remove();
  return plain((copy.textContent ?? "").replaceAll("\u00a0", " ").replace(/\s+/g, " ").trim());
}

/**
 * A written number as a number: 1,116 and −0.05, 38 % as 0.38, #12 as 12. All else stays text.
 * @param {string} text
 * @returns {string | number}
 */
export function plain(text) {
  const bare = text.replace("\u2212", "-").replace(/^#(?=\d+$)/, "");
  const match = /^([+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[+-]?\d+)?)( ?%)?$/i.exec(bare);
  if (!match || (/^[+-]?0\d/.test(match[1]) && !match[2])) return text;
  const value = Number(match[1].replaceAll(",", ""));
  return match[2] ? Number((value / 100).toPrecision(12)) : value;
}

/**
 * A table of the page as it is shown; columns without words, of bars and boxes, are left out.
 * @param {HTMLTableElement | HTMLDListElement} node
 * @param {string} name
 * @returns {Table}
 */
export function tableOf(node, name) {
  if (node instanceof HTMLTableElement) {
    const heads = [...(node.tHead?.rows[0]?.cells ?? [])].map((cell) => String(said(cell)));
    const bodies = [...node.tBodies].flatMap((body) => [...body.rows]);
    const rows = bodies.map((row) => [...row.cells].map(said));
    const width = Math.max(heads.length, ...rows.map((row) => row.length));
    const used = Array.from({ length: width }, (_, i) => i).filter(
      (i) => heads[i] || rows.some((row) => row[i] !== undefined && row[i] !== ""),
    );
    const columns = used.map((i) => heads[i] || `column ${i + 1}`);
    return { name, columns, rows: rows.map((row) => used.map((i) => row[i] ?? "")) };
  }
  const rows = [...node.querySelectorAll("dt")].map((dt) => [
    String(said(dt)),
    dt.parentElement?.querySelector("dd") ? said(/** @type {Element} */ (dt.parentElement.querySelector("dd"))) : "",
  ]);
  return { name, columns: ["name", "value"], rows };
}

/* Written */

/* What a spreadsheet takes for a formula and computes, where a text starts with it. */
const FORMULA = /^[=+\-@\t\r]/;

/**
 * A table as CSV. A text that a spreadsheet would compute has an apostrophe before it, since texts
 * come from models, corpora and people; numbers are left alone.
 * @param {Table} table
 */
export function csvOf({ columns, rows }) {
  /** @param {unknown} value */
  const field = (value) => {
    const bare = value === null || value === undefined ? "" : String(value);
    const text = typeof value === "string" && FORMULA.test(bare) ? `'${bare}` : bare;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [columns, ...rows].map((row) => `${row.map(field).join(",")}\r\n`).join("");
}

/** A list of objects, one a row. @param {Table} table */
export function jsonOf({ columns, rows }) {
  const named = rows.map((row) => Object.fromEntries(columns.map((column, i) => [column, row[i]])));
  return `${JSON.stringify(named, null, 1)}\n`;
}

/** A value as Python writes it. @param {unknown} value @returns {string} */
export function literal(value) {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (isObject(value)) {
    const items = Object.entries(value).map(([name, each]) => `${literal(name)}: ${literal(each)}`);
    return `{${items.join(", ")}}`;
  }
  return JSON.stringify(value);
}

/**
 * A cell that asks the endpoint and makes the answer's tables; `paged` names the rows of one that
 * answers page by page, all of which are asked for.
 * @param {string} here the app's address
 * @param {{endpoint: string, asked: Record<string, unknown>, paged?: string}} question
 * @param {Table[]} tables
 */
export function cellOf(here, { endpoint, asked, paged }, tables) {
  const given = Object.entries(asked).filter(([, value]) => value !== null && value !== undefined);
  const named = given.map(([name, value]) => `${name}=${literal(value)}`);
  const call = [...named, ...(paged ? ["offset=len(rows)"] : []), `api_name=${literal(`/${endpoint}`)}`];
  /** @param {string} indent */
  const asking = (indent) =>
    `${indent}answer = client.predict(\n${call.map((each) => `${indent}    ${each},\n`).join("")}${indent})\n`;
  const head = [
    "import pandas\nfrom gradio_client import Client\n\n",
    `client = Client(${literal(here)}, verbose=False)\n`,
  ];
  if (paged) {
    const rows = `answer[${literal(paged)}]`;
    return [
      ...head,
      "rows, answer = [], None\n",
      `while answer is None or (len(rows) < answer["total"] and ${rows}):\n`,
      asking("    "),
      `    rows += ${rows}\n`,
      "pandas.json_normalize(rows)\n",
    ].join("");
  }
  const made = tables.map((table) => {
    const name = `${table.name.replace(/\W+/g, "_").replace(/^(?=\d)/, "_") || "rows"}_table`;
    return { name, line: `${name} = ${frameOf(table)}\n` };
  });
  const last = made.length ? `${made[0].name}\n` : "answer\n";
  return [...head, asking(""), ...made.map(({ line }) => line), last].join("");
}

/** What makes a table of an answer in Python. @param {Table} table */
function frameOf({ kind, inner, columns, path = [] }) {
  const at = `answer${path.map((step) => `[${literal(step)}]`).join("")}`;
  if (kind === "histogram") {
    const [edges, counts] = ["edges", "counts"].map((name) => `${at}[${literal(name)}]`);
    return `pandas.DataFrame({"low": ${edges}[:-1], "high": ${edges}[1:], "count": ${counts}})`;
  }
  if (kind === "parallel") return `pandas.DataFrame({name: ${at}[name] for name in ${literal(columns)}})`;
  if (kind !== "inner") return `pandas.json_normalize(${at})`;
  const before = `${path.at(-1)}.`;
  const outer = columns.filter((name) => name.startsWith(before)).map((name) => name.slice(before.length));
  const meta = outer.filter((name) => !name.includes("."));
  return `pandas.json_normalize(${at}, ${literal(inner)}, meta=${literal(meta)}, meta_prefix=${literal(before)})`;
}
