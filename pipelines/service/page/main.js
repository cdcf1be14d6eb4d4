// The page of `kpiflow serve`: each section is a module that gets its element and what all of them share.

import { mountComparisons } from "./comparisons.js";
import { put, setText } from "./dom.js";
import { mountFates } from "./fates.js";
import { makeNotices } from "./notices.js";
import { mountOutliers } from "./outliers.js";
import { mountQuality } from "./quality.js";
import { mountQuarantine } from "./quarantine.js";
import { mountRates } from "./rates.js";
import { mountRecommendations } from "./recommendations.js";
import { watchStatus } from "./status.js";
import { mountTheme } from "./theme.js";
import { mountTrends } from "./trends.js";

const find = (id) => document.getElementById(id);

/**
 * The state in the header: "live", "waiting" or "quiet", and what it means, of the service and of its stream.
 * What waits is shown first.
 */
function makeConnection(element) {
  const states = new Map();
  return {
    set(source, name, text) {
      states.set(source, { name, text });
      const all = ["stream", "service"].map((each) => states.get(each)).filter(Boolean);
      const shown = all.find((each) => each.name === "waiting") ?? all[0];
      element.dataset.state = shown.name;
      setText(element, shown.text);
    },
  };
}

mountTheme(find("theme"));
const connection = makeConnection(find("connection"));
const shared = { status: watchStatus(), notices: makeNotices(find("notices")), connection };
shared.status.subscribe({
  onStatus({ output }) {
    connection.set("service", "quiet", "no live reports");
    put(find("output"), output);
    document.title = `${output} · kpiflow`;
  },
  onError: (error) => error.status === 0 && connection.set("service", "waiting", "the service does not answer"),
});
mountRates(find("rates"), shared);
mountFates(find("fates"), shared);
mountOutliers(find("outliers"), shared);
mountComparisons(find("comparisons"));
mountTrends(find("trends"), shared);
mountRecommendations(find("recommendations"), shared);
mountQuality(find("quality"), shared);
mountQuarantine(find("quarantine"), shared);
