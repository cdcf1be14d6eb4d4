// A variant of an experiment beside the control: each metric with its difference, the interval and the verdict.

import { el } from "./dom.js";
import { formatCount, formatMeasure, formatMinute, formatNumber, formatShare, METRICS, nameMetric } from "./format.js";
import { drawInterval } from "./interval_picture.js";

const LEAST_P = 0.001;
const DIRECTIONS = ["lower", "higher"];
const REFUSED = "no conclusion";

/** The heading of a variant and its metrics. `found`: the comparison. */
export function makeVariant(name, effects, found) {
  const size = `${formatCount(found.units[name] ?? 0)} beside ${formatCount(found.units[found.control] ?? 0)} of ${found.control}`;
  return [el("h3", {}, `${name} `, el("small", {}, size)),
    el("ul", { class: "effects" }, effects.map((each) => makeEffect(each, found.reason)))];
}

function makeEffect(row, reason) {
  const words = el("span", {}, el("b", {}, nameMetric(row.metric)), " ", makeVerdict(row));
  const picture = row.low === null ? null : drawInterval({ low: row.low, high: row.high, value: row.difference, limit: 0, name: "0" });
  const why = row.reason && row.reason !== reason ? ` No conclusion: ${row.reason}.` : "";
  return el("li", {}, words, picture, el("small", {}, describe(row), why));
}

/** The verdict as a word, and whether it is good. */
function makeVerdict({ metric, verdict, since }) {
  if (!DIRECTIONS.includes(verdict)) return el("span", {}, verdict);
  const effect = METRICS[metric].better === verdict ? "better" : "worse";
  return [el("span", { class: effect }, `${verdict}, ${effect}`), ` since ${formatMinute(since)}`];
}

function describe({ metric, control, value, difference, low, high, p, verdict }) {
  const show = (number) => formatMeasure(metric, number);
  const share = control && difference !== null ? `, ${formatShare(Math.abs(difference / control))} of it` : "";
  const interval = low === null ? "" : ` (${show(low)} to ${show(high)})`;
  const chance = verdict === REFUSED ? "" : `; p ${p < LEAST_P ? `below ${LEAST_P}` : formatNumber(Number(p.toFixed(3)))}`;
  return `${show(control)} → ${show(value)}; difference ${show(difference)}${interval}${share}${chance}.`;
}
