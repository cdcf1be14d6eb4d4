"""Maintenance of an output: what is due is found and done, a step at a time, beside a stream.

It holds the lock `_maintain` of the output, which batches take too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

from pipelines.failures import RunFailed, WrongUse
from pipelines.jobs.lock import lock_maintenance
from pipelines.maintenance.first_writes import UNTIMED_TABLES, list_first_days
from pipelines.maintenance.plan import MaintenancePlan, MaintenanceRules, MaintenanceStep, make_plan
from pipelines.maintenance.steps import Upkeep, ignore_point
from pipelines.maintenance.stored_days import list_days
from pipelines.maintenance.written_until import find_delay, find_written_until
from pipelines.outputs import parse_sink
from pipelines.retention import find_expiry
from pipelines.settings import Settings
from pipelines.verify.output_description import open_store, translate_sink_errors
from transforms.core.errors import Refused, Unavailable
from transforms.sinks.parquet.maintenance_ledger import COLD, HOT, WARM, Ledger, read_ledger
from transforms.sinks.parquet.parquet_store import ParquetStore
from transforms.storage.local_folder import LocalFolder
from transforms.storage.storage import Storage

OnStep = Callable[[MaintenanceStep, int, int], object]
"""Called after each step with the number of steps done and of all."""
TIERS = (WARM, COLD)


@dataclass(frozen=True)
class Maintenance:
    """An output and how it is to be maintained. `urls`: of WARM and COLD, as far as they were given.
    `expire_most`: whether more than half of its days may expire at once."""

    output: Path
    settings: Settings
    urls: Mapping[str, str]
    home: Path | None = None
    clock: Callable[[], datetime] = lambda: datetime.now(UTC).replace(microsecond=0)
    reach: Callable[[str], None] = ignore_point
    expire_most: bool = False

    def plan(self) -> MaintenancePlan:
        """What is due now.

        Raises:
            WrongUse: the output or a root cannot be used, or a job writes whose state is not known.
        """
        settings, upkeep = self._open()
        with translate_sink_errors():
            return self._plan(settings, upkeep)

    def run(self, on_step: OnStep) -> MaintenancePlan:
        """Do what is due; returns what it was.

        Raises:
            WrongUse: as `plan`; or a batch, or another maintenance, is at work.
            RunFailed: a root cannot be used now, or a file is damaged; the same call goes on.
        """
        settings, upkeep = self._open()
        with lock_maintenance(self.output):
            with translate_sink_errors():
                upkeep.put_roots({tier: root.name for tier, root in upkeep.roots.items() if tier != HOT})
                upkeep.note_first_writes()
                plan = self._plan(settings, upkeep)
            done = count(1)
            try:
                upkeep.run(plan.steps, lambda step: on_step(step, next(done), len(plan.steps)))
            except (Refused, Unavailable) as error:
                problem, _, fix = str(error).partition("; ")
                raise RunFailed(problem, fix or "run the same command again") from error
        return plan

    def _open(self) -> tuple[Settings, Upkeep]:
        hot = LocalFolder(self.output.absolute())
        _, settings = open_store(ParquetStore(hot), self._fit(hot), create=False)
        with translate_sink_errors():
            ledger, _ = read_ledger(hot)
        roots = {HOT: hot, **self._open_roots(ledger)}
        return settings, Upkeep(roots, self.clock, self.reach)

    def _fit(self, hot: LocalFolder) -> Settings:
        """The settings with those of the output's rows."""
        with translate_sink_errors():
            found = ParquetStore(hot).read_description() or {}
        rows = {name: value for name, value in found.get("settings", {}).items() if name != "file_minutes"}
        return self.settings.model_copy(update=rows)

    def _open_roots(self, ledger: Ledger) -> dict[str, Storage]:
        roots: dict[str, Storage] = {}
        for tier in TIERS:
            url = self.urls.get(tier, ledger.roots.get(tier))
            if url is None:
                continue
            roots[tier] = root = _open_root(tier, url, self.settings)
            known = ledger.roots.get(tier, root.name)
            is_used = any(place.tier == tier for days in ledger.days.values() for place in days.values())
            if root.name != known and is_used:
                fix = f"copy that root, and change its URL in {self.output}/_maintenance.json"
                raise WrongUse(f"days of {self.output} are in {known}, not in {root.name}", fix)
        _check_apart(self.output, roots)
        return roots

    def _plan(self, settings: Settings, upkeep: Upkeep) -> MaintenancePlan:
        now, home = self.clock(), self.home or self.output
        rules = MaintenanceRules(
            find_delay(home, settings),
            timedelta(seconds=settings.grace_seconds),
            timedelta(days=settings.warm_days) if WARM in upkeep.roots else None,
            timedelta(days=settings.cold_days) if COLD in upkeep.roots else None,
            find_expiry(settings, now),
            self.expire_most,
        )
        ledger, _ = read_ledger(upkeep.hot)
        until = find_written_until(self.output, home, now)
        untimed = {table.name: list_first_days(upkeep.hot, table) for table in UNTIMED_TABLES}
        return make_plan(ledger, list_days(upkeep.hot), rules, now, until, untimed)


def _open_root(tier: str, url: str, settings: Settings) -> Storage:
    sink = parse_sink(url, settings)
    if not isinstance(sink, ParquetStore):
        raise WrongUse(
            f"--{tier} {url} keeps no files", "give a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"
        )
    return (
        replace(sink.storage, path=sink.storage.path.absolute())
        if isinstance(sink.storage, LocalFolder)
        else sink.storage
    )


def _check_apart(output: Path, roots: Mapping[str, Storage]) -> None:
    """Check that no root is in another one."""
    folders = [output.resolve()]
    folders += [root.path.resolve() for root in roots.values() if isinstance(root, LocalFolder)]
    for number, one in enumerate(folders):
        for other in folders[number + 1 :]:
            if one.is_relative_to(other) or other.is_relative_to(one):
                raise WrongUse(f"{other} and {one} are not apart", "give each root a folder of its own")
    names = [root.name for root in roots.values()]
    if len(set(names)) < len(names):
        raise WrongUse(f"--warm and --cold are both {names[0]}", "give each root a place of its own")
