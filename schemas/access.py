"""The class of each column: who may see it. A column without a class is restricted.

| class | what |
|---|---|
| public | sums and means over all agents of a type, of windows with at least FEWEST_TASKS tasks |
| internal | single reports and records, windows by agent, features, data quality |
| confidential | rules of recommendations and parameters of models: how the system is optimised |
| restricted | what producers write freely, which may contain anything: texts, payloads, custom metrics |

Hashes of restricted content (HASHES) are internal, but shown only as an HMAC to those who may not see the
content: who guesses the content could otherwise confirm the guess.
"""

from enum import IntEnum

FEWEST_TASKS = 10
"""A window of kpi_fleet with fewer tasks is internal: it may be about one agent or one task."""


class AccessClass(IntEnum):
    """The classes, from the most open to the most closed."""

    PUBLIC = 0
    INTERNAL = 1
    CONFIDENTIAL = 2
    RESTRICTED = 3


HASHES = frozenset({"report_id", "record_id", "version", "resolved_by"})
"""Columns whose text contains a hash over content that is restricted, in every table that has them."""

_MESSAGE = "source message_id received_at schema_version"
_REPORT = (
    "task_id agent_id recorded_at latency_ms accuracy cpu_usage memory_mb network_bytes execution_context "
    "gpu_utilization source_layer target_agent_type priority report_id revision performance_score "
    "efficiency_ratio resource_efficiency cpu_efficiency memory_efficiency network_efficiency hour_of_day "
    "day_of_week is_peak_hour is_latency_anomaly is_accuracy_anomaly is_resource_anomaly baseline_n "
    "latency_zscore accuracy_percentile "
) + " ".join(
    f"{metric}_low_fence {metric}_high_fence is_{metric}_outlier {metric}_baseline_state "
    f"{metric}_q1 {metric}_q3"
    for metric in ("latency", "accuracy", "cpu", "memory")
)
_WINDOW = (
    "granularity time_window_start time_window_end target_agent_type task_count success_rate avg_latency_ms "
    "latency_stddev min_latency_ms max_latency_ms latency_p50_ms latency_p95_ms latency_p99_ms avg_accuracy "
    "accuracy_stddev avg_cpu_usage avg_memory_mb total_network_bytes performance_score efficiency_ratio "
    "latency_outlier_count accuracy_outlier_count cpu_outlier_count memory_outlier_count revision"
)
_FEATURE = (
    "report_id recorded_at agent_id task_id context_state agent_type agent_type_category source_layer "
    "target_agent_type priority priority_encoded experience_tasks experience_level workload workload_level "
    "latency_trend latency_trend_se accuracy_trend accuracy_trend_se trend_n throughput_trend "
    "throughput_trend_se throughput_trend_n task_complexity_score task_complexity_n cpu_correlation "
    "memory_correlation resource_correlation resource_correlation_n agent_fitness_score execution_hour_sin "
    "execution_hour_cos execution_day_sin execution_day_cos"
)
_INCONSISTENCY = "report_id rule severity recorded_at effective_at task_id agent_id"

_PUBLIC, _INTERNAL, _CONFIDENTIAL, _RESTRICTED = AccessClass
_COLUMNS: dict[str, dict[AccessClass, str]] = {
    "kpi_reports": {
        _INTERNAL: f"{_REPORT} {_MESSAGE}",
        _RESTRICTED: "custom_metrics error_details extra",
    },
    "kpi_aggregations": {_INTERNAL: f"agent_id {_WINDOW}"},
    "kpi_fleet": {_PUBLIC: _WINDOW},
    "quarantine": {
        _INTERNAL: "source message_id received_at kind encoding payload_bytes reason rule resolution "
        "dismissed_because dismissed_at revision",
        # The hash of a payload confirms a guess of it; names of fields may be the producer's own.
        _RESTRICTED: "payload payload_sha256 field message",
    },
    "duplicates": {_INTERNAL: "source message_id received_at kind record_id report_id revision"},
    "trimmed": {_INTERNAL: "source message_id received_at after entries reason revision"},
    "tasks": {
        _INTERNAL: "task_id version effective_at created_at priority source_layer target_agent_type deadline "
        f"max_cpu_cores max_memory_mb max_execution_time_secs max_network_mbps payload_bytes {_MESSAGE}",
        _RESTRICTED: "payload metadata extra",
    },
    "results": {
        _INTERNAL: "task_id version effective_at completed_at success execution_time_ms cpu_seconds "
        f"memory_peak_mb network_tx_bytes network_rx_bytes disk_io_ops gpu_utilization {_MESSAGE}",
        _RESTRICTED: "output error extra",
    },
    "agents": {
        _INTERNAL: "agent_id version effective_at agent_type state capabilities created_at wasm_sha256 "
        f"wasm_bytes {_MESSAGE}",
        _RESTRICTED: "stats extra",
    },
    "system_health": {
        _INTERNAL: "effective_at recorded_at status active_agents uptime_seconds resource_utilization "
        f"{_MESSAGE}",
        _RESTRICTED: "extra",
    },
    "features": {
        _INTERNAL: _FEATURE,
        # The weight is a parameter of the estimate; an experiment is a decision about optimisation.
        _CONFIDENTIAL: "agent_fitness_weight experiment variant",
    },
    "task_sums": {
        _INTERNAL: "time_window_start target_agent_type task_count",
        _CONFIDENTIAL: "low high sums",  # the sums of the fit: its parameters follow from them
    },
    "outcome_sums": {
        _INTERNAL: "time_window_start measure subject task_count",
        _CONFIDENTIAL: "total counts",  # the steps of rules
    },
    "recommendations": {
        _CONFIDENTIAL: "decided_at rule rule_version subject_kind subject state recommendation parameter "
        "current proposed factor reason evidence confidence since expires_at outcome"
    },
    "trends": {
        _INTERNAL: "time_window_start level agent_id target_agent_type metric kind verdict points "
        "is_hour_adjusted slope slope_low slope_high changed_at before after change change_low change_high z "
        "threshold false_alarms only_type"
    },
    "inconsistencies": {_INTERNAL: _INCONSISTENCY, _RESTRICTED: "evidence"},
    "resolutions": {_INTERNAL: f"{_INCONSISTENCY} resolved_at resolved_by", _RESTRICTED: "evidence"},
    "marks": {
        _INTERNAL: "marked_at report_id column verdict marked_by value agent_id task_id recorded_at replaces",
        _RESTRICTED: "note",
    },
    "data_quality": {
        _INTERNAL: "granularity source time_window_start time_window_end verdict received incomplete checked "
        "inaccurate timed timely related consistent completeness accuracy timeliness consistency "
        "completeness_threshold accuracy_threshold timeliness_threshold consistency_threshold"
    },
}
CLASSES: dict[str, dict[str, AccessClass]] = {
    table: {name: level for level, names in levels.items() for name in names.split()}
    for table, levels in _COLUMNS.items()
}
"""The class of each column, by table."""


def find_class(table: str, column: str) -> AccessClass:
    """The class of a column; restricted if it has none."""
    return CLASSES.get(table, {}).get(column, AccessClass.RESTRICTED)
