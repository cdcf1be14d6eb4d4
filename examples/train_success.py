"""Train a model of success from what was known before a task ran, and test it on a later day.

Success is here: the task succeeded and took at most 300 ms. (Generated tasks fail by chance alone, which
nothing predicts; how long they take depends on the task and the agent.) Needs the extra `features`.
"""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss, roc_auc_score

from pipelines.cli import run

KNOWN_BEFORE = [
    # Of the task, when it is created.
    "priority_encoded", "task_complexity_score",
    # Of the agent: hours that had ended, and minutes up to two before the report. Tasks that take longer than
    # these two minutes would need their own start as the limit.
    "experience_tasks", "agent_fitness_score", "resource_correlation", "workload", "latency_trend",
    "accuracy_trend", "throughput_trend",
    # Of the clock.
    "execution_hour_sin", "execution_hour_cos",
]  # fmt: skip
"""Left out: every metric of the report itself (latency_ms, accuracy, cpu_usage, ..., and the flags and scores
that are made of them) and every column label_...: they are known only once the task has run."""
SUCCESS_MS = 300
SECOND_DAY = "2025-10-21T00:00:00Z"

folder = Path("tour/success")
features = folder / "features.parquet"
if not features.exists():
    generated = ["--records", "--reports", "6000", "--agents", "12", "--span", "48h", "--seed", "5"]
    run(["generate", *generated, "--output", f"{folder}/archive"])
    run(["backfill", "--input", f"{folder}/archive", "--output", f"{folder}/tables"])
    run(["features", f"{folder}/tables", "--output", str(features)])

rows = pq.read_table(features)
rows = rows.filter(rows["label_success"].is_valid())
x = np.column_stack([rows[name].to_numpy().astype(float) for name in KNOWN_BEFORE])
in_time = pc.less_equal(rows["label_execution_time_ms"], SUCCESS_MS)
y = pc.and_(rows["label_success"], in_time).to_numpy().astype(int)
held_out = (rows["recorded_at"].to_numpy() >= np.datetime64(SECOND_DAY.removesuffix("Z"))).astype(bool)

model = HistGradientBoostingClassifier(max_depth=3, learning_rate=0.05, random_state=0)
model.fit(x[~held_out], y[~held_out])
found = model.predict_proba(x[held_out])[:, 1]
# The baseline: the share of the first day, by agent type.
types = rows["agent_type"].fill_null("").to_numpy()
usual = {name: y[~held_out & (types == name)].mean() for name in np.unique(types[~held_out])}
baseline = np.array([usual.get(name, y[~held_out].mean()) for name in types[held_out]])

truth = y[held_out]
print(f"trained on {np.sum(~held_out):,} tasks of the first day, tested on {truth.size:,} of the second")
losses = []
for name, each in (("baseline, by agent type", baseline), ("model", found)):
    losses.append(log_loss(truth, np.clip(each, 1e-6, 1 - 1e-6)))
    print(f"{name}: log loss {losses[-1]:.3f}, AUC {roc_auc_score(truth, each):.3f}")
if losses[1] >= losses[0]:
    raise SystemExit("the model is no better than the baseline")
