"""The metrics of a relay by their names, for Prometheus: the one list of them.

All are read from its status and the record of its runs. Totals are those of the cursor: they count what is
in the stream, over all runs of all relays, and only the relay that is active shows them.
"""

import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST

from pipelines.jobs.run_record import RunRecord, read_totals
from pipelines.metrics.families import (
    describe_build,
    describe_latency,
    describe_processes,
    describe_uses,
    format_page,
    make_counter,
    make_gauge,
)
from pipelines.metrics.machine import measure_usage
from pipelines.metrics.server import Page, make_answer
from pipelines.relay.home import FOLDER, RelayStatus, find_relay_reasons, read_relay_status

_TOTALS = {
    "archived": "Reports that were too old for the stream.",
    "healed": "Reports that the socket missed and the export had.",
    "malformed": "Reports of the export that are no JSON.",
    "lost": "How often Layer 4 dropped reports, or may have, before they were read.",
    "connections": "How often the socket was opened.",
}


def make_relay_page(home: Path) -> bytes:
    """The metrics of the relay of a home, read now, as OpenMetrics text."""
    return format_page(
        lambda: make_relay_metrics(read_relay_status(home), read_totals(home / FOLDER), time.time())
    )


def make_relay_metrics(status: RelayStatus, run: RunRecord, now: float) -> Iterator[Metric]:
    """The metrics of a relay at a moment (seconds since 1970); what is unknown is left out."""
    yield describe_build()
    is_active = status.running and status.situation.state == "relaying"
    totals = status.totals if is_active else {}
    ways = (("export", "exported"), ("socket", "live"))
    yield make_counter(
        "relay_reports", "Reports that were relayed, by where they came from.", ("way",),
        (((way,), totals.get(name)) for way, name in ways),
    )  # fmt: skip
    for name, text in _TOTALS.items():
        yield make_counter(f"relay_{name}", text, (), [((), totals.get(name))])
    found, until = status.situation, status.situation.certificate_until
    facts: list[tuple[str, str, float | None]] = [
        ("running", "1 if the relay runs.", status.running),
        ("ready", "1 if it does its work, or waits.", not any(find_relay_reasons(status, now))),
        ("active", "1 if it relays; 0 if it waits for another relay.", is_active),
        ("connected", "1 if the socket is open.", found.connected if status.live else None),
        ("behind_reports", "Reports of the export that are not relayed.", found.behind),
        ("export_age_seconds", "Since the export was read.", now - found.read_at if found.read_at else None),
        ("clock_ahead_seconds", "How far the clock of Layer 4 is ahead.", found.ahead_seconds),
        ("certificate_seconds", "Until our certificate expires.", until - now if until else None),
    ]
    for name, text, value in facts:
        yield make_gauge(f"relay_{name}", text, (), [((), value)])
    yield make_counter("starts", "Starts of the command.", (), [((), run.starts)])
    yield from describe_uses(run.stats, "Layer 4 and of Redis")
    yield from describe_processes(run.stats.cpu, measure_usage(run.pid).memory)
    yield describe_latency(run.stats)


def make_relay_pages(home: Path, is_alive: Callable[[], bool] | None = None) -> dict[str, Page]:
    """The pages that are served for a relay. `is_alive` says whether it is; without it, it is if it runs."""

    def judge_health() -> tuple[HTTPStatus, str, bytes]:
        status = read_relay_status(home)
        is_well = status.running if is_alive is None else is_alive()
        return make_answer(is_well, {"alive": is_well, "state": status.situation.state})

    def judge_readiness() -> tuple[HTTPStatus, str, bytes]:
        reasons = list(find_relay_reasons(read_relay_status(home), time.time()))
        return make_answer(not reasons, {"ready": not reasons, "reasons": reasons})

    def make_metrics() -> tuple[HTTPStatus, str, bytes]:
        return HTTPStatus.OK, CONTENT_TYPE_LATEST, make_relay_page(home)

    return {"/metrics": make_metrics, "/healthz": judge_health, "/readyz": judge_readiness}
