// Comparisons: the variants of an experiment beside one of them. One may look as often as one likes.

import { ask, askRows } from "./ask.js";
import { makeVariant } from "./comparison_items.js";
import { el, put, setText } from "./dom.js";
import { formatCount, formatMinute, formatShare, formatTime } from "./format.js";
import { makeCut, makeEmpty, makeErrorLine } from "./notices.js";
import { poll } from "./poll.js";

const SECONDS = 300; // a new look has more to see after five minutes
const MOST = 1000;
const USUAL_CONTROL = "control";

export function mountComparisons(section) {
  const problem = makeErrorLine();
  const filters = makeFilters(() => compare().catch(fail));
  const end = el("div");
  const empty = makeEmpty("No task belongs to an experiment: its metadata would have the texts `experiment` and `variant`.");
  const looked = el("p", { class: "facts", role: "status" });
  const body = el("div");
  empty.hidden = true;
  section.append(filters.element, end, empty, body, looked, problem.line);
  let asked = 0;

  async function refresh() {
    const { rows, isCut } = await askRows("experiments", {}, MOST);
    empty.hidden = rows.length > 0;
    filters.show(rows);
    put(end, makeCut(isCut, `The newest ${formatCount(MOST)} experiments can be chosen.`));
    problem.clear();
    if (rows.length) await compare();
  }

  async function compare() {
    const { experiment, control } = filters.read();
    const turn = ++asked;
    setText(looked, "Comparing…");
    const named = new URLSearchParams({ experiment: experiment.experiment }); // its name may be empty
    const found = await ask(`/kpi/compare?${named}`, { control });
    if (turn !== asked) return; // another one was chosen meanwhile
    problem.clear();
    show(body, found);
    setText(looked, describeLook(found, experiment));
  }

  /** What was compared before is not the answer to what was asked now. */
  function fail(error) {
    put(body);
    setText(looked, "");
    problem.show(error);
  }

  poll(SECONDS, refresh, fail);
}

/** `show(rows)` gives it the experiments; what was chosen stays chosen. */
function makeFilters(onChange) {
  let experiments = [];
  const find = () => experiments[experiment.selectedIndex];
  const experiment = el("select", { onchange: () => (listVariants(), onChange()) });
  const control = el("select", { onchange: onChange });
  const element = el("form", { class: "filters", hidden: true, "aria-label": "Comparison", onsubmit: (event) => event.preventDefault() },
    el("label", {}, "Experiment", experiment), el("label", {}, "Compared with", control));

  function listVariants() {
    const { variants } = find();
    fillChoice(control, variants, variants.includes(USUAL_CONTROL) ? USUAL_CONTROL : variants[0]);
  }

  return {
    element,
    show(rows) {
      experiments = rows;
      element.hidden = !rows.length;
      if (!rows.length) return;
      fillChoice(experiment, rows.map((each) => each.experiment), rows[0].experiment);
      listVariants();
    },
    // Not the values of the elements: they show codes for what does not print.
    read: () => ({ experiment: find(), control: find().variants[control.selectedIndex] }),
  };
}

/** Give a select its options. What was chosen stays chosen, if it is still there. */
function fillChoice(select, names, usual) {
  const before = select.names?.[select.selectedIndex];
  if (JSON.stringify(names) === JSON.stringify(select.names)) return; // it may be open
  select.names = names;
  put(select, ...names.map((name) => el("option", {}, name)));
  select.selectedIndex = names.indexOf(names.includes(before) ? before : usual);
}

function show(body, found) {
  const variants = Map.groupBy(found.effects, ({ variant }) => variant);
  const refusal = found.reason && el("p", { class: "refusal" }, `No conclusion: ${found.reason}.`);
  put(body, refusal, [...variants].flatMap(([name, effects]) => makeVariant(name, effects, found)));
}

function describeLook({ unit, units, alpha }, { first_recorded_at, last_recorded_at }) {
  const counts = Object.entries(units).map(([name, count]) => `${formatCount(count)} to ${name}`).join(", ");
  const assigned = unit ? `${unit === "task" ? "Tasks" : "Agents"} were assigned: ${counts}. ` : "";
  return `Looked at ${formatTime(Date.now())}, at reports from ${formatMinute(first_recorded_at)} to ${formatMinute(last_recorded_at)}. ${assigned}`
    + `Look as often as you like: the chance of any wrong verdict is at most ${formatShare(alpha)}, over all looks, metrics and variants. `
    + "An interval is that of its metric alone.";
}
