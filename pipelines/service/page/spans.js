// Times that are counted back from the newest report: so an output of old reports shows what it has.

import { formatMinute } from "./format.js";

const HOUR_MS = 3_600_000;

/** So many hours before the newest report; null if it is not known when that was. */
export const countBack = (last, hours) => last && new Date(new Date(last).getTime() - HOUR_MS * hours).toISOString();

/** Where such times end. */
export const nameEnd = (last) => (last ? `up to the newest report, ${formatMinute(last)}` : "");
