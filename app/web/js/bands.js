// @ts-check
/* The strengths of features that a ladder found usable, kept in the browser.

   A band is of a feature's largest activation, which tells SAEs of the same name apart, and of what
   is done with the feature. */

import { recall, remember } from "./store.js";

/** @typedef {{low: number, high: number, best: number, size: number}} Band */

/** @param {string} sae @param {number | string} feature @param {string} mode */
const key = (sae, feature, mode) => `band/${sae}/${feature}/${mode}`;

/**
 * The usable strengths of a feature, null where none are known.
 * @param {string} sae
 * @param {number | string} feature
 * @param {string} mode
 * @param {number | null | undefined} largest the feature's largest activation
 * @returns {Band | null}
 */
export function knownBand(sae, feature, mode, largest) {
  const written = recall(key(sae, feature, mode));
  if (!written || !largest) return null;
  try {
    const band = JSON.parse(written);
    const right = ["low", "high", "best", "size"].every((name) => Number.isFinite(band[name]));
    const own = Math.abs(band.largest - largest) <= 1e-6 * largest;
    return right && own ? band : null;
  } catch {
    return null; // written by something else
  }
}

/**
 * Keep a band; null forgets what was there.
 * @param {string} sae
 * @param {number | string} feature
 * @param {string} mode
 * @param {number} largest
 * @param {Band | null} band
 */
export function keepBand(sae, feature, mode, largest, band) {
  remember(key(sae, feature, mode), band && JSON.stringify({ ...band, largest }));
}

/** A band in words: "usable from 0.5 to 1.25". @param {Band} band */
export const bandWords = ({ low, high }) =>
  low === high ? `usable at ${low}` : `usable from ${low} to ${high}`;
