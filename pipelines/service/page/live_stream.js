// The counts of /kpi/stream: a WebSocket that comes again after it was closed, behind the last entry it got.

import { backOff } from "./poll.js";

const CALM_MS = 5000; // a connection that lasted so long was good: the next failure is the first again

/**
 * Follow the counts from behind an entry on, for as long as the page is open.
 *
 * `on.counts(message)`, `on.gap(message)`, `on.start(message)` get the messages of the service; `on.state(name,
 * text)` gets "live" or "waiting", and why.
 */
export function followCounts(after, on) {
  let last = after;
  let failures = 0;
  let timer;

  function connect() {
    const url = new URL("/kpi/stream", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    url.search = new URLSearchParams({ counts: "true", ...(last && { after: last }) });
    const socket = new WebSocket(url);
    let opened = null;
    socket.onopen = () => {
      opened = performance.now();
      on.state("live", "live");
    };
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (message.type === "start") {
        last = message.after;
        on.start(message);
      } else if (message.type === "gap") {
        last = message.before;
        on.gap(message);
      } else if (message.type === "counts") {
        last = message.id;
        on.counts(message);
      }
    };
    socket.onclose = ({ reason }) => {
      failures = opened !== null && performance.now() - opened > CALM_MS ? 1 : failures + 1;
      const seconds = backOff(failures);
      const why = reason || (opened === null ? "no connection" : "the connection was closed");
      on.state("waiting", `${why}; again in ${Math.max(1, Math.round(seconds))} s`);
      timer = setTimeout(connect, 1000 * seconds);
    };
  }

  connect();
  window.addEventListener("online", () => {
    if (timer === undefined) return;
    clearTimeout(timer);
    connect();
  });
}
