"""What the tests of this folder share: archives in a line, and an output as plain rows and bytes."""

import gzip
import hashlib
import json
import random
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from pipelines.cli import run
from pipelines.verify.table_scan import scan
from schemas.tables import DUPLICATES, QUARANTINED, REPORTS, Table
from tests.builders import NOON, agent, payload, report

Typed = Callable[..., tuple[int, str, str]]
"""Runs one command in this process: its exit code, what it said on stdout, and on stderr."""


def envelope(document: Any, number: object, at: datetime | None = NOON, source: str = "test") -> bytes:
    """The line of a message: a document as an object, text as a string; `number` is its id, `at` when it was
    received."""
    received = at and at.isoformat().replace("+00:00", "Z")
    data = document.decode("utf-8", "surrogateescape") if isinstance(document, bytes) else document
    return json.dumps(
        {"source": source, "message_id": str(number), "received_at": received, "data": data}
    ).encode()


def write(path: Path, lines: Iterable[bytes]) -> Path:
    """An archive of these lines, compressed, or as Parquet (of envelopes), as the end of its name asks."""
    text = b"".join(line + b"\n" for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(_columns([json.loads(line) for line in text.splitlines()]), path)
    else:
        path.write_bytes({".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)(text))
    return path


def make_output(folder: Path, lines: Iterable[bytes], *words: str) -> Path:
    """The output `out` of a backfill of these lines, which are `a.ndjson` in the same folder."""
    archive, output = write(folder / "a.ndjson", lines), folder / "out"
    assert run(["backfill", "--input", str(archive), "--output", str(output), *words]) == 0
    return output


def _columns(envelopes: Sequence[dict[str, Any]]) -> pa.Table:
    data = [
        payload(each["data"]) if isinstance(each["data"], dict) else each["data"].encode()
        for each in envelopes
    ]
    said = {name: [each.get(name) for each in envelopes] for name in ("source", "message_id", "received_at")}
    return pa.table({name: pa.array(values, pa.string()) for name, values in said.items()} | {"data": data})


def stream(
    count: int, agents: int = 2, seconds: float = 30, seed: int = 0, start: datetime = NOON
) -> list[bytes]:
    """Envelopes of `count` messages: agents that report in turn, one in 20 late, one in 20 sent twice, one in
    25 not valid."""
    draw = random.Random(seed)
    lines: list[bytes] = []
    for number in range(count):
        at = start + timedelta(seconds=seconds / agents * number)
        fields = {
            "latency_ms": 100 * draw.lognormvariate(0, 0.3),
            "accuracy": min(1.0, draw.gauss(0.9, 0.03)),
        }
        document: Any = report(
            1000 * seed + number, at, agent_id=agent(10 * seed + number % agents), **fields
        )
        received = at + timedelta(seconds=draw.choice([120, 2400]) if draw.random() < 0.05 else 1)
        if draw.random() < 0.04:
            document = draw.choice([json.dumps(document)[:-1], document | {"accuracy": 2}])
        lines.append(envelope(document, f"{seed}-{number}", received))
        if draw.random() < 0.05:
            lines.append(
                envelope(
                    document, f"{seed}-{number}-again", received + timedelta(seconds=draw.randrange(-1, 300))
                )
            )
    return lines


def rows(output: Path, table: Table, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a table of an output."""
    return [row for batch in scan(output, table, columns) for row in batch.to_pylist()]


def fates(output: Path) -> dict[str, str]:
    """What became of each message, by its id: `report`, `duplicate`, or the reason it is refused for."""
    found = {row["message_id"]: row["reason"] for row in rows(output, QUARANTINED)}
    found |= {row["message_id"]: "duplicate" for row in rows(output, DUPLICATES)}
    return found | {row["message_id"]: "report" for row in rows(output, REPORTS, ["message_id"])}


def on_disk(output: Path) -> dict[str, tuple[str, int]]:
    """Every file of an output: the hash of its bytes, and when it was changed last.

    `_derive` is left out: it tells when tables were derived last.
    """
    files = {str(path.relative_to(output)): path for path in output.rglob("*") if path.is_file()}
    return {
        name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for name, path in files.items()
        if not name.startswith("_derive/")
    }
