// The minutes around a change of level, with both levels, and the band of the newest slope.

import { askRows } from "./ask.js";
import { el, svg } from "./dom.js";
import { formatMeasure, formatMinute, METRICS, nameMetric, plural } from "./format.js";
import { makeEmpty } from "./notices.js";
import { EDGE, makeDot, makeLine, makeLineName, makePlot, makeScale, SIDE, TALL, WIDE } from "./plot.js";

const HOUR_MS = 3_600_000;
const HOURS = 3; // before and after: the two hours of a slope are within
const MOST = 1000;
// The query of a series' windows of a minute, and what names the series there.
const WINDOWS = {
  agent: ({ agent_id }) => ["aggregates", { agent_id }],
  agent_type: ({ target_agent_type }) => ["fleet", { agent_type: target_agent_type }],
  fleet: () => ["totals", {}],
};

/** The picture of a change: a figure and what it shows, or a text if there are no windows. */
export async function drawChange(row) {
  const at = new Date(row.changed_at).getTime();
  const span = { from: new Date(at - HOUR_MS * HOURS).toISOString(), to: new Date(at + HOUR_MS * HOURS).toISOString() };
  const [query, series] = WINDOWS[row.level](row);
  const [windows, slopes] = await Promise.all([
    askRows(query, { granularity: "1m", ...series, ...span }, MOST),
    askRows("trends", { kind: "slope", level: row.level, metric: row.metric, ...nameOf(row), ...span }, MOST),
  ]);
  const minutes = windows.rows.map((each) => ({ time: new Date(each.time_window_start).getTime(), value: each[METRICS[row.metric].window] }))
    .filter(({ value }) => value !== null);
  return minutes.length ? draw(row, at, minutes, slopes.rows) : [makeEmpty("The windows of these minutes are gone.")];
}

const nameOf = ({ agent_id, target_agent_type }) => ({ agent_id, agent_type: target_agent_type });

function draw(row, at, minutes, slopes) {
  const times = minutes.map(({ time }) => time);
  const [first, last] = [Math.min(...times), Math.max(...times, at)];
  const levels = row.level === "agent" ? [["before", row.before, first, at], ["after", row.after, at, last]] : [];
  const bands = slopes.map((each) => makeBand(each, at, minutes, METRICS[row.metric].isRelative)).filter(Boolean);
  const x = makeScale([first, last], SIDE, WIDE - SIDE);
  const y = makeScale([...minutes.map(({ value }) => value), ...levels.map(([, value]) => value)], TALL - EDGE, EDGE);
  const shapes = [
    ...bands.map((band) => svg("polygon", { class: "band", points: band.map(([time, value]) => `${x(time)},${y(value)}`).join(" ") })),
    svg("line", { class: "moment", x1: x(at), x2: x(at), y1: 0, y2: TALL }),
    ...levels.map(([, value, from, to]) => makeLine("level", x(from), x(to), y(value))),
  ];
  const marks = [
    ...minutes.map(({ time, value }) => makeDot("dot", x(time), y(value))),
    ...levels.map(([name, value, from]) => makeLineName(`${name} ${formatMeasure(row.metric, value)}`, y(value), x(from))),
  ];
  const label = `${nameMetric(row.metric)} of ${plural(minutes.length, "minute")} from ${formatMinute(first)} to ${formatMinute(last)}, `
    + `between ${[Math.min, Math.max].map((choose) => formatMeasure(row.metric, choose(...minutes.map(({ value }) => value)))).join(" and ")}`;
  const ends = [formatMinute(first), `changed ${formatMinute(at)}`, formatMinute(last)];
  return [makePlot(label, shapes, marks, ends), el("p", { class: "facts" }, describe(row, bands))];
}

/** The corners of what lies between both ends of a slope's interval, over the two hours that it is of; null if
 * the level changed within them. */
function makeBand(slope, at, minutes, isRelative) {
  const hour = HOUR_MS * Math.floor(new Date(slope.time_window_start).getTime() / HOUR_MS);
  const [from, middle, to] = [hour - 2 * HOUR_MS, hour - HOUR_MS, hour];
  const values = minutes.filter(({ time }) => time >= from && time < to).map(({ value }) => value);
  if (!values.length || (from < at && at < to)) return null;
  const mean = values.reduce((sum, each) => sum + each, 0) / values.length;
  const follow = (rise) => (isRelative ? mean * Math.exp(rise) : mean + rise); // in the hour to an end
  const { slope_low: low, slope_high: high } = slope;
  return [[from, follow(-low)], [middle, mean], [to, follow(high)], [to, follow(low)], [middle, mean], [from, follow(-high)]];
}

function describe(row, bands) {
  const band = bands.length ? " The band is the slope of two hours, with its 95 % interval." : "";
  if (row.level === "agent") return `Each dot is the mean of a minute; the lines are the medians before and after.${band}`;
  return `Each dot is the mean of a minute over all these agents. The change is measured from the usual level of each agent, `
    + `so it does not matter which of them reported.${band}`;
}
