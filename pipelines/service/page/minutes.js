// The newest hour by minute, from the windows of all agents: what the tables have, also without a live stream.

import { askRows } from "./ask.js";
import { makeBars } from "./bars.js";
import { el, setText } from "./dom.js";
import { formatCount, formatMeasure, formatMinute, formatShare } from "./format.js";
import { makeErrorLine } from "./notices.js";
import { poll } from "./poll.js";
import { countBack } from "./spans.js";

const SECONDS = 60;
const MINUTE_MS = 60_000;
const MINUTES = 60;

export function mountMinutes(section, status) {
  const problem = makeErrorLine();
  const chart = makeBars(["ok", "bad"], (most) => `${formatCount(most)} a minute`);
  const facts = el("p", { class: "facts" });
  const element = el("div", { class: "minutes", hidden: true }, el("h3", {}, "The newest hour by minute, from the tables"), chart.element, facts);
  section.append(element, problem.line);
  let last = null;
  status.subscribe({ onStatus: (answer) => (last = answer.last) });

  async function refresh() {
    const { rows } = await askRows("totals", { granularity: "1m", from: countBack(last, 1) }, MINUTES);
    problem.clear();
    element.hidden = rows.length === 0;
    if (rows.length) show(chart, facts, rows);
  }

  status.first.then(() => poll(SECONDS, refresh, problem.show));
}

function show(chart, facts, rows) {
  const newest = new Date(rows[0].time_window_start).getTime();
  const minutes = Array.from({ length: MINUTES }, () => ({ tasks: 0, failed: 0 }));
  for (const row of rows) {
    const minute = minutes[MINUTES - 1 - Math.round((newest - new Date(row.time_window_start)) / MINUTE_MS)];
    if (!minute) continue;
    minute.tasks += row.task_count;
    minute.failed += Math.round(row.task_count * (1 - row.success_rate));
  }
  const ends = [newest - (MINUTES - 1) * MINUTE_MS, newest].map((each) => formatMinute(each));
  const bars = minutes.map(({ tasks, failed }) => [tasks - failed, failed]);
  const [tasks, failed] = ["tasks", "failed"].map((name) => minutes.reduce((sum, each) => sum + each[name], 0));
  chart.draw(`Reports by minute from ${ends[0]} to ${ends[1]}: ${formatCount(tasks)} in all`, bars, ends);
  const latency = rows.reduce((sum, row) => sum + row.task_count * row.avg_latency_ms, 0) / tasks;
  setText(facts, `${formatCount(tasks)} reports, ${formatShare(tasks ? 1 - failed / tasks : null)} succeeded; `
    + `one took ${formatMeasure("latency_ms", latency)} on average.`);
}
