// Marks: somebody has looked at a flagged value, and says whether it is right.

import { send } from "./ask.js";
import { el, put, setText } from "./dom.js";
import { makeErrorLine } from "./notices.js";

const VERDICTS = { verified: "Verified", false: "False" };
const LONGEST_NOTE = 500;

/** Two buttons and a note. `onMark` gets the verdict once the service has kept it. */
export function makeMarks(row, onMark) {
  const problem = makeErrorLine();
  const said = el("span", { role: "status", class: "kept" });
  const note = el("input", { type: "text", maxlength: LONGEST_NOTE, placeholder: "Note (may be empty)", "aria-label": "Note" });
  const buttons = Object.entries(VERDICTS).map(([verdict, name]) => [verdict, el("button", { type: "button", class: `mark ${verdict}` }, name)]);

  function show(current) {
    for (const [verdict, button] of buttons) button.setAttribute("aria-pressed", String(verdict === current));
  }

  async function mark(verdict) {
    const body = { report_id: row.report_id, column: row.value_column, verdict, recorded_at: row.recorded_at };
    buttons.forEach(([, button]) => button.setAttribute("aria-disabled", "true"));
    try {
      await send("/kpi/marks", note.value ? { ...body, note: note.value } : body);
      problem.clear();
      show(verdict);
      setText(said, "Kept");
      onMark(verdict);
    } catch (error) {
      problem.show(error);
      setText(said, "");
    } finally {
      buttons.forEach(([, button]) => button.removeAttribute("aria-disabled"));
    }
  }

  for (const [verdict, button] of buttons) {
    button.addEventListener("click", () => button.hasAttribute("aria-disabled") || mark(verdict));
  }
  show(findMark(row));
  const group = el("div", { class: "marks", role: "group", "aria-label": "Is this value right?" },
    el("span", {}, "Is this value right?"), buttons.map(([, button]) => button), note, said);
  return put(el("div"), group, problem.line);
}

/** The verdict on the value of a row; undefined if nobody has marked it. */
export const findMark = (row) => row.mark?.[row.value_column];
