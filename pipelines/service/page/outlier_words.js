// An outlier in words: what it is beside its fences, and what these are made of.

import { formatMeasure, formatTimes, nameMetric, plural } from "./format.js";

export const isBelow = (row) => row.low_fence !== null && row.value < row.low_fence;

/** One line: `2,065 ms, above the fence of 722 ms`. */
export function describeShortly(row) {
  const fence = isBelow(row) ? row.low_fence : row.high_fence;
  return `${formatMeasure(row.value_column, row.value)}, ${isBelow(row) ? "below" : "above"} the fence of ${formatMeasure(row.value_column, fence)}`;
}

/** The whole explanation. */
export function explain(row) {
  const show = (value) => formatMeasure(row.value_column, value);
  const below = isBelow(row);
  const fence = below ? row.low_fence : row.high_fence;
  const distance = `${nameMetric(row.value_column)} was ${show(row.value)}: ${show(Math.abs(row.value - fence))} ${below ? "below the low" : "above the high"} fence of ${show(fence)}.`;
  const middle = `Of this agent's ${plural(row.baseline_n, "report")} in the hour before, the middle half lay between ${show(row.q1)} and ${show(row.q3)}`;
  const width = row.q3 - row.q1;
  if (row.baseline_state !== "ready" || !(width > 0)) {
    return `${distance} ${middle}: hardly any variation, so that the fences have a fixed distance.`;
  }
  const [factor, times] = [row.high_fence - row.q3, below ? row.q1 - row.value : row.value - row.q3].map((each) => formatTimes(each / width));
  return `${distance} ${middle}. A fence is ${factor} times that width away from it; this value is ${times} times away.`;
}
