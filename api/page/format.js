/** Figures and times for people. Money stays the decimal string that it came as: no float touches it. */

const count = new Intl.NumberFormat("en");
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "narrow" });
const STEPS = [
  ["year", 31_536_000],
  ["month", 2_592_000],
  ["week", 604_800],
  ["day", 86_400],
  ["hour", 3_600],
  ["minute", 60],
];

/** "5 min ago"; "just now" under a minute. */
export function ago(time, now = Date.now()) {
  const seconds = Math.round((Date.parse(time) - now) / 1000);
  for (const [unit, size] of STEPS) {
    if (Math.abs(seconds) >= size) return relative.format(Math.trunc(seconds / size), unit);
  }
  return "just now";
}

/** A time of day and date in the reader's own zone. */
export const moment = (time) => new Date(time).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" });

/** "$0.00123": trailing zeros beyond cents are dropped, digits never. */
export function usd(amount) {
  const [whole, fraction = ""] = String(amount).split(".");
  const digits = fraction.replace(/0+$/, "").padEnd(2, "0");
  return `$${whole}.${digits}`;
}

/** "1,204 in · 310 out". Tokens read from or written to a cache are input too. */
export function tokens(usage) {
  const input = (usage.input_tokens ?? 0) + (usage.cache_read_tokens ?? 0) + (usage.cache_write_tokens ?? 0);
  return `${count.format(input)} in · ${count.format(usage.output_tokens ?? 0)} out`;
}

/** Each class of token by name, for whoever wants to know. */
export function tokenDetails(usage) {
  return [
    [usage.input_tokens, "input"],
    [usage.cache_read_tokens, "read from cache"],
    [usage.cache_write_tokens, "written to cache"],
    [usage.output_tokens, "output"],
    [usage.reasoning_tokens, "of it reasoning"],
  ]
    .filter(([number]) => number) // a correction's may be negative
    .map(([number, name]) => `${count.format(number)} ${name}`)
    .join(", ");
}

/** "1 token", "1,204 tokens". */
export const plural = (number, noun) => `${count.format(number)} ${noun}${number === 1 ? "" : "s"}`;
