// What became of every message: as `kpiflow show` counts it.

import { makeBars } from "./bars.js";
import { el, put, setText } from "./dom.js";
import { formatCount, formatMinute, formatShare, formatTime, plural } from "./format.js";
import { makeEmpty, makeErrorLine } from "./notices.js";

const FATES = {
  reports: ["reports", "valid, each once"],
  records: ["records", "of tasks, results, agents, health"],
  duplicates: ["duplicates", "of a message that counts"],
  quarantined: ["quarantined", "rejected, with the reason"],
};

export function mountFates(section, { status }) {
  const problem = makeErrorLine();
  const body = el("div", { hidden: true });
  const empty = makeEmpty("No messages yet. Fill this folder:", "kpiflow backfill --input FILE… --output OUT");
  empty.hidden = true;
  section.append(body, empty, problem.line);
  const view = makeView(body);
  let first = null; // the first answer: what has come in since then is shown
  status.subscribe({
    onStatus(answer) {
      problem.clear();
      first ??= answer;
      empty.hidden = answer.received > 0;
      body.hidden = !empty.hidden;
      view.show(answer, first);
    },
    onError: problem.show,
  });
}

function makeView(body) {
  const strip = el("div", { class: "strip", "aria-hidden": "true" });
  const rows = Object.entries(FATES).map(([name, [title, meaning]]) => {
    const cells = { count: el("td", { class: "n" }), share: el("td", { class: "n" }), since: el("td", { class: "n since" }) };
    const head = el("th", { scope: "row" }, el("i", { class: `key ${name}` }), title, el("small", {}, meaning));
    return { name, cells, row: el("tr", {}, head, ...Object.values(cells)) };
  });
  const total = { count: el("td", { class: "n" }), share: el("td", { class: "n" }), since: el("td", { class: "n since" }) };
  const heads = ["fate", "messages", "share", "new"].map((text, place) => el("th", { scope: "col", class: place ? "n" : "" }, text));
  const table = el("table", { class: "fates" }, el("thead", {}, el("tr", {}, heads)),
    el("tbody", {}, rows.map((each) => each.row), el("tr", { class: "total" }, el("th", { scope: "row" }, "received"), ...Object.values(total))));
  const facts = el("p", { class: "facts" });
  const chart = makeBars(["reports", "duplicates", "quarantined"], (most) => `${formatCount(most)} an hour`);
  body.append(strip, table, el("h3", {}, "Reports and rejections by hour"), chart.element, facts);

  function show(answer, first) {
    put(strip, ...rows.map(({ name }) => makePart(name, answer[name] / answer.received)));
    for (const { name, cells } of rows) {
      setText(cells.count, formatCount(answer[name]));
      setText(cells.share, formatShare(answer.received ? answer[name] / answer.received : null));
      setText(cells.since, formatSince(answer[name] - first[name]));
    }
    setText(total.count, formatCount(answer.received));
    setText(total.share, "100.0 %");
    setText(total.since, formatSince(answer.received - first.received));
    drawHours(chart, answer.hours);
    setText(facts, describe(answer));
  }

  return { show };
}

function makePart(name, share) {
  const part = el("span", { class: name });
  part.style.flexGrow = share; // by a property: the policy of the page forbids the attribute
  part.hidden = !share;
  return part;
}

const formatSince = (count) => (count ? `${count > 0 ? "+" : "−"}${formatCount(Math.abs(count))}` : "");

function drawHours(chart, hours) {
  if (!hours.length) return;
  const rows = fillHours(hours).map((each) => [each.reports, each.duplicates, each.quarantined]);
  const ends = [hours[0], hours[hours.length - 1]].map((each) => formatMinute(each.start));
  chart.draw(`Reports, duplicates and rejected messages of ${plural(rows.length, "hour")} from ${ends[0]} to ${ends[1]}`, rows, ends);
}

/** The hours with those between them that have no messages, as far as that is not too long. */
function fillHours(hours) {
  const known = new Map(hours.map((each) => [new Date(each.start).getTime(), each]));
  const [first, last] = [Math.min(...known.keys()), Math.max(...known.keys())];
  const count = (last - first) / 3_600_000 + 1;
  if (count > 96) return hours;
  return Array.from({ length: count }, (_, place) => known.get(first + 3_600_000 * place) ?? { reports: 0, duplicates: 0, quarantined: 0 });
}

function describe(answer) {
  const failed = answer.failed === undefined ? "" : `, ${formatCount(answer.failed)} of them failed`;
  const span = answer.first ? `Recorded from ${formatMinute(answer.first)} to ${formatMinute(answer.last)}. ` : "";
  return `${plural(answer.reports, "report")} of ${plural(answer.agents, "agent")}${failed}. ${span}Counted at ${formatTime(answer.counted_at)}.`;
}
