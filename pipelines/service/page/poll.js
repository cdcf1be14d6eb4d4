// Work that is done again and again: less often after failures, and not while nobody looks.

const LONGEST_SECONDS = 60;

/**
 * Do `work` now and then every so many seconds. `onError` gets what it throws. Returns a function that does
 * it at once.
 */
export function poll(seconds, work, onError) {
  let failures = 0;
  let timer;

  async function run() {
    clearTimeout(timer);
    let wait = seconds;
    try {
      await work();
      failures = 0;
    } catch (error) {
      failures += 1;
      wait = Math.max(backOff(failures), error.retrySeconds ?? 0);
      onError(error);
    }
    clearTimeout(timer);
    if (!document.hidden) timer = setTimeout(run, 1000 * wait);
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : run()));
  run();
  return run;
}

/** Seconds to wait after so many failures in a row: 1, 2, 4 ... with a random part, so that pages spread. */
export function backOff(failures) {
  return Math.min(LONGEST_SECONDS, 2 ** (failures - 1)) * (0.75 + Math.random() / 2);
}
