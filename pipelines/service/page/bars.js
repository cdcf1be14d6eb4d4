// A chart of stacked bars, as one path for each series. It fills its box; texts are HTML around it.

import { el, put, svg } from "./dom.js";

const HEIGHT = 100;
const GAP = 0.22; // of a bar's width

/**
 * A chart. `draw(label, rows, ends)`: `rows` has an array of numbers for each bar, in the order of `series`
 * (names of CSS classes); `ends` are the texts below the first and the last bar.
 */
export function makeBars(series, format) {
  const paths = series.map((name) => svg("path", { class: name }));
  const picture = svg("svg", { class: "bars", preserveAspectRatio: "none", role: "img" }, paths);
  const top = el("span", { class: "top" });
  const [first, last] = [el("span"), el("span")];
  const element = el("div", { class: "chart" }, top, picture, el("div", { class: "ends" }, first, last));

  function draw(label, rows, ends) {
    const most = Math.max(1, ...rows.map((row) => row.reduce((sum, each) => sum + each, 0)));
    picture.setAttribute("viewBox", `0 0 ${Math.max(1, rows.length)} ${HEIGHT}`);
    picture.setAttribute("aria-label", label);
    const below = rows.map(() => 0);
    paths.forEach((path, place) => path.setAttribute("d", writeBars(rows, place, below, HEIGHT / most)));
    put(top, format(most));
    put(first, ends[0]);
    put(last, ends[1]);
  }

  return { element, draw };
}

/** The bars of one series, on top of what is `below`, which grows by them. */
function writeBars(rows, place, below, scale) {
  let path = "";
  rows.forEach((row, x) => {
    const height = row[place] * scale;
    if (height > 0) {
      const foot = HEIGHT - below[x];
      const [left, right] = [x + GAP / 2, x + 1 - GAP / 2];
      path += `M${left} ${foot.toFixed(2)}V${(foot - height).toFixed(2)}H${right}V${foot.toFixed(2)}Z`;
      below[x] += height;
    }
  });
  return path;
}
