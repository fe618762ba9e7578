// @ts-check
/* What an answer about a prediction says: orders of its effects, arms as probabilities, ticks in an
   address. Nothing here draws. */

/** @typedef {{id: number, text: string, bytes?: string}} NextToken */
/**
 * @typedef {{position: number, feature: number, activation: number, kl: number | null,
 *   dlogp: number | null, estimate: number | null, exact: boolean, changes: number[] | null,
 *   becomes: (NextToken & {p: number}) | null, signature: string, label?: string | null, frequency: number | null,
 *   max_act: number | null, share: number | null, lift: number | null}} Effect
 */
/**
 * @typedef {{pairs: {position: number, feature: number}[], kl: number, dlogp: number,
 *   changes: number[], becomes: NextToken & {p: number}, sum_kl: number, sum_dlogp: number,
 *   beyond_kl: number, beyond_dlogp: number}} Joint
 */
/**
 * @typedef {{target: NextToken & {logp: number}, kl_spliced: number,
 *   base: (NextToken & {p: number, p_spliced: number})[], effects: Effect[],
 *   effects_total: number, rank_correlation: number | null, joint: Joint | null,
 *   uniformity: number | null, definitions: Record<string, string>}} Prediction
 * as the endpoint effects answers it; `changes` are those of `base`, nats
 */
/** @typedef {"kl" | "change" | "estimate" | "activation" | "share" | "lift"} Order */
/** @typedef {[number, number]} Tick number of a token, and of a feature on it */

/** @type {Record<Order, (effect: Effect) => number>} */
const SIZES = {
  kl: ({ kl }) => kl ?? -1,
  change: ({ dlogp }) => (dlogp === null ? -1 : Math.abs(dlogp)),
  estimate: ({ estimate }) => Math.abs(estimate ?? 0),
  activation: ({ activation }) => activation,
  share: ({ share }) => share ?? -1,
  lift: ({ lift }) => lift ?? -1,
};

const PAIR = /^\d{1,9}\.\d{1,9}$/;

/** @type {Order[]} */
export const BY = /** @type {Order[]} */ (Object.keys(SIZES));

/**
 * The effects of features that fire on at most a share of tokens, the largest first, and how many
 * are left out; what is equal stays in the answer's order, by KL.
 * @param {Effect[]} effects
 * @param {Order} order
 * @param {number} hide 1 leaves none out
 */
export function ordered(effects, order, hide) {
  const size = SIZES[order];
  const rows = effects.filter(({ frequency }) => hide >= 1 || (frequency ?? 0) <= hide);
  return { rows: rows.sort((a, b) => size(b) - size(a)), hidden: effects.length - rows.length };
}

/**
 * Probabilities of the next tokens in an arm.
 * @param {{p: number}[]} base
 * @param {number[]} changes of log-probabilities, nats
 */
export const inArm = (base, changes) => base.map(({ p }, i) => Math.min(1, p * Math.exp(changes[i])));

/**
 * What is chosen of a prediction, as an address has it; of another token's prediction it is nothing.
 * @typedef {{target: number | null, order: Order, earlier: boolean, ticks: Tick[]}} Choice the id of
 * the next token that is followed, and which features are set to 0 together
 */

/**
 * Values of an address: next=12.439 follows id 439 after token 12, off=12-11.30-12.2851 sets #30 on
 * token 11 and #2851 on token 12 to 0.
 * @param {Choice} choice
 * @param {number} token
 * @returns {Record<string, string>}
 */
export const inAddress = ({ target, order, earlier, ticks }, token) => ({
  next: target === null ? "" : `${token}.${target}`,
  by: order === "kl" ? "" : order,
  earlier: earlier ? "1" : "",
  off: ticks.length ? [token, ...ticks.map((pair) => pair.join("."))].join("-") : "",
});

/**
 * The choice that an address has for a token; what cannot be read is left out.
 * @param {(name: string) => string} get
 * @param {number} token
 * @returns {Choice}
 */
export function ofAddress(get, token) {
  const [of, ...pairs] = get("off").split("-");
  const [after, target] = PAIR.test(get("next")) ? get("next").split(".").map(Number) : [-1, 0];
  const earlier = get("earlier") === "1";
  const order = BY.find((each) => each === get("by") && (earlier || each !== "estimate")) ?? "kl";
  const ticks = of === String(token) ? pairs.filter((pair) => PAIR.test(pair)) : [];
  return {
    target: after === token ? target : null,
    order,
    earlier,
    ticks: ticks.map((pair) => /** @type {Tick} */ (pair.split(".").map(Number))),
  };
}

/** @param {Tick[]} ticks @param {Tick} pair */
export const isTicked = (ticks, [position, feature]) =>
  ticks.some(([token, number]) => token === position && number === feature);

/** The ticks with this one changed. @param {Tick[]} ticks @param {Tick} pair @returns {Tick[]} */
export const toggled = (ticks, [position, feature]) =>
  isTicked(ticks, [position, feature])
    ? ticks.filter(([token, number]) => token !== position || number !== feature)
    : [...ticks, [position, feature]];
