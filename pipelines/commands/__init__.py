"""The command line's verbs, one file each, which is loaded when its command is asked for: Beam alone takes a second to load."""

COMMANDS = {
    "generate": "Make synthetic reports, as an archive or live, with the truth about each message.",
    "validate": "Say which archived messages are valid and why the others are not.",
    "backfill": "Read archived messages and write the tables.",
    "stream": "Read Redis streams and write the tables, until stopped.",
    "doctor": "Check that everything a job needs is there.",
    "status": "Of a streaming job: lag, watermark, last checkpoint.",
    "archive": "Keep what Redis streams hold now as an archive.",
    "reconcile": "Check that every message is in exactly one table.",
    "parity": "Check that two outputs hold the same rows in every table.",
    "show": "Show what came in: rates, latency, outliers, quarantine by reason.",
    "quarantine": "List and show what was refused, and let it in after all.",
    "settings": "List every setting, its value and where that came from.",
}
"""The lines of `kpiflow --help`, in its order. The module of a command holds a function, or a group, of the same name."""
