// Outliers: values outside the fences of their agent's past hour, newest first, each with its explanation.

import { ask } from "./ask.js";
import { el, put, setText } from "./dom.js";
import { formatDate, formatTime, nameMetric, shortenId } from "./format.js";
import { findMark } from "./marks.js";
import { makeEmpty, makeErrorLine, makeWithheld } from "./notices.js";
import { makeDetails } from "./outlier_details.js";
import { drawFences } from "./outlier_pictures.js";
import { describeShortly } from "./outlier_words.js";
import { poll } from "./poll.js";
import { countBack, nameEnd } from "./spans.js";

const SECONDS = 10;
const PAGE = 20;
const SPANS = { "1 hour": 1, "6 hours": 6, "24 hours": 24, "7 days": 168 };
const USUAL_SPAN = "24 hours";
// The columns that have fences, and what /kpi/status calls the counts of their outliers.
const FENCED = { latency_ms: "latency", accuracy: "accuracy", cpu_usage: "cpu", memory_mb: "memory" };
const MARKS = { verified: "verified", false: "false" };

export function mountOutliers(section, { status }) {
  const problem = makeErrorLine();
  const list = el("ul", { class: "outliers" });
  const newer = el("button", { type: "button", class: "newer", hidden: true });
  const more = el("button", { type: "button", class: "more", hidden: true }, "Show older ones");
  const withheld = el("div");
  const filters = makeFilters(() => load().catch(problem.show));
  section.append(filters.element, el("div", { role: "status" }, newer), list, more, withheld, problem.line);
  let asked = null; // what the list shows
  let cursor = null;
  let known = new Set();

  const find = (page = {}) => ask("/query/outliers", { ...filters.read(), limit: PAGE, ...page });

  async function load() {
    const answer = await find();
    asked = filters.key();
    known = new Set(answer.rows.map(makeKey));
    put(list, ...answer.rows.map((row) => makeItem(row, answer.withheld)));
    if (!answer.rows.length) put(list, el("li", {}, makeEmpty("No outliers here. Choose a longer time, or another column or agent.")));
    newer.hidden = true;
    showEnd(answer);
  }

  async function loadOlder() {
    const answer = await find({ cursor });
    const items = answer.rows.map((row) => makeItem(row, answer.withheld));
    list.append(...items);
    items[0]?.querySelector("button").focus();
    showEnd(answer);
  }

  function showEnd(answer) {
    problem.clear();
    cursor = answer.cursor;
    more.hidden = cursor === null;
    put(withheld, makeWithheld(answer.withheld));
  }

  /** A list that is read must not move: newer outliers wait behind a button. */
  async function refresh() {
    if (asked !== filters.key() || !known.size) return load();
    const { rows } = await find();
    problem.clear();
    const count = rows.filter((row) => !known.has(makeKey(row))).length;
    newer.hidden = count === 0;
    if (count) put(newer, `Show ${count === PAGE ? `${PAGE} or more` : count} newer`);
  }

  newer.addEventListener("click", async () => {
    await load().catch(problem.show);
    list.querySelector("button")?.focus();
  });
  more.addEventListener("click", () => loadOlder().catch(problem.show));
  status.subscribe({
    onStatus: ({ last, outliers }) => filters.setStatus(last, outliers),
  });
  status.first.then(() => poll(SECONDS, refresh, problem.show));
}

const makeKey = (row) => `${row.report_id} ${row.value_column}`;

function makeFilters(onChange) {
  const options = Object.keys(FENCED).map((name) => [name, el("option", { value: name }, nameMetric(name))]);
  const column = el("select", { onchange: onChange }, el("option", { value: "" }, "All columns"), options.map(([, option]) => option));
  const span = el("select", { onchange: onChange }, Object.keys(SPANS).map((name) => el("option", { selected: name === USUAL_SPAN }, name)));
  const agent = el("input", { type: "search", placeholder: "any", autocomplete: "off", spellcheck: "false", onchange: onChange });
  const end = el("small");
  let last = null; // when the newest report was recorded
  const element = el("form", { class: "filters", role: "search", "aria-label": "Outliers", onsubmit: (event) => event.preventDefault() },
    el("label", {}, "Column", column), el("span", {}, el("label", {}, "The last", span), end), el("label", { class: "wide" }, "Agent", agent));
  return {
    element,
    key: () => JSON.stringify([column.value, span.value, agent.value]),
    read: () => ({ column: column.value, agent_id: agent.value.trim(), from: countBack(last, SPANS[span.value]) }),
    setStatus(newest, counts) {
      last = newest;
      setText(end, nameEnd(last));
      for (const [name, option] of options) put(option, `${nameMetric(name)} (${counts[FENCED[name]] ?? 0})`);
    },
  };
}

function makeItem(row, withheld = []) {
  const mark = el("span", { class: "mark-state" });
  const showMark = (verdict) => {
    mark.className = `mark-state ${verdict ?? ""}`;
    put(mark, MARKS[verdict] ?? "");
  };
  const button = el("button", { type: "button", class: "row", "aria-expanded": "false" },
    el("time", { datetime: row.recorded_at }, formatTime(row.recorded_at), el("small", {}, formatDate(row.recorded_at))),
    el("span", { class: "what" }, el("b", {}, nameMetric(row.value_column)), " ", describeShortly(row),
      el("small", {}, "agent ", shortenId(row.agent_id))),
    drawFences(row), mark);
  const item = el("li", {}, button);
  let details = null;
  button.addEventListener("click", () => {
    const isOpen = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!isOpen));
    if (isOpen) details.hidden = true;
    else if (details) details.hidden = false;
    else item.append((details = makeDetails(row, withheld.includes("mark") ? null : showMark)));
  });
  showMark(findMark(row));
  return item;
}
