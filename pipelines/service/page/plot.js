// Plots over time: a picture that is stretched to its box, with dots and names as HTML, which stay as they are.

import { el, svg } from "./dom.js";

export const [WIDE, TALL] = [640, 180];
export const [SIDE, EDGE] = [14, 8]; // inside of the box, so that dots at its ends are whole

/** A figure. `shapes` are SVG in WIDE x TALL, `marks` are HTML on top, `ends` the texts below. */
export function makePlot(label, shapes, marks, ends) {
  const picture = svg("svg", { viewBox: `0 0 ${WIDE} ${TALL}`, preserveAspectRatio: "none", "aria-hidden": "true" }, shapes);
  return el("figure", { class: "over-time", role: "img", "aria-label": label },
    el("div", { class: "plot" }, picture, marks), el("figcaption", {}, ends.map((each) => el("span", {}, each))));
}

/** A dot as HTML: the picture is stretched to its box, and would make ellipses of circles. */
export const makeDot = (name, x, y) => place(el("i", { class: name }), x, y);

/** A text at a height, from a place on. */
export const makeLineName = (text, y, x = 0) => place(el("span", { class: "line-name" }, text), x, y);

export const makeLine = (name, x1, x2, y) => svg("line", { class: name, x1, x2, y1: y, y2: y });

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
