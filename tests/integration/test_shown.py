"""Text of the data is shown, never obeyed: no control code, no mark of direction and no markup gets through
to a terminal."""

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cli import run
from pipelines.console import SafeConsole, mask_secrets, style_head
from tests.builders import NOON, agent, report
from tests.integration.archives import Typed, envelope, stream, write

NASTY = "[/x][bold]n[0]\x1b]52;c;ZWNo\x07\x1b[2J\x9b31m\u202eabc\u2066\r\x08\x00:smile:"
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two outputs `a[1]` and `b[/m]` and an archive, full of hostile texts in every field."""
    folder = tmp_path_factory.mktemp("hostile")
    fields = {
        "source_layer": NASTY[:90],
        "target_agent_type": NASTY[:90],
        "error_details": {NASTY: NASTY},
        NASTY: NASTY,
    }
    lines = [envelope(report(1, NOON, agent_id=agent(9), **fields), f"good{NASTY}", source=NASTY)]
    lines += [
        envelope(report(2, NOON, accuracy=NASTY), f"bad{NASTY}", source=NASTY),
        envelope(NASTY, NASTY, source="s[/s]"),
    ]
    lines += [b'{"[/x]": 1, "[/x]": 2}', f'{{"{NASTY}": 1}}'.encode(), *stream(60, seed=3)]
    write(folder / "in[1]" / f"[/x]{NASTY[11:20].replace('/', '')}.ndjson", lines)
    (folder / "in[1]" / "kpi[agent-7].ndjson.gz").write_bytes(gzip.compress(lines[0])[:40])
    for name, part in (("a[1]", folder / "in[1]"), ("b[m", write(folder / "b.ndjson", lines[5:]))):
        run(["backfill", "--input", str(part), "--output", str(folder / name)])
    return folder


COMMANDS = [
    "validate {in}",
    "validate {in} --json",
    "backfill --input {in} --output {c}",
    "show {a}",
    "show {a} --json",
    "quarantine list {a}",
    "quarantine list {a} --json",
    "quarantine show {a}",
    "quarantine replay {a}",
    "reconcile {a} --input {in}",
    "reconcile {a} --input {in} --json",
    "parity {a} {b}",
    "parity {a} {b} --json",
    "doctor --output {a}",
    "doctor --output {a} --json",
    "status {a}",
    "settings",
    "show {a}[/none]",
    "parity {a} {in}",
    "nonsense[/x]",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_lets_a_terminal_obey_its_data(
    command: str, hostile: Path, tmp_path: Path, typed: Typed
) -> None:
    places = {"in": hostile / "in[1]", "a": hostile / "a[1]", "b": hostile / "b[m", "c": tmp_path / "c[/m]"}
    code, out, err = typed(*(word.format(**places) for word in command.split()))
    assert code in (0, 1, 2)
    assert "Traceback" not in err
    assert OBEYED.findall(out + err) == []
    if "validate" in command or "backfill" in command:
        assert "kpi[agent-7].ndjson.gz" in err
    if command.startswith("backfill"):
        assert "c[/m]" in out
    if command == "quarantine list {a}":
        assert "[/x]" in out


def test_a_style_is_given_and_the_text_stays_what_it_is() -> None:
    console = SafeConsole(
        force_terminal=True, color_system="standard", width=200, markup=False, highlight=False
    )
    with console.capture() as captured:
        console.print(style_head("red", "a[/x]\x1b[2J", " b[red]"))
        console.print(f"[bold]{NASTY}[/]")
    text = captured.get()
    assert "\x1b[31ma[/x]\\x1b[2J\x1b[0m b[red]" in text
    assert OBEYED.findall(re.sub(r"\x1b\[(31|0)m", "", text)) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://me:s3cret@host:6379/0", "redis://me:***@host:6379/0"),
        ("at redis://:p@ss:w/rd@host, again", "at redis://:***@host, again"),
        (
            "influxdb+http://u:x@[fd00::1]:80/b?org=o&token=abc",
            "influxdb+http://u:***@[fd00::1]:80/b?org=o&token=***",
        ),
        ("redis://host:6379/0 and a@b", "redis://host:6379/0 and a@b"),
        ("file:///a:b@c", "file:///a:b@c"),
        ("no url: a@b", "no url: a@b"),
    ],
)
def test_passwords_of_urls_are_masked(text: str, expected: str) -> None:
    assert mask_secrets(text) == expected


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_doctor_never_prints_the_password_of_an_output(flags: list[str], typed: Typed) -> None:
    _, out, err = typed("doctor", "--output", "victoriametrics+http://me:s3cret@127.0.0.1:1", *flags)
    assert "s3cret" not in out + err
    assert "me:***@127.0.0.1:1" in out


@pytest.mark.parametrize(
    "line", ["redis_password = 12345678", "influxdb_token = ['12345678']", "redis_pasword = '12345678'"]
)
def test_a_secret_in_a_file_is_never_printed_even_if_wrong(line: str, tmp_path: Path, typed: Typed) -> None:
    (tmp_path / "k.toml").write_text(line)
    code, out, err = typed("settings", "--config", tmp_path / "k.toml")
    assert code == 2
    assert "12345678" not in out + err
    assert line.split()[0] in err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_narrow_terminal_shows_codes(encoding: str, hostile: Path) -> None:
    lines = [json.dumps({"é→": 1}, ensure_ascii=False).encode()]
    write(hostile / "narrow.ndjson", lines)
    for command in (["validate", "narrow.ndjson"], ["show", "a[1]"], ["--help"], ["show", "nowhere→"]):
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", *command],
            cwd=hostile, env=os.environ | {"PYTHONIOENCODING": encoding}, capture_output=True, check=False,
        )  # fmt: skip
        assert b"UnicodeEncodeError" not in done.stderr
        assert done.returncode in (0, 2), done.stderr
