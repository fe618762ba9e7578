// The number formats by the names of app/web/numbers.py, for tables of [name, arguments, …].
//
// As a program it reads such a table as JSON and writes what each row gives, as JSON.

import { text } from "node:stream/consumers";

import * as numbers from "../../app/web/js/numbers.js";

/** @typedef {"NaN" | "Infinity" | "-Infinity"} NotJson what JSON has no number for */

/** @type {Record<string, (...values: any[]) => string>} */
const FORMATS = { ...numbers, one_in: numbers.oneIn };

/**
 * @param {string} name
 * @param {(number | NotJson | null)[]} values
 */
export function format(name, values) {
  return FORMATS[name](...values.map((value) => (typeof value === "string" ? +value : value)));
}

if (import.meta.main) {
  const rows = JSON.parse(await text(process.stdin));
  const written = rows.map((/** @type {[string, (number | null)[]]} */ row) => format(...row));
  process.stdout.write(JSON.stringify(written));
}
