-- The job of `kpiflow backfill` as DuckDB SQL, with kpiflow's default settings. Variable: `input`, a glob of NDJSON envelopes.
-- Leaves are read as JSON, so that a number, a text and `true` can be told apart: a cast alone takes "12" for 12.

SET timezone = 'UTC';
SET preserve_insertion_order = false;

CREATE MACRO number(leaf) AS TRY_CAST(leaf::VARCHAR AS DOUBLE);
CREATE MACRO texted(leaf) AS CASE WHEN starts_with(leaf::VARCHAR, '"') THEN leaf ->> '$' END;
CREATE MACRO uuid_of(text) AS CASE WHEN TRY_CAST(text AS UUID)::VARCHAR = lower(text) THEN TRY_CAST(text AS UUID) END;
CREATE MACRO is_rfc3339(text) AS regexp_full_match(
    text, '\d{4}-\d\d-\d\d[Tt]([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)');
CREATE MACRO moment(text) AS CASE WHEN is_rfc3339(text) THEN TRY_CAST(text AS TIMESTAMPTZ) END;
CREATE MACRO names_of(leaf) AS CASE WHEN starts_with(leaf::VARCHAR, '{') THEN json_keys(leaf) END;
CREATE MACRO given(leaf) AS (leaf IS NOT NULL)::INTEGER;
CREATE MACRO repeats(names) AS len(names) > len(list_distinct(names));
CREATE MACRO steps(text) AS list_transform(
    regexp_extract_all(regexp_replace(text, '"([^"\\]|\\.)*"', '', 'g'), '[\[\]{}]'),
    lambda mark: CASE WHEN mark IN ('[', '{') THEN 1 ELSE -1 END);
CREATE MACRO depth(text) AS list_transform([steps(text)], lambda marks: list_max(
    list_transform(range(1, len(marks) + 1), lambda last: list_sum(marks[:last]))))[1];
CREATE MACRO brackets(text) AS strlen(text) - strlen(replace(replace(text, '[', ''), '{', ''));
-- CASE, since AND computes both of its sides for every row.
CREATE MACRO too_deep(text) AS CASE WHEN brackets(text) > 32 THEN depth(text) > 32 ELSE false END;
CREATE MACRO numbers_only(leaf) AS len(list_filter(json_extract(leaf, '$.*'), lambda value: number(value) IS NULL)) = 0;
CREATE MACRO all_finite(leaf) AS len(list_filter(json_extract(leaf, '$.*'), lambda value: NOT isfinite(number(value)))) = 0;
CREATE MACRO texts_only(leaf) AS CASE WHEN starts_with(leaf::VARCHAR, '[')
    THEN len(list_filter(json_type(leaf, '$[*]'), lambda kind: kind <> 'VARCHAR')) = 0 ELSE false END;

-- What a report holds beside the names of the schema: a merge patch (RFC 7396) takes away what it gives as null.
CREATE MACRO unpatched(rest) AS
    CASE WHEN json_extract_string(rest, '$.execution_context') = '{}' THEN json_merge_patch(rest, '{"execution_context": null}')
    ELSE rest END;
CREATE MACRO unknown(object) AS unpatched(json_merge_patch(object, '{
    "task_id": null, "agent_id": null, "latency_ms": null, "accuracy": null, "cpu_usage": null, "memory_mb": null,
    "network_bytes": null, "custom_metrics": null, "recorded_at": null, "gpu_utilization": null, "error_details": null,
    "source_layer": null, "target_agent_type": null, "priority": null, "execution_context": {"hostname": null,
    "available_cores": null, "available_memory_mb": null, "gpu_info": null, "network_interfaces": null}}'));

-- The same JSON as text, whatever its spelling.
CREATE MACRO canonical(leaf) AS CASE WHEN leaf IS NOT NULL THEN json_normalize(leaf)::VARCHAR END;

CREATE TABLE messages AS
WITH lines AS (
    SELECT 'archive' AS source, message_id, received_at, NOT starts_with(data::VARCHAR, '{') AS quoted,
        CASE WHEN starts_with(data::VARCHAR, '"') THEN data ->> '$' ELSE data::VARCHAR END AS payload
    FROM read_json(getvariable('input'), format = 'newline_delimited',
        columns = {message_id: 'VARCHAR', received_at: 'TIMESTAMPTZ', data: 'JSON'})
), documents AS (
    SELECT *, NOT quoted OR json_valid(payload) AS is_json,
        CASE WHEN NOT quoted THEN payload WHEN json_valid(payload) AND json_type(payload) = 'OBJECT' THEN payload END AS object
    FROM lines
), top AS (
    SELECT * EXCLUDE (quoted), json_keys(object) AS names, from_json(object, '{
        "task_id": "JSON", "agent_id": "JSON", "latency_ms": "JSON", "accuracy": "JSON", "cpu_usage": "JSON", "memory_mb": "JSON",
        "network_bytes": "JSON", "custom_metrics": "JSON", "recorded_at": "JSON", "execution_context": "JSON",
        "gpu_utilization": "JSON", "error_details": "JSON", "source_layer": "JSON", "target_agent_type": "JSON",
        "priority": "JSON"}') AS leaf
    FROM documents
), nested AS (
    SELECT *, names_of(leaf.execution_context) AS context_names, from_json(leaf.execution_context, '{
        "hostname": "JSON", "available_cores": "JSON", "available_memory_mb": "JSON", "gpu_info": "JSON",
        "network_interfaces": "JSON"}') AS context
    FROM top
), typed AS (
    SELECT source, message_id, received_at, payload, is_json, object, leaf, context, names, context_names,
        uuid_of(texted(leaf.task_id)) AS task_id, uuid_of(texted(leaf.agent_id)) AS agent_id,
        moment(texted(leaf.recorded_at)) AS recorded_at,
        number(leaf.latency_ms) AS latency_ms, number(leaf.accuracy) AS accuracy,
        number(leaf.cpu_usage) AS cpu_usage, number(leaf.memory_mb) AS memory_mb,
        number(leaf.network_bytes) AS network_bytes, number(leaf.gpu_utilization) AS gpu_utilization,
        number(leaf.priority) AS priority, texted(leaf.source_layer) AS source_layer,
        texted(leaf.target_agent_type) AS target_agent_type, texted(context.hostname) AS hostname,
        number(context.available_cores) AS available_cores, number(context.available_memory_mb) AS available_memory_mb,
        len(names) + len(context_names) > 11 + given(leaf.network_bytes) + given(leaf.custom_metrics) + given(leaf.gpu_utilization)
            + given(leaf.error_details) + given(leaf.source_layer) + given(leaf.target_agent_type) + given(leaf.priority)
            + given(context.gpu_info) + given(context.network_interfaces) AS unusual
    FROM nested
), checked AS (
    -- A name that the schema does not know, an explicit null or a name that stands twice makes a document unusual.
    SELECT *,
        CASE WHEN unusual OR length(leaf.error_details) > 60 OR length(context.gpu_info) > 60
            THEN too_deep(payload) ELSE false END AS deep,
        CASE WHEN unusual THEN repeats(names) OR repeats(context_names) ELSE false END OR
            CASE WHEN leaf.custom_metrics IS NOT NULL
                THEN coalesce(repeats(names_of(leaf.custom_metrics)), false) ELSE false END AS repeated,
        CASE WHEN unusual THEN unknown(object) END AS rest,
        isfinite(latency_ms) AND isfinite(accuracy) AND isfinite(cpu_usage) AND isfinite(memory_mb)
            AND isfinite(available_memory_mb) AND isfinite(available_cores) AND coalesce(isfinite(network_bytes), true)
            AND coalesce(isfinite(gpu_utilization), true) AND coalesce(isfinite(priority), true)
            AND CASE WHEN leaf.custom_metrics IS NOT NULL THEN all_finite(leaf.custom_metrics) ELSE true END AS finite,
        CASE WHEN object IS NULL THEN false ELSE
            task_id IS NOT NULL AND agent_id IS NOT NULL AND recorded_at IS NOT NULL
            AND coalesce(latency_ms > 0 AND latency_ms < 300000 AND accuracy BETWEEN 0 AND 1 AND cpu_usage BETWEEN 0 AND 1
                AND memory_mb > 0 AND memory_mb < 1000000, false)
            AND (leaf.network_bytes IS NULL OR coalesce(network_bytes >= 0 AND network_bytes < 1000000000000
                AND network_bytes = trunc(network_bytes), false))
            AND (leaf.gpu_utilization IS NULL OR coalesce(gpu_utilization BETWEEN 0 AND 1, false))
            AND (leaf.priority IS NULL OR coalesce(priority IN (1, 25, 50, 75, 100), false))
            AND (leaf.source_layer IS NULL OR coalesce(length(source_layer) <= 100, false))
            AND (leaf.target_agent_type IS NULL OR coalesce(length(target_agent_type) <= 100, false))
            AND coalesce(length(hostname) BETWEEN 1 AND 253, false)
            AND coalesce(available_cores BETWEEN 1 AND 65536 AND available_cores = trunc(available_cores), false)
            AND coalesce(available_memory_mb > 0 AND available_memory_mb <= 1000000000, false)
            AND (context.gpu_info IS NULL OR starts_with(context.gpu_info::VARCHAR, '{'))
            AND CASE WHEN context.network_interfaces IS NULL THEN true ELSE texts_only(context.network_interfaces) END
            AND CASE WHEN leaf.custom_metrics IS NULL THEN true WHEN NOT starts_with(leaf.custom_metrics::VARCHAR, '{') THEN false
                ELSE numbers_only(leaf.custom_metrics)
                    AND coalesce(list_max(list_transform(json_keys(leaf.custom_metrics), lambda name: length(name))), 0) <= 100 END
        END AS valid
    FROM typed
)
SELECT * EXCLUDE (leaf, context, names, context_names, unusual, is_json, object, rest, deep, repeated, finite, valid),
    CASE WHEN rest <> '{}' THEN canonical(rest) END AS extra,
    canonical(leaf.error_details) AS error_details, canonical(context.gpu_info) AS gpu_info,
    CASE WHEN valid AND NOT repeated THEN from_json(leaf.custom_metrics, '"MAP(VARCHAR, DOUBLE)"') END AS custom_metrics,
    CASE WHEN valid THEN from_json(context.network_interfaces, '["VARCHAR"]') END AS network_interfaces,
    CASE WHEN object IS NULL AND too_deep(payload) THEN 'depth' WHEN NOT is_json THEN 'json' WHEN deep THEN 'depth'
        WHEN NOT coalesce(finite, true) THEN 'json' WHEN repeated THEN 'duplicate_key' WHEN object IS NULL THEN 'not_object'
        WHEN NOT valid THEN 'schema' WHEN received_at - recorded_at > INTERVAL 1 HOUR THEN 'stale'
        WHEN recorded_at - received_at > INTERVAL 60 SECONDS THEN 'future' END AS reason
FROM checked;

CREATE TABLE quarantine AS
SELECT source, message_id, received_at, payload, reason FROM messages WHERE reason IS NOT NULL;

-- A report is what its fields say: of equal ones the earliest message stands. Only those that are equal to another are sorted.
CREATE TABLE copies AS
SELECT rowid AS place, source, message_id, received_at, task_id, recorded_at,
    hash(agent_id, latency_ms, accuracy, cpu_usage, memory_mb, network_bytes, gpu_utilization, priority, source_layer,
        target_agent_type, hostname, available_cores, available_memory_mb, extra, error_details, gpu_info, network_interfaces,
        list_sort(map_entries(custom_metrics))) AS content
FROM messages
WHERE reason IS NULL;

CREATE TABLE duplicates AS
SELECT place, source, message_id, received_at
FROM copies SEMI JOIN (SELECT task_id, recorded_at, content FROM copies GROUP BY ALL HAVING count(*) > 1) AS several
    USING (task_id, recorded_at, content)
QUALIFY row_number() OVER (
    PARTITION BY task_id, recorded_at, content ORDER BY received_at NULLS FIRST, source, length(message_id), message_id) > 1;

CREATE TABLE feeding AS
SELECT rowid AS place, agent_id, epoch_us(recorded_at) // 60000000 AS minute, latency_ms, accuracy, cpu_usage, memory_mb,
    received_at - recorded_at <= INTERVAL 60 SECONDS AS feeds
FROM messages ANTI JOIN duplicates ON messages.rowid = duplicates.place
WHERE reason IS NULL;

CREATE TABLE baseline AS
SELECT place, count(*) FILTER (feeds) OVER past AS n,
    quantile_disc(latency_ms, [0.25, 0.5, 0.75]) FILTER (feeds) OVER past AS latency,
    quantile_disc(accuracy, [0.25, 0.75]) FILTER (feeds) OVER past AS accuracy,
    quantile_disc(cpu_usage, [0.25, 0.75]) FILTER (feeds) OVER past AS cpu,
    quantile_disc(memory_mb, [0.25, 0.75]) FILTER (feeds) OVER past AS memory
FROM feeding
WINDOW past AS (PARTITION BY agent_id ORDER BY minute RANGE BETWEEN 62 PRECEDING AND 3 PRECEDING);

-- Tukey's outer fences (k = 3); where both quartiles are equal, a margin of a tenth.
CREATE MACRO far(quartiles, relative) AS CASE WHEN quartiles[1] < quartiles[-1] THEN 3 * (quartiles[-1] - quartiles[1])
    WHEN relative THEN 0.1 * quartiles[1] ELSE 0.1 END;
CREATE MACRO state(quartiles) AS
    CASE WHEN quartiles IS NULL THEN 'warmup' WHEN quartiles[1] = quartiles[-1] THEN 'flat' ELSE 'ready' END;

CREATE TABLE kpi_reports AS
WITH warm AS (
    SELECT place, n AS baseline_n, CASE WHEN n >= 30 THEN latency END AS latency, CASE WHEN n >= 30 THEN accuracy END AS accuracy,
        CASE WHEN n >= 30 THEN cpu END AS cpu, CASE WHEN n >= 30 THEN memory END AS memory
    FROM baseline
), fenced AS (
    SELECT place, baseline_n,
        state(latency) AS latency_baseline_state, latency[1] AS latency_q1, latency[2] AS latency_median, latency[3] AS latency_q3,
        latency_q1 - far(latency, true) AS latency_low_fence, latency_q3 + far(latency, true) AS latency_high_fence,
        state(accuracy) AS accuracy_baseline_state, accuracy[1] AS accuracy_q1, accuracy[2] AS accuracy_q3,
        accuracy_q1 - far(accuracy, false) AS accuracy_low_fence, accuracy_q3 + far(accuracy, false) AS accuracy_high_fence,
        state(cpu) AS cpu_baseline_state, cpu[1] AS cpu_q1, cpu[2] AS cpu_q3,
        cpu_q1 - far(cpu, false) AS cpu_low_fence, cpu_q3 + far(cpu, false) AS cpu_high_fence,
        state(memory) AS memory_baseline_state, memory[1] AS memory_q1, memory[2] AS memory_q3,
        memory_q1 - far(memory, true) AS memory_low_fence, memory_q3 + far(memory, true) AS memory_high_fence
    FROM warm
), flagged AS (
    SELECT messages.* EXCLUDE (payload, reason, gpu_info, hostname, available_cores, available_memory_mb, network_interfaces,
            task_id, agent_id, network_bytes, priority),
        task_id::VARCHAR AS task_id, agent_id::VARCHAR AS agent_id,
        network_bytes::BIGINT AS network_bytes, priority::BIGINT AS priority,
        {hostname: hostname, available_cores: available_cores::BIGINT, available_memory_mb: available_memory_mb, gpu_info: gpu_info,
            network_interfaces: network_interfaces} AS execution_context,
        fenced.* EXCLUDE (place, latency_median), 1 AS schema_version, baseline_n AS revision,
        coalesce(latency_ms > latency_high_fence, false) AS is_latency_anomaly,
        coalesce(accuracy < accuracy_low_fence, false) AS is_accuracy_anomaly,
        coalesce(cpu_usage > cpu_high_fence OR memory_mb > memory_high_fence, false) AS is_resource_anomaly,
        is_latency_anomaly OR coalesce(latency_ms < latency_low_fence, false) AS is_latency_outlier,
        is_accuracy_anomaly OR coalesce(accuracy > accuracy_high_fence, false) AS is_accuracy_outlier,
        coalesce(cpu_usage > cpu_high_fence OR cpu_usage < cpu_low_fence, false) AS is_cpu_outlier,
        coalesce(memory_mb > memory_high_fence OR memory_mb < memory_low_fence, false) AS is_memory_outlier,
        CASE WHEN latency_baseline_state = 'ready' THEN (latency_ms - latency_median) / ((latency_q3 - latency_q1) / 1.349) END
            AS latency_zscore,
        (cpu_usage + least(1, memory_mb / available_memory_mb)) / 2 AS resource_use,
        accuracy * 1000 / (1000 + latency_ms) AS performance_score,
        CASE WHEN resource_use > 0 THEN performance_score / resource_use END AS efficiency_ratio,
        accuracy * (1 - resource_use) AS resource_efficiency,
        1 / (1 + cpu_usage * latency_ms / 1000) AS cpu_efficiency,
        1 / (1 + memory_mb / 1000 * latency_ms / 1000) AS memory_efficiency,
        1 / (1 + network_bytes / 1e6) AS network_efficiency,
        hour(recorded_at)::INTEGER AS hour_of_day, isodow(recorded_at)::INTEGER AS day_of_week,
        day_of_week <= 5 AND hour_of_day >= 9 AND hour_of_day < 17 AS is_peak_hour
    FROM messages JOIN fenced ON messages.rowid = fenced.place
)
SELECT * EXCLUDE (resource_use) FROM flagged;

CREATE MACRO aggregated(width) AS TABLE
SELECT time_bucket(width, recorded_at) AS time_window_start, time_window_start + width AS time_window_end, agent_id,
    min(target_agent_type) AS target_agent_type, count(*) AS task_count,
    count(*) FILTER (error_details IS NULL) / count(*) AS success_rate,
    avg(latency_ms) AS avg_latency_ms, stddev_samp(latency_ms) AS latency_stddev,
    min(latency_ms) AS min_latency_ms, max(latency_ms) AS max_latency_ms,
    quantile_disc(latency_ms, [0.5, 0.95, 0.99]) AS percentiles,
    percentiles[1] AS latency_p50_ms, percentiles[2] AS latency_p95_ms, percentiles[3] AS latency_p99_ms,
    avg(accuracy) AS avg_accuracy, stddev_samp(accuracy) AS accuracy_stddev, avg(cpu_usage) AS avg_cpu_usage,
    avg(memory_mb) AS avg_memory_mb, sum(network_bytes)::BIGINT AS total_network_bytes,
    avg(performance_score) AS performance_score, avg(efficiency_ratio) AS efficiency_ratio,
    count(*) FILTER (is_latency_outlier) AS latency_outlier_count, count(*) FILTER (is_accuracy_outlier) AS accuracy_outlier_count,
    count(*) FILTER (is_cpu_outlier) AS cpu_outlier_count, count(*) FILTER (is_memory_outlier) AS memory_outlier_count,
    sum(1 + baseline_n)::BIGINT AS revision
FROM kpi_reports
GROUP BY ALL;

CREATE VIEW kpi_aggregations AS
SELECT '5s' AS granularity, * EXCLUDE (percentiles) FROM aggregated(INTERVAL 5 SECONDS)
UNION ALL SELECT '1m', * EXCLUDE (percentiles) FROM aggregated(INTERVAL 1 MINUTE)
UNION ALL SELECT '1h', * EXCLUDE (percentiles) FROM aggregated(INTERVAL 1 HOUR);
