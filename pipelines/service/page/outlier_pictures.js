// Pictures of an outlier: the value beside its fences and quartiles, and the hour of the agent around it.

import { svg } from "./dom.js";
import { formatMeasure, formatTime, plural } from "./format.js";
import { EDGE, makeDot, makeLine, makeLineName, makePlot, makeScale, SIDE, TALL, WIDE } from "./plot.js";

const [WIDTH, HEIGHT] = [220, 22];

/** A line of numbers: quartiles as a box, fences as ticks, the value as a dot. The words beside it say the same. */
export function drawFences(row) {
  const x = makeScale([row.value, row.low_fence, row.high_fence], EDGE, WIDTH - EDGE);
  const middle = HEIGHT / 2;
  return svg("svg", { class: "fences", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true" },
    svg("line", { class: "axis", x1: x(row.low_fence), x2: x(row.high_fence), y1: middle, y2: middle }),
    [row.low_fence, row.high_fence].map((fence) => svg("line", { class: "fence", x1: x(fence), x2: x(fence), y1: 5, y2: HEIGHT - 5 })),
    svg("rect", { class: "box", x: x(row.q1), y: 7, width: Math.max(1.5, x(row.q3) - x(row.q1)), height: HEIGHT - 14, rx: 1 }),
    svg("circle", { class: "value", cx: x(row.value), cy: middle, r: 4 }));
}

/**
 * The reports of the agent in the hour before and the value, over the band of its quartiles and the lines of
 * its fences. `reports`: rows of agent-over-time, in any order. `isCut`: they are only the newest ones.
 */
export function drawHour(row, { rows: reports, isCut }) {
  const column = row.value_column;
  const times = reports.map((each) => new Date(each.recorded_at).getTime());
  const at = new Date(row.recorded_at).getTime();
  const first = Math.min(at, ...times);
  const x = makeScale([first, at], SIDE, WIDE - SIDE);
  const y = makeScale([row.value, row.low_fence, row.high_fence, ...reports.map((each) => each[column])], TALL - EDGE, EDGE);
  const lines = [["high fence", row.high_fence], ["low fence", row.low_fence]].filter(([, value]) => value !== null);
  const count = `${isCut ? "the newest " : ""}${plural(reports.length, "report")}`;
  const shapes = [
    svg("rect", { class: "box", x: 0, width: WIDE, y: y(row.q3), height: Math.max(1, y(row.q1) - y(row.q3)) }),
    ...lines.map(([, value]) => makeLine("fence", 0, WIDE, y(value))),
  ];
  const marks = [
    ...reports.map((each, place) => makeDot("dot", x(times[place]), y(each[column]))),
    makeDot("dot value", x(at), y(row.value)),
    ...lines.map(([name, value]) => makeLineName(`${name} ${formatMeasure(column, value)}`, y(value))),
  ];
  const label = `${count} of the agent in the hour before, between ${formatTime(first)} and ${formatTime(at)}`;
  return makePlot(label, shapes, marks, [formatTime(first), count, formatTime(at)]);
}
