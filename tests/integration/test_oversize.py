"""A message that is longer than max_payload_bytes leaves its beginning, its length and its digest, wherever
it comes from."""

import hashlib
import json
from pathlib import Path

from schemas.tables import QUARANTINED
from tests.builders import line_id, payload, report
from tests.integration.archives import Typed, envelope, fates, rows, write
from transforms.core.excerpt import KEPT_BYTES
from transforms.envelopes.envelope_lines import NO_DATA, write_entry, write_envelope

LIMIT = 1 << 20
MOMENT = "2025-10-22T12:00:00.000000Z"
NULS = bytes(LIMIT * 3 // 2)
LONG = payload(report(1, notes="n" * LIMIT))


def archive(folder: Path) -> dict[str, bytes]:
    """An archive of all kinds of files; the oversize messages by their ids."""
    bare, entry = bytes(9 * LIMIT), write_entry("kpi", "2-0", 1761134400000, {b"note": NULS})
    write(folder / "bare.ndjson.zst", [payload(report(2)), bare, LONG])
    both = [envelope(LONG, "text"), envelope(json.loads(LONG), "object")]
    write(folder / "envelopes.ndjson.gz", [*both, envelope(report(3), "good")])
    write(folder / "stream.ndjson", [write_envelope("kpi", "1-0", MOMENT, NULS)])
    write(folder / "stream.refused.ndjson", [entry])
    write(folder / "rows.parquet", [envelope(LONG.decode(), "row")])
    named = {"text": LONG, "object": LONG, "row": LONG, "1-0": NULS, "2-0": entry}
    return named | {line_id(2, bare): bare, line_id(3, LONG): LONG}


def test_an_oversize_message_keeps_its_beginning_its_length_and_its_digest(
    tmp_path: Path, typed: Typed
) -> None:
    oversize, out = archive(tmp_path / "in"), tmp_path / "out"
    assert typed("backfill", "--input", tmp_path / "in", "--output", out)[0] == 0
    found = {row["message_id"]: row for row in rows(out, QUARANTINED)}
    assert found.keys() == oversize.keys()
    for name, octets in oversize.items():
        digest = hashlib.sha256(octets).hexdigest()
        kept = [
            found[name][column]
            for column in ("reason", "payload", "payload_bytes", "payload_sha256", "message")
        ]
        assert kept == [
            "oversize",
            octets[:KEPT_BYTES],
            len(octets),
            digest,
            f"{len(octets)} bytes are more than {LIMIT}",
        ]
    code, text, _ = typed("reconcile", out, "--input", tmp_path / "in", "--json")
    assert (code, json.loads(text)["problems"], json.loads(text)["received"]) == (0, [], len(oversize) + 2)
    assert NO_DATA not in {row["message"] for row in found.values()}


def test_replay_says_that_an_oversize_message_is_not_kept_and_takes_the_mended_one(
    tmp_path: Path, typed: Typed
) -> None:
    out = tmp_path / "out"
    write(tmp_path / "in.ndjson", [envelope(LONG, "long")])
    assert typed("backfill", "--input", tmp_path / "in.ndjson", "--output", out)[0] == 0
    code, said, warned = typed("quarantine", "replay", out)
    assert (code, "0 replayed, 1 still rejected" in said) == (0, True)
    assert "only its beginning is kept: give it corrected with --input" in " ".join(warned.split())
    assert (
        typed(
            "quarantine",
            "replay",
            out,
            "--input",
            write(tmp_path / "corrected.ndjson", [envelope(report(1), "long")]),
        )[0]
        == 0
    )
    assert fates(out) == {"long": "report"}
    assert typed("reconcile", out, "--input", tmp_path / "in.ndjson")[0] == 0
