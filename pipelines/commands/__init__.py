"""The command line's verbs, one file each.

A module is loaded when its command is asked for, because Beam alone takes a second to load.
"""

COMMANDS = {
    "generate": "Generate synthetic reports with the expected fate of each message.",
    "simulate": "Serve a Layer 4 to test against: its export, its stream and its metrics.",
    "validate": "Check archived messages and say why invalid ones are invalid.",
    "backfill": "Read archived messages and write the tables.",
    "stream": "Read Redis streams and write the tables until stopped.",
    "relay": "Relay Layer 4's HTTP export and WebSocket into a Redis stream.",
    "derive": "Make the tables that are made of tables.",
    "maintain": "Seal, move and expire the days of an output that are due.",
    "doctor": "Check that everything a job needs is available.",
    "status": "Show lag, watermark and last checkpoint of a streaming job.",
    "top": "Watch a streaming job live in the terminal.",
    "metrics": "Print or serve the metrics of a streaming job, for Prometheus.",
    "archive": "Write what Redis streams hold now as an archive.",
    "reconcile": "Check that every message is in exactly one table.",
    "parity": "Check that two outputs hold the same rows in every table.",
    "quality": "Check the quality of the data against thresholds.",
    "features": "Write the features of reports, with labels, as one file.",
    "show": "Show rates, latency, outliers, and quarantine by reason.",
    "query": "Ask named queries of an output: by task, agent, type, performance, time.",
    "compare": "Compare the variants of an experiment, at any time.",
    "trends": "Show changes of level and slopes of agents, types and the fleet.",
    "recommend": "Print what could be changed, why, and what was seen after.",
    "serve": "Serve an output over HTTP: named queries, export, live reports.",
    "quarantine": "List, show, replay and dismiss quarantined messages.",
    "audit": "Verify the audit of a service; print its heads.",
    "keys": "Make master keys; rotate and list the keys of an encrypted output.",
    "settings": "List every setting, its value and where it came from.",
}
"""The lines of `kpiflow --help`, in its order.

The module of a command has a function, or a group, of the same name.
"""

_ROWS = ("Validation", "History and outliers", "Enrichment", "Table files")
_JOB = (*_ROWS, "Sources", "Sinks", "Encryption", "Engine", "Derived tables")
_ALL = (*_JOB, "Metrics and logs")
_EVERY = (*_ALL, "Retention", "Maintenance")
SETTINGS_USED = {
    "generate": ("Sources",),
    "validate": ("Validation", "Sources"),
    "backfill": _JOB,
    "stream": _ALL,
    "relay": ("Validation", "Sources", "Metrics and logs"),
    "derive": ("Encryption", "Derived tables"),
    "maintain": ("Sources", "Encryption", "Retention", "Maintenance"),
    "doctor": _ALL,
    "status": ("Sources",),
    "top": ("Sources",),
    "metrics": ("Sources", "Encryption", "Metrics and logs"),
    "archive": ("Sources",),
    "reconcile": (*_ROWS, "Sources", "Sinks", "Encryption", "Derived tables"),
    "parity": ("Sinks", "Encryption"),
    "features": ("Encryption", "Derived tables"),
    "quality": ("Encryption",),
    "show": ("Sinks", "Encryption"),
    "query": ("Encryption",),
    "trends": ("Encryption",),
    "recommend": ("Encryption",),
    "serve": ("Sources", "Encryption"),
    "quarantine": (*_ROWS, "Sinks", "Encryption", "Derived tables"),
    "keys": ("Encryption",),
    "settings": _EVERY,
}
"""The groups of settings that the `--help` of a command shows: those that it uses. Others show none."""
