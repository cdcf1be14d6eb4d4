// Trends: since when an agent, a type of agents or all of them are slower, less accurate or hungrier.

import { askRows } from "./ask.js";
import { makeChange, makeSlope } from "./trend_items.js";
import { el, put } from "./dom.js";
import { makeFew } from "./few.js";
import { makeCut, makeEmpty, makeErrorLine, makeWithheld } from "./notices.js";
import { poll } from "./poll.js";
import { countBack, nameEnd } from "./spans.js";

const SECONDS = 60;
const HOURS = 24;
const FEW = 5;
const MOST = 1000;

export function mountTrends(section, { status }) {
  const problem = makeErrorLine();
  const [changes, slopes] = [makePart("changes"), makePart("slopes")];
  const withheld = el("div");
  section.append(el("h3", {}, "Changes of level"), changes.element, el("h3", {}, "Slopes of the newest hour"), slopes.element, withheld, problem.line);
  let last = null;
  let shown = "";
  status.subscribe({ onStatus: (answer) => (last = answer.last) });

  async function refresh() {
    const changed = await askRows("trends", { kind: "change", from: countBack(last, HOURS) }, MOST);
    const sloping = await Promise.all(["rising", "falling"].map((verdict) =>
      askRows("trends", { kind: "slope", verdict, from: countBack(last, 1) }, MOST)));
    problem.clear();
    const found = JSON.stringify([changed, sloping]);
    if (found === shown) return; // what somebody has opened stays open
    shown = found;
    const time = `${HOURS} hours ${nameEnd(last)}`.trim();
    changes.show(changed.rows.map((row) => () => makeChange(row)), `In the ${time}.`,
      `No changes in the ${time}. They are found where kpiflow[analysis] is installed.`, changed.isCut);
    const sure = sloping.flatMap(({ rows }) => rows).sort((one, other) => rateSlope(other) - rateSlope(one));
    slopes.show(sure.map((row) => () => makeSlope(row)), "Those whose interval does not contain 0, the most certain first. One steady series in twenty is among them.",
      "None differs from 0.", sloping.some(({ isCut }) => isCut));
    put(withheld, makeWithheld(changed.withheld));
  }

  status.first.then(() => poll(SECONDS, refresh, problem.show));
}

/** How far a slope is from 0, in widths of its interval. */
const rateSlope = ({ slope, slope_low, slope_high }) => Math.abs(slope) / (slope_high - slope_low);

function makePart(name) {
  const span = el("p", { class: "span" });
  const list = el("ul", { class: name });
  const few = makeFew(list, FEW, name);
  const end = el("div");
  return {
    element: el("div", {}, span, list, few.more, end),
    show(made, text, empty, isCut) {
      put(span, made.length ? text : empty);
      few.show(made);
      put(end, makeCut(isCut, `The newest ${MOST} count.`));
    },
  };
}
