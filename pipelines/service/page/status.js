// The numbers of /kpi/status, asked for once and given to all sections that show them.

import { ask } from "./ask.js";
import { poll } from "./poll.js";

const SECONDS = 5;

/**
 * Sections subscribe with `onStatus` and `onError`; each gets the newest answer at once, if there is one.
 * `first` is done once the service has answered or refused.
 */
export function watchStatus() {
  const listeners = [];
  let newest = null;
  let settle;
  const first = new Promise((resolve) => (settle = resolve));
  poll(
    SECONDS,
    async () => {
      newest = await ask("/kpi/status");
      listeners.forEach((each) => each.onStatus(newest));
      settle();
    },
    (error) => {
      listeners.forEach((each) => each.onError?.(error));
      settle();
    },
  );
  return {
    first,
    subscribe(listener) {
      listeners.push(listener);
      if (newest) listener.onStatus(newest);
    },
  };
}
