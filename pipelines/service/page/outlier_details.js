// The details of an outlier: the explanation, the agent's hour, the report, and what people said of it.

import { askRows } from "./ask.js";
import { el, put } from "./dom.js";
import { formatDate, formatNumber, formatTime } from "./format.js";
import { makeMarks } from "./marks.js";
import { makeErrorLine, makeWithheld } from "./notices.js";
import { drawHour } from "./outlier_pictures.js";
import { explain } from "./outlier_words.js";

const LOOKBACK_MS = 62 * 60_000; // the hour of the baseline, and the minutes by which it is rounded
const MOST_DOTS = 1000;
// Columns that the explanation shows already, or that are about storage.
const LEFT_OUT = /_fence$|_q1$|_q3$|^is_|_state$|^baseline_n$|^revision$|^schema_version$/;

/** The details. `onMark` gets a verdict that was kept; without it there is no right to marks. */
export function makeDetails(row, onMark) {
  const picture = el("div");
  const report = el("div");
  const problem = makeErrorLine();
  const element = el("div", { class: "details" }, el("p", { class: "words" }, explain(row)), picture,
    onMark && makeMarks(row, onMark), report, problem.line);
  Promise.all([showHour(row, picture), showReport(row, report)]).catch(problem.show);
  return element;
}

async function showHour(row, target) {
  const at = new Date(row.recorded_at).getTime();
  const span = { from: new Date(at - LOOKBACK_MS).toISOString(), to: row.recorded_at };
  put(target, drawHour(row, await askRows("agent-over-time", { agent_id: row.agent_id, ...span }, MOST_DOTS)));
}

async function showReport(row, target) {
  const at = new Date(row.recorded_at).getTime();
  const span = { from: row.recorded_at, to: new Date(at + 1).toISOString() };
  const { rows, withheld } = await askRows("reports-by-task", { task_id: row.task_id, ...span }, Infinity);
  const found = rows.find((each) => each.report_id === row.report_id);
  const pairs = Object.entries(found ?? {}).filter(([name, value]) => value !== null && !LEFT_OUT.test(name));
  put(target, el("details", { class: "report" }, el("summary", {}, "The whole report"),
    el("dl", {}, pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, format(name, value))))),
    makeWithheld(withheld)));
}

function format(name, value) {
  if (typeof value === "number") return formatNumber(value);
  if (name.endsWith("_at")) return `${formatDate(value)} ${formatTime(value)}`;
  return typeof value === "object" ? JSON.stringify(value) : value;
}
