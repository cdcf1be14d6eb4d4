// Live rates: reports of the last two minutes by second, from the counts of the live stream.

import { makeBars } from "./bars.js";
import { el, setText } from "./dom.js";
import { formatCount, formatRate, formatTime } from "./format.js";
import { followCounts } from "./live_stream.js";
import { mountMinutes } from "./minutes.js";
import { makeEmpty, makeErrorLine, makeWithheld } from "./notices.js";

const SHOWN_SECONDS = 120;
const MEAN_SECONDS = 10;

export function mountRates(section, { status, notices, connection }) {
  const view = makeView();
  const problem = makeErrorLine();
  const hint = el("div", { hidden: true });
  section.append(view.element, hint, problem.line);
  mountMinutes(section, status);
  let isFollowing = false;
  status.subscribe({
    onStatus(answer) {
      problem.clear();
      view.setClock(answer.now);
      if (answer.live?.problem) problem.show({ status: 0, message: answer.live.problem });
      if (isFollowing) return;
      view.element.hidden = !answer.live;
      hint.hidden = Boolean(answer.live);
      if (answer.live) {
        isFollowing = true;
        follow(answer, view, notices, connection);
      } else if (!hint.children.length) {
        hint.append(makeEmpty("No live reports here. Start the service with --redis beside a stream:", "kpiflow stream … --live"));
      }
    },
    onError: problem.show,
  });
}

function follow(answer, view, notices, connection) {
  const begin = chooseStart(answer);
  followCounts(begin, {
    start: ({ withheld }) => view.setWithheld(withheld),
    counts: ({ seconds }) => seconds.forEach(view.add),
    // What Redis had dropped before this page was opened is not missing here.
    gap: ({ after, before }) => after === begin || notices.add(describeGap(after, before)),
    state: (name, text) => connection.set("stream", name, text),
  });
}

/** The entry behind which to begin: two minutes ago, or the newest one if that is older. */
function chooseStart({ live, now }) {
  const begin = new Date(now).getTime() - 1000 * SHOWN_SECONDS;
  return Number(live.last.split("-")[0]) > begin ? `${begin}-0` : live.last;
}

function describeGap(after, before) {
  const [from, to] = [after, before].map((id) => Number(id.split("-")[0]));
  const until = to > from ? ` and ${formatTime(to)}` : "";
  return `Reports between ${from ? formatTime(from) : "the start"}${until} did not reach this page: `
    + `Redis no longer has them (entries ${after} to ${before}). The rates miss them; the tables do not.`;
}

function makeView() {
  const counts = new Map(); // by second
  const chart = makeBars(["ok", "bad"], (most) => `${formatCount(most)} a second`);
  const total = el("b");
  const parts = ["ok", "bad", "odd"].map((name) => [name, el("dd")]);
  const names = { ok: "succeeded", bad: "failed", odd: "with an outlier" };
  const legend = el("dl", { class: "legend" }, parts.map(([name, shown]) => el("div", {}, el("dt", { class: name }, names[name]), shown)));
  const withheld = el("div");
  const element = el("div", { class: "rates" }, el("p", { class: "big" }, total, " a second"), legend, chart.element, withheld);
  let ahead = 0; // of the service's clock, in ms
  let seesFailures = true;

  function draw() {
    const now = Math.floor((Date.now() + ahead) / 1000);
    for (const second of counts.keys()) if (second < now - SHOWN_SECONDS) counts.delete(second);
    const listed = Array.from({ length: SHOWN_SECONDS }, (_, place) => counts.get(now - SHOWN_SECONDS + place) ?? NONE);
    const mean = (name) => listed.slice(-MEAN_SECONDS).reduce((sum, each) => sum + (each[name] ?? 0), 0) / MEAN_SECONDS;
    const [reports, failed, flagged] = [mean("reports"), mean("failed"), mean("flagged")];
    setText(total, formatRate(reports));
    setText(parts[0][1], seesFailures ? formatRate(reports - failed) : "–");
    setText(parts[1][1], seesFailures ? formatRate(failed) : "no right");
    setText(parts[2][1], formatRate(flagged));
    const most = Math.max(...listed.map((each) => each.reports));
    const label = `Reports by second in the last two minutes: ${formatRate(reports)} a second now, at most ${formatCount(most)}`;
    chart.draw(label, listed.map((each) => [each.reports - (each.failed ?? 0), each.failed ?? 0]), ["2 minutes ago", "now"]);
  }

  setInterval(() => document.hidden || draw(), 1000);
  draw();
  return {
    element,
    setClock: (now) => (ahead = new Date(now).getTime() - Date.now()),
    setWithheld(columns) {
      seesFailures = !columns?.includes("error_details");
      withheld.replaceChildren(...[makeWithheld(columns)].filter(Boolean));
    },
    add(found) {
      const kept = counts.get(found.second) ?? {};
      const sum = (name) => (kept[name] ?? 0) + (found[name] ?? 0);
      counts.set(found.second, { reports: sum("reports"), failed: sum("failed"), flagged: sum("flagged") });
    },
  };
}

const NONE = { reports: 0, failed: 0, flagged: 0 };
