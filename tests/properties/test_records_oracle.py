"""Records that come late, again and out of order, in any cut: the tables of one write, of many, and of a
plain dict are the same."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.kinds import KINDS, Kind
from schemas.tables import DUPLICATES, QUARANTINED
from tests.builders import NOON, agent_record, health, result, task
from transforms.core.record_batches import RAW
from transforms.sinks.parquet.parquet_file import read_file
from transforms.sinks.parquet.parquet_store import ParquetStore
from transforms.storage.local_folder import LocalFolder
from transforms.validation.validate import MessageRules, judge_kinds

Message = tuple[Kind, str, int | None, str]
"""Kind, message_id, minutes after noon at which it was received, and document."""
Fates = dict[str, set[tuple[str, str]]]
"""(source, message_id) of the rows of each table."""

_BROKEN = '{"id": 1}'
_NUMBERS = st.integers(0, 2)
_DOCUMENTS = {
    "task": st.builds(lambda n, layer: task(n, source_layer=layer), _NUMBERS, st.sampled_from("ab")),
    "execution_result": st.builds(
        lambda n, ok, at: result(n, NOON + timedelta(minutes=at), success=ok),
        _NUMBERS,
        st.booleans(),
        st.sampled_from([0, 30]),
    ),
    "agent": st.builds(
        lambda n, state, stats: agent_record(n, state=state, stats=stats),
        _NUMBERS,
        st.sampled_from(["idle", "busy"]),
        st.sampled_from([None, {"tasks": 1}, {"tasks": 2}]),
    ),
    "system_health": st.builds(lambda n: health(active_agents=n), _NUMBERS),
}


@st.composite
def message_lists(draw: st.DrawFn) -> list[Message]:
    """Messages, each under an id of its own."""
    kinds = draw(st.lists(st.sampled_from(sorted(_DOCUMENTS)), max_size=14))
    minutes = st.none() | st.sampled_from([0, 1, 45, 61])
    return [
        (
            KINDS[name],
            f"{draw(st.sampled_from([9, 10]))}-{number}",
            draw(minutes),
            draw(st.just(_BROKEN) | _DOCUMENTS[name].map(json.dumps)),
        )
        for number, name in enumerate(kinds)
    ]


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[Message], list[list[Message]]]:
    """Messages, and the same ones in any order and cut, some of them again."""
    sent = draw(message_lists())
    again = draw(st.lists(st.sampled_from(sent), max_size=4)) if sent else []
    order = draw(st.permutations([*sent, *again]))
    cuts = sorted(draw(st.lists(st.integers(0, len(order)), max_size=4)))
    return sent, [order[start:end] for start, end in zip([0, *cuts], [*cuts, len(order)])]


def expect(sent: Iterable[Message]) -> Fates:
    """The same rules, message by message."""
    groups: dict[Any, list[Message]] = defaultdict(list)
    fates: Fates = defaultdict(set)
    for kind, message_id, minute, text in sent:
        document = json.loads(text)
        if text == _BROKEN or is_untimely(document, minute):
            fates[QUARANTINED.name].add((kind.stream, message_id))
        elif kind.schema == "system_health":
            fates[kind.table.name].add((kind.stream, message_id))
        else:
            hour = None if kind.schema != "agent" or minute is None else minute // 60
            document.pop("stats", None)
            groups[kind, json.dumps(document), hour].append((kind, message_id, minute, text))
    for (kind, *_), same in groups.items():
        first, *others = sorted(
            same, key=lambda each: (each[2] is not None, each[2] or 0, len(each[1]), each[1])
        )
        fates[kind.table.name].add((kind.stream, first[1]))
        fates[DUPLICATES.name] |= {(kind.stream, other[1]) for other in others}
    return {table: rows for table, rows in fates.items() if rows}


def is_untimely(document: dict[str, Any], minute: int | None) -> bool:
    """Whether a result ended more than an hour before it was received, or more than a minute after."""
    if "completed_at" not in document or minute is None:
        return False
    lag = NOON + timedelta(minutes=minute) - datetime.fromisoformat(document["completed_at"])
    return not timedelta(minutes=-1) <= lag <= timedelta(hours=1)


def batch(sent: Sequence[Message]) -> pa.RecordBatch:
    rows = [
        {
            "source": kind.stream,
            "message_id": message_id,
            "received_at": None if minute is None else NOON + timedelta(minutes=minute),
            "payload": text.encode() + b"\n",
        }
        for kind, message_id, minute, text in sent
    ]
    return pa.RecordBatch.from_pylist(rows, schema=RAW)


def write(folder: Path, parts: Iterable[Sequence[Message]]) -> dict[str, list[dict[str, Any]]]:
    """The files of an output after one write of each part."""
    store = ParquetStore(LocalFolder(folder), 60)
    for part in parts:
        for kind, judged in judge_kinds(batch(part), MessageRules()):
            store.write(kind.table, [judged.rows])
            store.write(QUARANTINED, [judged.quarantine])
    return {
        path.relative_to(folder).as_posix(): read_file(path).to_pylist()
        for path in sorted(folder.rglob("*.parquet"))
    }


@given(deliveries())
@settings(max_examples=25, deadline=None)
def test_the_tables_depend_only_on_which_messages_there_are(
    drawn: tuple[list[Message], list[list[Message]]],
) -> None:
    sent, parts = drawn
    with TemporaryDirectory() as one, TemporaryDirectory() as many:
        whole, cut = write(Path(one), [sent]), write(Path(many), parts)
    assert whole == cut
    found: Fates = defaultdict(set)
    for name, rows in whole.items():
        found[name.partition("/")[0]] |= {(row["source"], row["message_id"]) for row in rows}
    assert found == expect(sent)
    for row in (row for name, rows in whole.items() if name.startswith("duplicates/") for row in rows):
        table = next(kind.table for kind in KINDS.values() if kind.schema == row["kind"])
        kept = [each for name, rows in whole.items() if name.startswith(f"{table.name}/") for each in rows]
        assert row["record_id"] in {" ".join(each[name] for name in table.key) for each in kept}
