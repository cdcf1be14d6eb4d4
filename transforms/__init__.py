"""The steps of kpiflow's graph as Beam transforms that can be used on their own.

Elements are Arrow record batches (`transforms.core.record_batches` has their schemas). From KeyByShard to
Aggregate they are keyed by shard. A step that can reject rows has an output `quarantine` beside `reports`.

| transform | from | to |
|---|---|---|
| `transforms.sources.archives.archive_reader.ReadArchives` | root | messages of archive files |
| `transforms.validation.validate.Validate` | messages (RAW) | `reports` (REPORT_BATCH), `quarantine` |
| `transforms.core.sharding.KeyByShard` | reports | (shard, reports) |
| `transforms.history.batch_history.BatchHistory` | (shard, reports) | `reports`, `duplicates`, `quarantine` |
| `transforms.history.stream_history.StreamHistory` | (shard, reports) | the same, batch by batch |
| `transforms.outliers.FlagOutliers` | (shard, reports) | `reports` with FLAGS, `quarantine` |
| `transforms.enrich.Enrich` | (shard, reports) | `reports` with ENRICHMENT, `quarantine` |
| `transforms.aggregation.aggregate.Aggregate` | (shard, reports) | `rows`, `fleet` |
| `transforms.sinks.write_tables.WriteTables` | {name of a table: its rows} | files, warehouse, time series |

Each transform only wires a function of record batches, which is public too and needs no Beam:
`apply_history`, `compute_baselines`, `flag_outliers`, `compute_fences`, `enrich`, `make_partials`,
`merge_partials`, `finish`.

This program flags the reports of an archive:

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        messages = pipeline | ReadArchives(["reports.ndjson"])
        validated = messages.messages | Validate()
        history = validated.reports | KeyByShard(8) | BatchHistory(min_samples=30)
        flagged = history.reports | FlagOutliers(iqr_factor=1.5, flat_margin=0.1)
        _ = flagged.reports | beam.MapTuple(lambda shard, rows: print(rows.num_rows, "reports"))

Names that begin with an underscore are private, and so are all other modules: they change without notice.
"""
