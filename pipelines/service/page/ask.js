// Requests to the service, and what it says where it refuses one.

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
  return read(query ? `${path}?${query}` : path);
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
