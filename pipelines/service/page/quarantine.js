// Rejected messages by cause, with the newest one of each, and the commands that correct and replay them.

import { askRows } from "./ask.js";
import { el, put } from "./dom.js";
import { makeFew } from "./few.js";
import { formatCount, formatMinute, plural } from "./format.js";
import { makeCut, makeEmpty, makeErrorLine, makeWithheld } from "./notices.js";
import { poll } from "./poll.js";

const SECONDS = 30;
const MOST = 2000;
const FEW = 8;

export function mountQuarantine(section, { status }) {
  const problem = makeErrorLine();
  const summary = el("p", { class: "facts" });
  const list = el("div", { class: "causes" });
  const few = makeFew(list, FEW, "causes");
  const withheld = el("div");
  section.append(summary, list, few.more, withheld, problem.line);
  const open = new Set(); // causes whose details are open, so that a refresh leaves them so
  let output = "OUT";
  let answer = null;
  status.subscribe({ onStatus: (found) => (output = found.output) });

  function show() {
    const causes = answer.rows;
    const count = causes.reduce((sum, row) => sum + row.messages, 0);
    put(summary, causes.length ? `${plural(count, "message")} open, of ${plural(causes.length, "cause")}.` : "");
    const focused = list.contains(document.activeElement) ? document.activeElement.closest("details")?.dataset.cause : null;
    few.show(causes.map((row) => () => makeCause(row, output, open)));
    if (!causes.length) put(list, makeEmpty("No rejected messages are open."));
    if (focused) [...list.children].find((each) => each.dataset.cause === focused)?.querySelector("summary").focus();
    put(withheld, makeCut(answer.isCut, `These are the ${formatCount(MOST)} most frequent causes.`), makeWithheld(answer.withheld));
  }

  async function refresh() {
    const found = await askRows("quarantine-causes", {}, MOST);
    problem.clear();
    if (JSON.stringify(found) === JSON.stringify(answer)) return;
    answer = found;
    show();
  }

  status.first.then(() => poll(SECONDS, refresh, problem.show));
}

function makeCause(row, output, open) {
  const cause = [row.kind, row.reason, row.rule].join(" ");
  const what = el("span", { class: "cause" }, el("b", {}, row.reason), row.rule && row.rule !== row.reason ? ` ${row.rule}` : null,
    el("small", {}, [row.kind, ...(row.fields ?? [])].join(" · ")));
  const details = el("details", { "data-cause": cause, open: open.has(cause) },
    el("summary", {}, what, el("span", { class: "n" }, formatCount(row.messages))), makeExample(row), makeCommands(row, output));
  details.addEventListener("toggle", () => (details.open ? open.add(cause) : open.delete(cause)));
  return details;
}

function makeExample(row) {
  const when = row.received_at ? `, received ${formatMinute(row.received_at)}` : "";
  const said = "message" in row ? el("p", { class: "said" }, row.message ?? "without a text") : null;
  return el("div", {}, el("p", { class: "from" }, `${row.source}/${row.message_id}${when}`), said);
}

/** How to look at the messages of a cause, and to replay them once they are corrected. */
function makeCommands(row, output) {
  const chosen = `--reason ${row.reason} --kind ${row.kind}`;
  const folder = quote(output);
  return el("div", { class: "commands" },
    makeCommand("Export them, to correct", `kpiflow quarantine show ${folder} ${chosen} --export rejected.ndjson`),
    makeCommand("Replay the corrected ones", `kpiflow quarantine replay ${folder} --input rejected.ndjson`),
    makeCommand("Judge them again as they are", `kpiflow quarantine replay ${folder} ${chosen}`));
}

function makeCommand(title, command) {
  const copy = el("button", { type: "button", "aria-label": `Copy: ${title}` }, "Copy");
  copy.addEventListener("click", async () => {
    const isCopied = await navigator.clipboard?.writeText(command).then(() => true, () => false);
    put(copy, isCopied ? "Copied" : "Select it");
    setTimeout(() => put(copy, "Copy"), 2000);
  });
  return el("div", { class: "command" }, el("small", {}, title), el("code", {}, command), copy);
}

/** A text as one word of a shell. */
const quote = (text) => (/^[\w./-]+$/.test(text) && !text.startsWith("-") ? text : `'${text.replaceAll("'", "'\\''")}'`);
