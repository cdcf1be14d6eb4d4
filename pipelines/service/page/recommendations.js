// Recommendations: what could be changed and why. They expire; those that ended say what was seen then.

import { askRows } from "./ask.js";
import { el, put } from "./dom.js";
import { formatCount, formatMinute, formatNumber, formatShare } from "./format.js";
import { drawInterval } from "./interval_picture.js";
import { makeCut, makeEmpty, makeErrorLine, makeWithheld } from "./notices.js";
import { poll } from "./poll.js";

const SECONDS = 60;
const MOST = 100;
const MOST_SURE = 0.999999;

export function mountRecommendations(section, { status }) {
  const problem = makeErrorLine();
  const body = el("div");
  const gone = el("div");
  const past = el("details", { class: "past", hidden: true }, el("summary", {}, "Ended and expired ones"), gone);
  section.append(body, past, problem.line);
  let last = null;
  status.subscribe({ onStatus: (answer) => (last = answer.last) });

  async function refresh() {
    const { rows, isCut, withheld } = await askRows("recommendations", { at: last }, MOST);
    const when = last ? ` when the newest report was recorded, ${formatMinute(last)}` : "";
    put(body, el("p", { class: "span" }, rows.length ? `These counted${when || " now"}. kpiflow changes nothing itself.` : null),
      rows.length ? el("ul", { class: "advice" }, rows.map(makeOpen)) : makeEmpty(`Nothing was recommended${when}.`),
      makeCut(isCut, `The newest ${MOST} are shown.`), makeWithheld(withheld));
    past.hidden = false;
    if (past.open) await showPast(new Set(rows.map(makeKey)));
    problem.clear();
  }

  async function showPast(open) {
    const { rows, isCut } = await askRows("recommendations", { state: "all", at: last }, MOST);
    const found = rows.filter((row) => row.followed_at === null && !open.has(makeKey(row)));
    put(gone, found.length ? el("ul", { class: "advice" }, found.map(makePast)) : makeEmpty("There are none."),
      makeCut(isCut, `Of the newest ${MOST} rows.`));
  }

  const again = poll(SECONDS, () => status.first.then(refresh), problem.show);
  past.addEventListener("toggle", () => past.open && again());
}

const makeKey = (row) => [row.decided_at, row.rule, row.subject].join("\n");
const nameSubject = (row) => `${row.subject_kind.replaceAll("_", " ")} ${row.subject}`;

function makeOpen(row) {
  return el("li", {}, el("b", {}, row.recommendation), makeEvidence(row),
    el("small", {}, `Confidence ${formatConfidence(row.confidence)}; since ${formatMinute(row.since)}; `
      + `expires ${formatMinute(row.expires_at)}${row.state === "renewed" ? "; renewed" : ""}`));
}

function makePast(row) {
  if (row.state !== "ended") {
    return el("li", {}, el("b", {}, row.recommendation), makeEvidence(row),
      el("small", {}, `Decided ${formatMinute(row.decided_at)}; expired ${formatMinute(row.expires_at)}`));
  }
  return el("li", {}, el("b", {}, `Ended for ${nameSubject(row)}: ${describeOutcome(row)}`), makeEvidence(row),
    el("small", {}, `From ${formatMinute(row.since)} to ${formatMinute(row.decided_at)}`));
}

/** What was seen when the cause had gone. */
function describeOutcome({ outcome, parameter }) {
  if (outcome === "changed") return `${parameter} was changed, and the cause has gone`;
  if (outcome === "unchanged") return `the cause has gone, though ${parameter} was not changed`;
  return "the cause has gone; whether something was changed is not known";
}

/** The rule, and what was seen, with its interval against the limit. */
function makeEvidence(row) {
  const seen = JSON.parse(row.evidence);
  const rule = (words) => el("p", {}, `Rule for ${nameSubject(row)}: ${row.reason}. Seen: ${words}.`);
  if (!("share" in seen)) {
    return [rule(describeChange(seen)), drawInterval({ ...seen, value: seen.change, limit: 0, name: "no change" })];
  }
  const name = `limit ${formatShare(seen.limit)}`;
  return [rule(describeShare(seen)), drawInterval({ ...seen, value: seen.share, name, ends: [0] })];
}

function describeShare({ measure, tasks, beyond, share, low, high, limit }) {
  const counted = measure === "rejected" ? "reports and rejected messages" : "tasks";
  return `${formatCount(beyond)} of ${formatCount(tasks)} ${counted}, ${formatShare(share)} `
    + `(${formatShare(low)} to ${formatShare(high)}); the limit is ${formatShare(limit)}`;
}

function describeChange({ metric, level, agent_type, change, low, high, is_relative, changed_at }) {
  const of = level === "agent" ? "" : ` of the type ${agent_type}`;
  const [size, least, most] = [change, low, high].map(is_relative ? formatShare : formatNumber);
  return `${metric}${of} changed by ${size} (${least} to ${most}) at ${formatMinute(changed_at)}`;
}

/** Rounded down: no confidence reads as 100 %. */
function formatConfidence(confidence) {
  const percent = Math.floor(1e6 * Math.min(confidence, MOST_SURE)) / 1e4;
  return `${confidence > MOST_SURE ? "over " : ""}${percent} %`;
}
