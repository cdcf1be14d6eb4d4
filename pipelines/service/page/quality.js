// Quality of the data: the scores of each source against its thresholds, over the newest day.

import { askRows } from "./ask.js";
import { el, put } from "./dom.js";
import { formatCount, formatMinute, formatShare } from "./format.js";
import { makeCut, makeEmpty, makeErrorLine, makeWithheld } from "./notices.js";
import { poll } from "./poll.js";
import { countBack } from "./spans.js";

const SECONDS = 60;
const HOURS = 24;
const MOST_ROWS = 5000;
// Each score: the numbers it is made of, as docs/columns.md defines them.
const SCORES = {
  completeness: (sum) => [sum.received - sum.incomplete, sum.received],
  accuracy: (sum) => [sum.checked - sum.inaccurate, sum.checked],
  timeliness: (sum) => [sum.timely, sum.timed],
  consistency: (sum) => [sum.consistent, sum.related],
};
const COUNTS = ["received", "incomplete", "checked", "inaccurate", "timed", "timely", "related", "consistent"];

export function mountQuality(section, { status }) {
  const problem = makeErrorLine();
  const body = el("div");
  section.append(body, problem.line);
  let last = null;
  status.subscribe({ onStatus: (answer) => (last = answer.last) });

  async function refresh() {
    // A message is received after it was recorded, so the newest windows are not older than this.
    const answer = await askRows("quality", { granularity: "1h", from: countBack(last, HOURS) }, MOST_ROWS);
    problem.clear();
    show(body, answer);
  }

  status.first.then(() => poll(SECONDS, refresh, problem.show));
}

function show(body, { rows, withheld, isCut }) {
  const sources = groupBySource(rows.filter((row) => row.time_window_start !== null));
  if (!sources.length) {
    put(body, makeEmpty("No scores yet. This makes them:", "kpiflow derive OUT"));
    return;
  }
  put(body, ...sources.map(makeSource), makeCut(isCut, `The newest ${formatCount(MOST_ROWS)} windows count.`), makeWithheld(withheld));
}

/** The windows of each source, of the newest HOURS hours that there are, oldest first. */
function groupBySource(rows) {
  const newest = Math.max(...rows.map((row) => new Date(row.time_window_start)));
  const sources = new Map();
  for (const row of rows) {
    if (newest - new Date(row.time_window_start) >= 3_600_000 * HOURS) continue;
    sources.set(row.source, [row, ...(sources.get(row.source) ?? [])]);
  }
  return [...sources].sort(([one], [other]) => (one < other ? -1 : 1));
}

function makeSource([source, windows]) {
  const sum = Object.fromEntries(COUNTS.map((name) => [name, windows.reduce((all, row) => all + row[name], 0)]));
  const newest = windows[windows.length - 1];
  const scores = Object.keys(SCORES).map((name) => makeScore(name, SCORES[name](sum), newest[`${name}_threshold`]));
  const missed = windows.filter((row) => row.verdict !== "met").length;
  const verdicts = el("ol", { class: "verdicts", "aria-label": `Verdicts by hour: ${missed} of ${windows.length} missed a threshold` },
    windows.map((row) => el("li", { class: row.verdict === "met" ? "met" : "missed",
      title: `${formatMinute(row.time_window_start)}: ${row.verdict}` })));
  const head = el("h3", {}, source, el("small", {}, `${formatCount(sum.received)} messages in ${windows.length} h`));
  return el("div", { class: "source" }, head, el("dl", { class: "scores" }, scores), verdicts);
}

function makeScore(name, [good, all], threshold) {
  const value = all ? good / all : null;
  const isMet = value === null || value >= threshold;
  const bar = el("span", { class: "meter", "aria-hidden": "true" }, el("i"), el("b"));
  bar.children[0].style.width = `${100 * (value ?? 0)}%`;
  bar.children[1].style.left = `${100 * threshold}%`;
  const needed = value === null ? "nothing to check" : `${isMet ? "needs" : "below"} ${formatShare(threshold)}`;
  return el("div", { class: value === null ? "score none" : isMet ? "score" : "score missed" },
    el("dt", {}, name), el("dd", {}, formatShare(value), " ", el("small", {}, needed)), bar);
}
