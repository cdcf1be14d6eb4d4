// A list of which a few items are shown, and the rest behind a button.

import { el, put } from "./dom.js";

/** `show(items)` replaces the list. `name`: what the items are, in the plural. */
export function makeFew(list, few, name) {
  const more = el("button", { type: "button", class: "more", hidden: true });
  let isWhole = false;
  let items = [];

  function draw() {
    put(list, ...(isWhole ? items : items.slice(0, few)).map((make) => make()));
    more.hidden = items.length <= few;
    put(more, isWhole ? "Show fewer" : `Show all ${items.length} ${name}`);
  }

  more.addEventListener("click", () => {
    isWhole = !isWhole;
    draw();
  });
  return {
    more,
    /** `made`: a function for each item, that makes its element. */
    show(made) {
      items = made;
      draw();
    },
  };
}
