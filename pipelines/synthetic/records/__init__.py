"""The records that belong to generated reports: tasks, execution results, agents and system health.

    tasks -> effects on latency, CPU and memory -> faults (rules that are broken on purpose) -> messages

The sizes of the effects, and the reports that break a rule, are part of `truth.json`.
"""
