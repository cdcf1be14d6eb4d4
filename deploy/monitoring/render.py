"""Write the rules of kpiflow with another length of all their durations.

    python deploy/monitoring/render.py                      kpiflow.rules.yaml, as it is
    python deploy/monitoring/render.py --minute 2 > FILE    every minute is 2 s: for a trial

In the template a duration is {{5m}}, or {{5m:seconds}} where a number of seconds is needed.
"""

import argparse
import re
from pathlib import Path

TEMPLATE = Path(__file__).with_name("rules.template.yaml")
_MINUTES = {"m": 1, "h": 60, "d": 1440}
_DURATION = re.compile(r"\{\{(\d+)([mhd])(:seconds)?\}\}")


def render(template: str, minute: float = 60.0) -> str:
    """The rules; a minute has so many seconds."""

    def replace(found: re.Match[str]) -> str:
        seconds = int(found[1]) * _MINUTES[found[2]] * minute
        if found[3]:
            return f"{seconds:g}"
        if minute == 60.0:
            return found[1] + found[2]
        return f"{round(seconds * 1000)}ms"

    return _DURATION.sub(replace, template)


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minute", type=float, default=60.0, help="seconds of a minute")
    print(render(TEMPLATE.read_text(encoding="utf-8"), parser.parse_args().minute), end="")


if __name__ == "__main__":
    main()
