"""An encrypted output: for each command the same rows as a plain one, and no key where it does not belong."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.cli import run
from tests.benchmarks.encryption import read_entries
from tests.integration.archives import Typed
from transforms.encryption.key_list import KEYS
from transforms.encryption.key_ring import KeySource, forget_keys
from transforms.sinks.archive.archive_writer import ArchiveWriter
from transforms.sinks.parquet.parquet_store import ParquetStore
from transforms.storage.local_folder import LocalFolder


@pytest.fixture(autouse=True)
def ring() -> Iterator[None]:
    forget_keys()
    yield
    forget_keys()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive `a`, its outputs `enc` and `plain`, the master key `m.key`, and what was printed."""
    folder = tmp_path_factory.mktemp("encryption")
    few = ["--reports", "150", "--dirty", "0.1", "--records", "--agents", "3", "--seed", "5", "--span", "2h"]
    few += ["--start", f"{datetime.now(UTC) - timedelta(days=3):%Y-%m-%dT10:00:00Z}"]
    assert run(["generate", "--output", str(folder / "a"), *few]) == 0
    assert run(["keys", "new", str(folder / "m.key")]) == 0
    words = ["backfill", "--input", str(folder / "a"), "--output", str(folder / "enc"), "--encrypt"]
    command = [sys.executable, "-m", "pipelines.cli", *words, "--master-key", str(folder / "m.key")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    (folder / "printed.txt").write_text(done.stdout + done.stderr)
    assert run(["backfill", "--input", str(folder / "a"), "--output", str(folder / "plain")]) == 0
    keys = KeySource(LocalFolder(folder / "archive-enc"), str(folder / "m.key"))
    keys.begin()
    for name, own in (("archive-enc", keys), ("archive-plain", None)):
        archive_again(folder / "a", ArchiveWriter(folder / name, own))
    return folder


def archive_again(archive: Path, writer: ArchiveWriter) -> None:
    """Write the messages of an archive as a stream does; without the lines that are no entries of one."""
    for batch in read_entries(archive).to_batches(50):
        writer.append(batch)


@pytest.fixture
def ask(made: Path, typed: Typed) -> Callable[..., tuple[int, str]]:
    """Runs a command with the master key: its exit code, and what it printed."""

    def ask(*words: object) -> tuple[int, str]:
        forget_keys()
        code, said, errors = typed(*words, "--master-key", made / "m.key")
        return code, said + errors

    return ask


def test_all_files_of_rows_are_encrypted(made: Path) -> None:
    files = list((made / "enc").rglob("*.parquet"))
    tables = {path.relative_to(made / "enc").parts[0] for path in files}
    assert {path.read_bytes()[:4] for path in files} == {b"PARE"}
    assert tables == {path.name for path in (made / "plain").iterdir() if any(path.rglob("*.parquet"))}
    assert {"kpi_reports", "quarantine", "features", "data_quality"} <= tables


def test_parity_of_an_encrypted_and_a_plain_output_is_equal(
    made: Path, ask: Callable[..., tuple[int, str]]
) -> None:
    code, said = ask("parity", made / "enc", made / "plain")
    assert code == 0, said


def test_reconcile_finds_that_each_message_has_one_fate(
    made: Path, ask: Callable[..., tuple[int, str]]
) -> None:
    code, said = ask("reconcile", made / "enc", "--input", made / "a")
    assert code == 0, said


def test_reconcile_finds_plain_files_in_an_encrypted_output(
    made: Path, ask: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    """They are whole and in their place, and anybody could have written them, or can read them."""
    for table in ("kpi_reports", "features"):
        copy = tmp_path / table
        shutil.copytree(made / "enc", copy)
        path = next((made / "plain" / table).rglob("*.parquet"))
        shutil.copy(path, copy / path.relative_to(made / "plain"))
        code, said = ask("reconcile", copy, "--input", made / "a")
        assert code == 1, said
        assert f"{path.relative_to(made / 'plain')} is not encrypted" in said


def test_a_copy_of_an_encrypted_output_can_be_read(
    made: Path, ask: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    """As reconcile and parity make it of an output on object storage."""
    ParquetStore(LocalFolder(made / "enc")).copy_to(tmp_path / "copy")
    code, said = ask("reconcile", tmp_path / "copy", "--input", made / "a")
    assert code == 0, said


def test_every_reader_says_the_same_as_of_a_plain_output(
    made: Path, typed: Typed, ask: Callable[..., tuple[int, str]]
) -> None:
    for words in (
        ("show", "{}", "--json"),
        ("quality", "{}", "--json"),
        ("quarantine", "list", "{}", "--json"),
        ("query", "{}", "quarantine", "--format", "json"),
        ("query", "{}", "reports-by-performance", "--format", "csv", "--limit", 50),
    ):
        outputs = [[str(word).format(made / name) for word in words] for name in ("enc", "plain")]
        encrypted, plain = ask(*outputs[0]), typed(*outputs[1])
        assert (encrypted[0], encrypted[1].replace(str(made / "enc"), str(made / "plain"))) == (
            plain[0],
            plain[1] + plain[2],
        ), words


def test_reading_and_writing_again_changes_nothing(made: Path, ask: Callable[..., tuple[int, str]]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (made / "enc").rglob("*.parquet")}
    assert ask("backfill", "--input", made / "a", "--output", made / "enc")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in (made / "enc").rglob("*.parquet")} == before


def test_without_the_key_nothing_is_read_or_written(made: Path, typed: Typed) -> None:
    other = made / "other.key"
    assert other.exists() or run(["keys", "new", str(other)]) == 0
    before = sorted((path, path.stat().st_mtime_ns) for path in (made / "enc").rglob("*"))
    commands = [
        ("backfill", "--input", made / "a", "--output", made / "enc"),
        ("reconcile", made / "enc", "--input", made / "a"),
        ("parity", made / "enc", made / "plain"),
        ("derive", made / "enc"),
        ("show", made / "enc"),
        ("query", made / "enc", "agent-summary"),
        ("quarantine", "list", made / "enc"),
        ("keys", "rotate", made / "enc"),
    ]
    for words in commands:
        for given, problem in (((), "--master-key"), (("--master-key", other), "has no version")):
            forget_keys()
            code, said, errors = typed(*words, *given)
            assert (code in (2, 3), problem in errors, "Traceback" in errors) == (True, True, False), (
                words,
                said + errors,
            )
    assert sorted((path, path.stat().st_mtime_ns) for path in (made / "enc").rglob("*")) == before


def test_an_output_stays_as_it_began(made: Path, ask: Callable[..., tuple[int, str]]) -> None:
    code, said = ask("backfill", "--input", made / "a", "--output", made / "plain", "--encrypt")
    assert (code, "name a new output" in said) == (2, True)
    assert not (made / "plain" / KEYS).exists()


def test_keys_are_rotated_and_the_output_is_read_as_before(
    made: Path, ask: Callable[..., tuple[int, str]]
) -> None:
    before = {path: path.read_bytes() for path in (made / "enc").rglob("*.parquet")}
    assert ask("keys", "rotate", made / "enc")[0] == 0
    assert ask("keys", "rotate", made / "enc", "--drop-old")[0] == 0
    listed = json.loads(ask("keys", "list", made / "enc", "--json")[1])
    assert [len(key["under"]) for key in listed["keys"]] == [1]
    assert {path: path.read_bytes() for path in (made / "enc").rglob("*.parquet")} == before
    assert ask("parity", made / "enc", made / "plain")[0] == 0


def test_maintain_rotates_due_keys_and_seals_days_encrypted(
    made: Path, ask: Callable[..., tuple[int, str]]
) -> None:
    path = made / "enc" / KEYS
    content = json.loads(path.read_bytes()) | {"rotated": "2026-01-01T00:00:00Z"}
    path.write_text(json.dumps(content))
    code, said = ask("maintain", made / "enc", "--dry-run")
    assert (code, "is due: since 2026-04-01" in said) == (0, True), said
    assert json.loads(path.read_bytes()) == content
    assert ask("maintain", made / "enc")[0] == 0
    assert json.loads(path.read_bytes())["rotated"] > content["rotated"]
    files = list((made / "enc").rglob("*.parquet"))
    assert any(each.name == "day.parquet" for each in files)
    assert {each.read_bytes()[:4] for each in files} == {b"PARE"}
    assert ask("parity", made / "enc", made / "plain")[0] == 0


def test_maintain_rotates_the_keys_of_the_archive_that_the_stream_of_an_output_writes(
    made: Path, ask: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    output, archive = tmp_path / "out", tmp_path / "archive"
    shutil.copytree(made / "enc", output)
    shutil.copytree(made / "archive-enc", archive)
    job = {"depends": {"streams": [], "outputs": [], "group": "g"}, "archive": str(archive)}
    (output / "_stream").mkdir()
    (output / "_stream" / "job.json").write_text(json.dumps(job))
    content = json.loads((archive / KEYS).read_bytes()) | {"rotated": "2026-01-01T00:00:00Z"}
    (archive / KEYS).write_text(json.dumps(content))
    code, said = ask("maintain", output, "--dry-run")
    assert (code, f"rotation of 1 key of {archive} is due: since 2026-04-01" in said) == (0, True), said
    assert ask("maintain", output)[0] == 0
    assert json.loads((archive / KEYS).read_bytes())["rotated"] > content["rotated"]
    assert ask("validate", archive)[0] == 0


def test_every_reader_of_an_archive_says_the_same_of_an_encrypted_one(
    made: Path, ask: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    outputs = {name: tmp_path / f"from-{name}" for name in ("archive-enc", "archive-plain")}
    said: dict[str, list[tuple[int, str]]] = {name: [] for name in outputs}
    for name, output in outputs.items():
        assert ask("backfill", "--input", made / name, "--output", output)[0] == 0
        broken = json.loads(ask("quarantine", "list", output, "--json")[1])
        for words in (
            ("validate", made / name, "--json"),
            ("backfill", "--input", made / name, "--output", output, "--replace"),
            ("quarantine", "replay", output, "--input", made / name),
            ("doctor", "--input", made / name),
            ("reconcile", output, "--input", made / name, "--json"),
        ):
            code, text = ask(*words)
            said[name].append((code, mask(text, made / name, output)))
        assert broken
    assert said["archive-enc"] == said["archive-plain"]
    assert ask("parity", *outputs.values())[0] == 0


def mask(text: str, *paths: Path) -> str:
    """What was said, without paths, sizes and durations."""
    for path in paths:
        text = text.replace(str(path), "PATH")
    return re.sub(r"\d[\d,.]* ?(?:s|MB|/s)?\b", "N", re.sub(r"\.enc\b", "", text))


def test_an_archive_without_its_key_is_not_read_and_nothing_is_written(
    made: Path, typed: Typed, tmp_path: Path
) -> None:
    other = made / "other.key"
    assert other.exists() or run(["keys", "new", str(other)]) == 0
    for words in (
        ("backfill", "--input", made / "archive-enc", "--output", tmp_path / "new"),
        ("validate", made / "archive-enc"),
        ("reconcile", made / "plain", "--input", made / "archive-enc"),
        ("quarantine", "replay", made / "plain", "--input", made / "archive-enc"),
    ):
        for given, problem in (((), "--master-key"), (("--master-key", other), "has no version")):
            forget_keys()
            code, said, errors = typed(*words, *given)
            assert (code in (2, 3), problem in errors, "Traceback" in errors) == (True, True, False), (
                words,
                said + errors,
            )
    assert not (tmp_path / "new").exists()


def test_the_keys_of_an_archive_are_listed_and_rotated_as_those_of_an_output(
    made: Path, ask: Callable[..., tuple[int, str]]
) -> None:
    before = {path: path.read_bytes() for path in (made / "archive-enc").rglob("*.enc")}
    assert ask("keys", "rotate", made / "archive-enc")[0] == 0
    listed = json.loads(ask("keys", "list", made / "archive-enc", "--json")[1])
    assert [len(key["under"]) for key in listed["keys"]] == [2]
    assert {path: path.read_bytes() for path in (made / "archive-enc").rglob("*.enc")} == before
    assert ask("validate", made / "archive-enc")[0] == 0


def test_no_key_is_in_any_file_or_message(made: Path) -> None:
    source = KeySource(LocalFolder(made / "enc"), str(made / "m.key"))
    lines = (made / "m.key").read_text().splitlines()
    secrets = [base64.b64decode(line.split()[2]) for line in lines if not line.startswith("#")]
    archive = KeySource(LocalFolder(made / "archive-enc"), str(made / "m.key"))
    secrets += [each.find_writing_key().secret for each in (source, archive)]
    forms = {
        form
        for key in secrets
        for form in (key, key.hex().encode(), base64.b64encode(key), repr(key)[2:-1].encode())
    }
    looked = [path for path in made.rglob("*") if path.is_file() and path.suffix != ".key"]
    assert len(looked) > 100
    assert not [path for path in looked for form in forms if form in path.read_bytes()]
