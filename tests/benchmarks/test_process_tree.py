"""A command is measured with all the processes that it starts."""

import sys
from pathlib import Path

from tests.benchmarks.process_tree import run

_HOLD = "import time; held = b'x' * (100 << 20); time.sleep(1.5)"
_TWICE = f"import subprocess, sys; each = [sys.executable, '-c', {_HOLD!r}]\n" + (
    "started = [subprocess.Popen(each) for _ in range(2)]\n[process.wait() for process in started]"
)
_BUSY = "import time\nwhile time.process_time() < 0.5: pass"
_FORKED = f"import os\nif not os.fork(): exec({_BUSY!r}); os._exit(0)\nos.wait()"


def test_the_peak_is_of_all_processes_at_one_moment(tmp_path: Path) -> None:
    assert 200 < run([sys.executable, "-c", _TWICE], tmp_path).peak_mib < 300


def test_processes_that_follow_each_other_do_not_add_up(tmp_path: Path) -> None:
    one_by_one = (
        f"import subprocess, sys\nfor _ in range(2): subprocess.run([sys.executable, '-c', {_HOLD!r}])"
    )
    assert 100 < run([sys.executable, "-c", one_by_one], tmp_path).peak_mib < 200


def test_pages_that_a_fork_shares_count_once(tmp_path: Path) -> None:
    shared = "import os, time\nheld = b'x' * (100 << 20)\nif os.fork(): os.wait()\nelse: time.sleep(1)"
    assert 100 < run([sys.executable, "-c", shared], tmp_path).peak_mib < 200


def test_cpu_is_that_of_all_processes_and_the_exit_code_is_told(tmp_path: Path) -> None:
    assert 0.4 < run([sys.executable, "-c", _FORKED], tmp_path).cpu < 2
    ended = run([sys.executable, "-c", "print('said'); raise SystemExit(3)"], tmp_path)
    assert (ended.code, ended.output) == (3, "said\n")
