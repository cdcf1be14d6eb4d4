// A change of level or a slope in words, with its picture.

import { el } from "./dom.js";
import { formatDate, formatMeasure, formatNumber, formatShare, formatTime, METRICS, nameMetric, shortenId } from "./format.js";
import { drawInterval } from "./interval_picture.js";
import { makeErrorLine } from "./notices.js";
import { drawChange } from "./trend_pictures.js";

const UPWARDS = ["raised", "rising"];

/** A change; its minutes are asked for when it is opened. */
export function makeChange(row) {
  const when = [el("time", { datetime: row.changed_at }, formatTime(row.changed_at).slice(0, 5)), ` on ${formatDate(row.changed_at)}`];
  const words = el("span", {}, nameSeries(row), ` ${row.verdict} by ${formatAmount(row.metric, Math.abs(row.change))}${describeLevels(row)}`,
    el("small", {}, `${nameEffect(row)} since `, when, `; z ${formatNumber(row.z)}, above ${formatNumber(row.threshold)}`));
  const picture = el("div");
  const problem = makeErrorLine();
  const details = el("details", {}, el("summary", {}, makeSign(row), words), picture, problem.line);
  details.addEventListener("toggle", () => {
    if (!details.open || picture.children.length) return;
    drawChange(row).then((drawn) => picture.replaceChildren(...drawn), problem.show);
  });
  return el("li", {}, details);
}

/** A slope, with its interval beside 0. */
export function makeSlope(row) {
  const [low, high] = [row.slope_low, row.slope_high].map((each) => formatAmount(row.metric, each));
  return el("li", {}, makeSign(row), el("span", {}, nameSeries(row), ` ${row.verdict} by ${formatAmount(row.metric, Math.abs(row.slope))} an hour`,
    el("small", {}, `${nameEffect(row)}; 95 % interval ${low} to ${high}`),
    drawInterval({ low: row.slope_low, high: row.slope_high, value: row.slope, limit: 0, name: "0" })));
}

const isUpwards = (row) => UPWARDS.includes(row.verdict);
const isBetter = (row) => isUpwards(row) === (METRICS[row.metric].better === "higher");
const nameEffect = (row) => (isBetter(row) ? "better" : "worse");
const makeSign = (row) => el("span", { class: `sign ${nameEffect(row)}`, "aria-hidden": "true" }, isUpwards(row) ? "▲" : "▼");
const formatAmount = (metric, amount) => (METRICS[metric].isRelative ? formatShare(amount) : formatNumber(amount));

/** `Latency of agent 0a1b2c3d…`. */
function nameSeries({ metric, level, agent_id, target_agent_type }) {
  const names = { agent: () => `agent ${shortenId(agent_id)}`, agent_type: () => `all agents of the type ${target_agent_type}`, fleet: () => "all agents" };
  return [el("b", {}, nameMetric(metric)), ` of ${names[level]()}`];
}

/** The levels, only where they are the metric's own. */
const describeLevels = (row) => (row.level === "agent" ? `, from ${formatMeasure(row.metric, row.before)} to ${formatMeasure(row.metric, row.after)}` : "");
