// Requests to the service, and what it says where it refuses one.

const PAGE = 1000;

/** The service refused a request: what it says is wrong, and what to do about it. Status 0: no answer. */
export class Refused extends Error {
  constructor(status, error, fix = "", retrySeconds = 0) {
    super(error);
    Object.assign(this, { status, fix, retrySeconds });
  }
}

/** The answer of a route as JSON; a parameter that is null or empty is left out. */
export async function ask(path, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== "");
  const query = new URLSearchParams(given).toString();
  return read(query ? `${path}${path.includes("?") ? "&" : "?"}${query}` : path);
}

/**
 * The rows of a named query, page by page, at most so many. `isCut`: there are more, and the section must say
 * so.
 */
export async function askRows(name, parameters, most) {
  const rows = [];
  let answer = { cursor: null };
  do {
    const limit = Math.min(PAGE, most - rows.length);
    answer = await ask(`/query/${name}`, { ...parameters, limit, cursor: answer.cursor });
    rows.push(...answer.rows);
  } while (answer.cursor !== null && rows.length < most);
  return { rows, withheld: answer.withheld, isCut: answer.cursor !== null };
}

/** Send JSON; the answer is JSON. */
export async function send(path, body) {
  const headers = { "Content-Type": "application/json" };
  return read(path, { method: "POST", headers, body: JSON.stringify(body) });
}

async function read(url, options = {}) {
  let reply;
  try {
    reply = await fetch(url, { cache: "no-store", ...options });
  } catch {
    throw new Refused(0, "The service does not answer", "is `kpiflow serve` running?");
  }
  const said = await reply.json().catch(() => ({}));
  if (reply.ok) return said;
  const wait = Number(reply.headers.get("Retry-After")) || 0;
  throw new Refused(reply.status, said.error ?? reply.statusText, said.fix, wait);
}
