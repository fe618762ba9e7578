// @ts-check
/* How numbers are written on the pages: few digits, grouped, the same everywhere.

   app/web/numbers.py has the same functions and writes every value alike. Both round the exact
   value of the number, and a tie away from zero: 0.125 has two decimals as 0.13. toFixed and
   toExponential are defined that way; Intl.NumberFormat is not (it rounds 1.005, which is a little
   less, up). What rounds to zero has no minus sign, and what is undefined, infinite or missing is
   a dash. */

const NO_BREAK = "\u00a0";
const MINUS = "\u2212";
const UNDEFINED = "\u2013";

/* No number is written with more decimals, however few of its digits that leaves. */
const MOST_DECIMALS = 8;

/** @typedef {number | null | undefined} Value */

/**
 * `value` with `digits` significant digits and no exponent: 14.2, 0.831, 1,240, −0.7.
 *
 * The whole part is never shortened, and what rounds to zero at eight decimals is 0.
 * @param {Value} value
 * @param {number} [digits]
 * @returns {string}
 */
export function number(value, digits = 3) {
  if (!finite(value)) return UNDEFINED;
  const decimals = Math.max(0, digits - 1 - exponentOf(value, digits));
  const text = grouped(value, Math.min(decimals, MOST_DECIMALS));
  return hasSize(text) ? minus(value, text) + text : "0";
}

/**
 * `value` with that many decimals, for columns that are compared: 0.952, −0.10.
 * @param {Value} value
 * @param {number} decimals
 * @returns {string}
 */
export function fixed(value, decimals) {
  if (!finite(value)) return UNDEFINED;
  const text = grouped(value, decimals);
  return minus(value, text) + text;
}

/**
 * `value` with its sign always shown, zero's as +: +0.23, −0.05, +0.00.
 * @param {Value} value
 * @param {number} [decimals]
 * @returns {string}
 */
export function signed(value, decimals = 2) {
  if (!finite(value)) return UNDEFINED;
  const text = grouped(value, decimals);
  return (minus(value, text) || "+") + text;
}

/**
 * A share as a percentage with two significant digits: 38 %, 5.2 %, 0.0034 %.
 * @param {Value} share
 * @returns {string}
 */
export function percent(share) {
  const text = number(finite(share) ? 100 * share : null, 2);
  return text === UNDEFINED ? text : `${text}${NO_BREAK}%`;
}

/**
 * A count, a large one in words that fit a line: 950, 4,096, 3.1 M, 2.61 B.
 * @param {Value} value
 * @returns {string}
 */
export function count(value) {
  if (!finite(value)) return UNDEFINED;
  if (Math.abs(value) >= 999_999.5) {
    return inUnits(value, [
      [9, "B"],
      [6, "M"],
    ]);
  }
  return fixed(value, 0);
}

/**
 * A share as odds of two significant digits: 1 in 1,600 tokens reads better than 0.06 %.
 *
 * A share is at least 0, which is "never", and at most 1; anything else is undefined.
 * @param {Value} share
 * @returns {string}
 */
export function oneIn(share) {
  if (!finite(share) || share < 0 || share > 1) return UNDEFINED;
  const odds = 1 / Math.abs(share);
  if (odds === Infinity) return "never";
  return `1 in ${grouped(exponentOf(odds, 2) > 1 ? rounded(odds, 2) : odds, 0)}`;
}

/**
 * A number of bytes in three significant digits: 1.2 GB, 340 MB, 0.5 kB.
 * @param {Value} size
 * @returns {string}
 */
export function gigabytes(size) {
  if (!finite(size)) return UNDEFINED;
  return inUnits(size, [
    [9, "GB"],
    [6, "MB"],
    [3, "kB"],
  ]);
}

/**
 * Three significant digits of `value`, less trailing zeros, in the largest unit that it fills.
 *
 * `units` are exponents of ten with their names, the largest first; the last takes what is less.
 * The choice is made after rounding: 999,999,999 is 1 B.
 * @param {number} value
 * @param {[number, string][]} units
 */
function inUnits(value, units) {
  const exponent = exponentOf(value, 3);
  const [power, unit] = units.find(([least]) => exponent >= least) ?? units[units.length - 1];
  const decimals = Math.min(Math.max(0, 2 - (exponent - power)), MOST_DECIMALS);
  const padded = grouped(rounded(value, 3) / 10 ** power, decimals);
  const text = decimals ? padded.replace(/\.?0+$/, "") : padded;
  return `${minus(value, text)}${text}${NO_BREAK}${unit}`;
}

/**
 * `value` rounded to `digits` significant digits.
 * @param {number} value
 * @param {number} digits
 */
function rounded(value, digits) {
  return Number(value.toExponential(digits - 1));
}

/**
 * That of ten in `value` once it is rounded to `digits` significant digits; 0 has 0.
 * @param {number} value
 * @param {number} digits
 */
function exponentOf(value, digits) {
  return Number(value.toExponential(digits - 1).split("e")[1]);
}

/**
 * The size of `value`, without its sign, and commas between thousands: 1,234.50.
 * @param {number} value
 * @param {number} decimals
 */
function grouped(value, decimals) {
  const size = Math.abs(value);
  // From 1e21 on toFixed has an exponent; numbers of that size are whole.
  const text = size < 1e21 ? size.toFixed(decimals) : BigInt(size) + (0).toFixed(decimals).slice(1);
  const [whole, ...fraction] = text.split(".");
  return [whole.replace(/\B(?=(?:\d{3})+$)/g, ","), ...fraction].join(".");
}

/**
 * The sign to write before `text`, which is the size of `value`.
 * @param {number} value
 * @param {string} text
 */
function minus(value, text) {
  return value < 0 && hasSize(text) ? MINUS : "";
}

/**
 * Whether there is a digit other than 0.
 * @param {string} text
 */
function hasSize(text) {
  return /[1-9]/.test(text);
}

/**
 * @param {Value} value
 * @returns {value is number}
 */
function finite(value) {
  return Number.isFinite(value);
}
