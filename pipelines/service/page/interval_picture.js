// A picture of an interval: a bar with the value as a dot, beside a limit as a tick. Words beside it say the same.

import { svg } from "./dom.js";
import { makeScale } from "./plot.js";

const [WIDTH, HEIGHT, NAME_HEIGHT, EDGE] = [220, 22, 13, 8];
const LETTER = 5; // about half of the width of a character

/** `ends`: further numbers that the axis reaches. `name`: the limit as a text. */
export function drawInterval({ low, high, value, limit, name, ends = [] }) {
  const numbers = [low, high, value, limit, ...ends];
  const x = makeScale(numbers, EDGE, WIDTH - EDGE);
  const middle = HEIGHT / 2;
  const side = LETTER * name.length;
  return svg("svg", { class: "fences interval", viewBox: `0 0 ${WIDTH} ${HEIGHT + NAME_HEIGHT}`, "aria-hidden": "true" },
    svg("line", { class: "axis", x1: x(Math.min(...numbers)), x2: x(Math.max(...numbers)), y1: middle, y2: middle }),
    svg("rect", { class: "box", x: x(low), y: 7, width: Math.max(1.5, x(high) - x(low)), height: HEIGHT - 14, rx: 1 }),
    svg("line", { class: "fence", x1: x(limit), x2: x(limit), y1: 2, y2: HEIGHT - 2 }),
    svg("circle", { class: "value", cx: x(value), cy: middle, r: 4 }),
    svg("text", { x: Math.min(Math.max(x(limit), side), WIDTH - side), y: HEIGHT + NAME_HEIGHT - 3, "text-anchor": "middle" }, name));
}
