/** Spans of time for people. */

/** "0.204 s", "12.4 s", "3 min 20 s". @param {number} value seconds */
export function span(value) {
  if (value < 10) return `${value.toFixed(3)} s`;
  if (value < 60) return `${value.toFixed(1)} s`;
  const whole = Math.round(value);
  const parts = [
    [Math.floor(whole / 3600), "h"],
    [Math.floor((whole % 3600) / 60), "min"],
    [whole % 60, "s"],
  ];
  return parts
    .filter(([amount]) => amount > 0)
    .slice(0, 2)
    .map(([amount, unit]) => `${amount} ${unit}`)
    .join(" ");
}

/** The span between two times of the API. */
export const seconds = (from, to) => span((Date.parse(to) - Date.parse(from)) / 1000);
