// A picture of an interval: a bar with the value as a dot, beside a limit as a tick. Words beside it say the same.

import { svg } from "./dom.js";
import { makeScale } from "./plot.js";

const [WIDTH, HEIGHT, EDGE] = [220, 22, 8];

/** `ends`: further numbers that the axis reaches. */
export function drawInterval({ low, high, value, limit, ends = [] }) {
  const numbers = [low, high, value, limit, ...ends];
  const x = makeScale(numbers, EDGE, WIDTH - EDGE);
  const middle = HEIGHT / 2;
  return svg("svg", { class: "fences interval", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true" },
    svg("line", { class: "axis", x1: x(Math.min(...numbers)), x2: x(Math.max(...numbers)), y1: middle, y2: middle }),
    svg("rect", { class: "box", x: x(low), y: 7, width: Math.max(1.5, x(high) - x(low)), height: HEIGHT - 14, rx: 1 }),
    svg("line", { class: "fence", x1: x(limit), x2: x(limit), y1: 2, y2: HEIGHT - 2 }),
    svg("circle", { class: "value", cx: x(value), cy: middle, r: 4 }));
}
