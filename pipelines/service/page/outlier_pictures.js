// Pictures of an outlier: the value beside its fences and quartiles, and the hour of the agent around it.

import { el, svg } from "./dom.js";
import { formatMeasure, formatTime } from "./format.js";

const [WIDTH, HEIGHT] = [220, 22];
const [WIDE, TALL] = [640, 180];
const EDGE = 8;
const SIDE = 14; // left and right of the hour, so that dots at the ends are whole

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
 * its fences. `reports`: rows of agent-over-time, in any order.
 */
export function drawHour(row, reports) {
  const column = row.value_column;
  const times = reports.map((each) => new Date(each.recorded_at).getTime());
  const at = new Date(row.recorded_at).getTime();
  const first = Math.min(at, ...times);
  const x = makeScale([first, at], SIDE, WIDE - SIDE);
  const y = makeScale([row.value, row.low_fence, row.high_fence, ...reports.map((each) => each[column])], TALL - EDGE, EDGE);
  const lines = [["high fence", row.high_fence], ["low fence", row.low_fence]].filter(([, value]) => value !== null);
  const picture = svg("svg", { viewBox: `0 0 ${WIDE} ${TALL}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "box", x: 0, width: WIDE, y: y(row.q3), height: Math.max(1, y(row.q1) - y(row.q3)) }),
    lines.map(([, value]) => svg("line", { class: "fence", x1: 0, x2: WIDE, y1: y(value), y2: y(value) })));
  const dots = reports.map((each, place) => makeDot("dot", x(times[place]), y(each[column])));
  const label = `${reports.length} reports of the agent in the hour before, between ${formatTime(first)} and ${formatTime(at)}`;
  const names = lines.map(([name, value]) => place(el("span", { class: "line-name" }, `${name} ${formatMeasure(column, value)}`), 0, y(value)));
  return el("figure", { class: "hour", role: "img", "aria-label": label },
    el("div", { class: "plot" }, picture, dots, makeDot("dot value", x(at), y(row.value)), names),
    el("figcaption", {}, el("span", {}, formatTime(first)), el("span", {}, `${reports.length} reports`), el("span", {}, formatTime(at))));
}

/** A dot as HTML: the picture is stretched to its box, and would make ellipses of circles. */
const makeDot = (name, x, y) => place(el("i", { class: name }), x, y);

function place(element, x, y) {
  element.style.left = `${(100 * x) / WIDE}%`;
  element.style.top = `${(100 * y) / TALL}%`;
  return element;
}

/** A linear scale from the range of some numbers to a range of pixels. */
export function makeScale(numbers, from, to) {
  const known = numbers.filter((each) => each !== null && each !== undefined);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  return (value) => (high > low ? from + ((value - low) / (high - low)) * (to - from) : (from + to) / 2);
}
