// Light and dark: as the system says, or as chosen here. The choice is kept in this browser.

import { put } from "./dom.js";

const KEY = "kpiflow.theme";
const CHOICES = ["system", "light", "dark"];
const NAMES = { system: "as the system", light: "light", dark: "dark" };
const SIGNS = { system: "◐", light: "☀", dark: "☾" };

export function mountTheme(button) {
  let choice = read();
  const show = () => {
    document.documentElement.dataset.theme = choice;
    button.setAttribute("aria-label", `Colours: ${NAMES[choice]}. Change`);
    button.title = `Colours: ${NAMES[choice]}`;
    put(button, SIGNS[choice]);
  };
  button.addEventListener("click", () => {
    choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length];
    keep(choice);
    show();
  });
  show();
}

function read() {
  try {
    const kept = localStorage.getItem(KEY);
    return CHOICES.includes(kept) ? kept : "system";
  } catch {
    return "system"; // a browser that keeps nothing
  }
}

function keep(choice) {
  try {
    localStorage.setItem(KEY, choice);
  } catch {
    // It is used until the page is closed.
  }
}
