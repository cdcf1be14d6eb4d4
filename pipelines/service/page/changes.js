// Changes of level: since when an agent, a type of agents or all of them are slower, less accurate or hungrier.

import { ask } from "./ask.js";
import { el, put } from "./dom.js";
import { COLUMNS, formatDate, formatMeasure, formatNumber, formatShare, formatTime, shortenId } from "./format.js";
import { makeEmpty, makeErrorLine, makeWithheld } from "./notices.js";
import { poll } from "./poll.js";
import { countBack, nameEnd } from "./spans.js";

const SECONDS = 60;
const MOST = 8;
const HOURS = 24;
const RELATIVE = ["latency_ms", "memory_mb"]; // their changes are shares, as docs/columns.md says
const BETTER = { latency_ms: "lowered", accuracy: "raised", cpu_usage: "lowered", memory_mb: "lowered", performance_score: "raised" };

export function mountChanges(section, { status }) {
  const problem = makeErrorLine();
  const body = el("div");
  section.append(body, problem.line);
  let last = null;
  status.subscribe({ onStatus: (answer) => (last = answer.last) });

  async function refresh() {
    const { rows, withheld } = await ask("/query/trends", { kind: "change", from: countBack(last, HOURS), limit: MOST });
    problem.clear();
    const list = el("ul", { class: "changes" }, rows.map(makeChange));
    const time = `${HOURS} hours ${nameEnd(last)}`.trim();
    put(body, rows.length ? [el("p", { class: "span" }, `In the ${time}.`), list]
      : makeEmpty(`No changes in the ${time}. They are found where kpiflow[analysis] is installed.`), makeWithheld(withheld));
  }

  status.first.then(() => poll(SECONDS, refresh, problem.show));
}

function makeChange(row) {
  const isBetter = BETTER[row.metric] === row.verdict;
  const sign = el("span", { class: isBetter ? "sign better" : "sign worse", "aria-hidden": "true" }, row.verdict === "raised" ? "▲" : "▼");
  const what = el("span", {}, el("b", {}, COLUMNS[row.metric]?.name ?? "Performance"), ` of ${nameSeries(row)} ${describe(row)}`,
    el("small", {}, `${isBetter ? "better" : "worse"} since `, el("time", { datetime: row.changed_at }, formatTime(row.changed_at).slice(0, 5)),
      ` on ${formatDate(row.changed_at)}; z ${formatNumber(row.z)}, above ${formatNumber(row.threshold)}`));
  return el("li", {}, sign, what);
}

function nameSeries({ level, agent_id, target_agent_type }) {
  if (level === "agent") return `agent ${shortenId(agent_id)}`;
  return level === "agent_type" ? `all agents of the type ${target_agent_type}` : "all agents";
}

/** `raised by 32.0 %, from 310 ms to 410 ms`; the levels only where they are the metric's own. */
function describe(row) {
  const amount = Math.abs(row.change);
  const by = RELATIVE.includes(row.metric) ? formatShare(amount) : formatNumber(amount);
  const levels = row.level === "agent" ? `, from ${formatMeasure(row.metric, row.before)} to ${formatMeasure(row.metric, row.after)}` : "";
  return `${row.verdict} by ${by}${levels}`;
}
