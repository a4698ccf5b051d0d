/** How much of a budget is used, and when that is worth a warning: the same for all who show it. */

const NEAR = 70; // per cent
const CLOSE = 90;

/**
 * What is used of a limit, in per cent of it and never more than all: lengths of bars. Amounts are written from the strings.
 * @param {string} limit
 * @param {{spent_usd: string, held_usd: string}} period
 * @returns {{spent: number, used: number, level: "plain"|"near"|"close"}} `used` is spent and held
 */
export function shareOf(limit, { spent_usd: spent, held_usd: held }) {
  const most = Number(limit);
  const of = (amount) => (most > 0 ? Math.min(100, (amount / most) * 100) : 100);
  const used = of(Number(spent) + Number(held));
  return { spent: of(Number(spent)), used, level: used >= CLOSE ? "close" : used >= NEAR ? "near" : "plain" };
}
