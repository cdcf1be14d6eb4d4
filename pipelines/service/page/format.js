// Numbers and times as texts. All times are UTC.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const digits = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const times = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const rate = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

/** `better`: the direction in which a metric improves. `window`: its column in windows.
 * `isRelative`: its trends are shares, as docs/columns.md says. */
export const METRICS = {
  latency_ms: { name: "Latency", unit: " ms", better: "lower", window: "avg_latency_ms", isRelative: true },
  accuracy: { name: "Accuracy", unit: "", better: "higher", window: "avg_accuracy" },
  cpu_usage: { name: "CPU", unit: "", better: "lower", window: "avg_cpu_usage" },
  memory_mb: { name: "Memory", unit: " MB", better: "lower", window: "avg_memory_mb", isRelative: true },
  performance_score: { name: "Performance", unit: "", better: "higher", window: "performance_score" },
};

export const formatCount = (value) => whole.format(value);

/** A value as a whole number from 100 on, else with four significant digits. */
export function formatNumber(value) {
  if (value === null || value === undefined) return "?";
  return (Math.abs(value) >= 100 ? whole : digits).format(value).replace("-", "−");
}

export const formatRate = (value) => (value >= 100 ? whole : rate).format(value);

export const formatTimes = (value) => times.format(value);

export const formatMeasure = (column, value) => `${formatNumber(value)}${METRICS[column]?.unit ?? ""}`;

/** A share in percent. Only 0 and 1 read as 0 % and 100 %. */
export function formatShare(share) {
  if (share === null || share === undefined) return "–";
  const shown = share > 0 && share < 1 ? Math.min(Math.max(share, 0.001), 0.999) : share;
  return `${(100 * shown).toFixed(1)} %`.replace("-", "−");
}

export const nameMetric = (metric) => METRICS[metric]?.name ?? metric;

export const formatTime = (moment) => new Date(moment).toISOString().slice(11, 19);
export const formatDate = (moment) => new Date(moment).toISOString().slice(0, 10);
export const formatMinute = (moment) => new Date(moment).toISOString().slice(0, 16).replace("T", " ");
export const shortenId = (id) => (id.length > 12 ? `${id.slice(0, 8)}…` : id);
export const plural = (count, one, many = `${one}s`) => `${formatCount(count)} ${count === 1 ? one : many}`;
