// @ts-check
/* What a person chose last, kept in the browser.

   In a frame of another site, or where a person forbids it, localStorage throws when it is touched,
   and a full one throws when it is written. A choice then lasts as long as the page does. */

const PREFIX = "jumpscope-";

/** @type {Map<string, string | null>} */
const unsaved = new Map();

/**
 * What was remembered under `key`, or null.
 * @param {string} key
 * @returns {string | null}
 */
export function recall(key) {
  const value = unsaved.get(key);
  if (value !== undefined) return value;
  try {
    return localStorage.getItem(PREFIX + key);
  } catch {
    return null;
  }
}

/**
 * Keep `value` under `key`; null forgets what was there.
 * @param {string} key
 * @param {string | null} value
 */
export function remember(key, value) {
  try {
    if (value === null) localStorage.removeItem(PREFIX + key);
    else localStorage.setItem(PREFIX + key, value);
    unsaved.delete(key);
  } catch {
    unsaved.set(key, value);
  }
}
