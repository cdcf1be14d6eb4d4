// What a section says when it has no rows, when the service refuses it, or when something was missed.

import { el, put } from "./dom.js";

const MOST = 5;

/** Notices on top of the page. The newest come first, each can be dismissed, and a few are kept. */
export function makeNotices(region) {
  return {
    add(text, kind = "gap") {
      const notice = el("div", { class: `notice ${kind}` }, el("p", {}, text));
      notice.append(el("button", { type: "button", onclick: () => notice.remove() }, "Dismiss"));
      region.prepend(notice);
      [...region.children].slice(MOST).forEach((each) => each.remove());
    },
  };
}

/** What the service said. */
export function describeError(error) {
  if (error.status === undefined) throw error; // a mistake of this page, not an answer
  return error.status ? `${error.status}: ${error.message}` : error.message;
}

/** A line of a section that shows the error of its last request, and hides when there is none. */
export function makeErrorLine() {
  const line = el("p", { class: "error", role: "status", hidden: true });
  return {
    line,
    show(error) {
      put(line, el("strong", {}, describeError(error)), error.fix ? ` – ${error.fix}` : null);
      line.hidden = false;
    },
    clear() {
      if (line.hidden) return;
      line.hidden = true;
      put(line);
    },
  };
}

/** What an empty section says, with a command that changes it. */
export function makeEmpty(text, command) {
  return el("p", { class: "empty" }, text, command ? [" ", el("code", {}, command)] : null);
}

/** That there are more rows than are shown. */
export const makeCut = (isCut, text) => isCut && el("p", { class: "facts" }, text);

/** The columns to which there is no right. */
export function makeWithheld(names) {
  if (!names?.length) return null;
  return el("p", { class: "withheld" }, `You have no right to ${names.join(", ")}; they are not empty.`);
}
