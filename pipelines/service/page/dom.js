// Elements by calls. Text is always set as text, so no data becomes markup.

const SVG = "http://www.w3.org/2000/svg";
// Control characters, and those that change the direction of what follows.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;

const LONGEST = 600;

/** A text in which characters that do not print are written as codes; of a very long one the begin. */
export function showUnseen(text) {
  const whole = String(text);
  const shown = whole.length > LONGEST ? `${whole.slice(0, LONGEST)}… (${whole.length} characters)` : whole;
  return shown.replace(UNSEEN, (found) => `\\x${found.codePointAt(0).toString(16).padStart(2, "0")}`);
}

/** An HTML element. Properties are attributes, except `on...` (listeners); null and false leave one out. */
export function el(name, properties = {}, ...children) {
  return fill(document.createElement(name), properties, children);
}

/** An SVG element. */
export function svg(name, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, name), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false && value !== undefined) {
      element.setAttribute(name, value === true ? "" : showUnseen(value));
    }
  }
  put(element, ...children);
  return element;
}

/** Replace what is in an element. Strings and numbers become text; null and false are left out. */
export function put(element, ...children) {
  const kept = children.flat().filter((each) => each !== null && each !== false && each !== undefined);
  element.replaceChildren(...kept.map((each) => (each instanceof Node ? each : showUnseen(each))));
  return element;
}

/** Set a text only where it changed: a live region says it again otherwise. */
export function setText(element, text) {
  const shown = showUnseen(text);
  if (element.textContent !== shown) element.textContent = shown;
}
