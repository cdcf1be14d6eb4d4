"""docs/columns.md, "Context" of features and "Records in view" of inconsistencies."""

from collections import defaultdict
from collections.abc import Iterable

from tests.transforms.derived.oracle.rows import HOUR, SECOND, Row, Settings, Tables


def find_effective_at(report: Row) -> int:
    """received_at, else recorded_at."""
    return report["recorded_at"] if report["received_at"] is None else report["received_at"]


class Context:
    """The records of an output, and which of them a report sees."""

    def __init__(self, tables: Tables, settings: Settings) -> None:
        self.wait = settings["context_wait_seconds"] * SECOND
        self.age = settings["context_hours"] * HOUR
        self.tasks = group_versions(tables["tasks"], "task_id")
        self.results = group_versions(tables["results"], "task_id")
        self.agents = group_versions(tables["agents"], "agent_id")

    def find_cutoff(self, report: Row) -> int:
        """The last time at which a record may have come: the horizon of features."""
        return find_effective_at(report) + self.wait

    def see_tasks(self, report: Row) -> list[Row]:
        """The records of its task in view, the current one last."""
        return self._see_aged(self.tasks[report["task_id"]], "created_at", report)

    def see_results(self, report: Row) -> list[Row]:
        """The records of its task's result in view, the current one last."""
        return self._see_aged(self.results[report["task_id"]], "completed_at", report)

    def see_agents(self, report: Row, until: int) -> list[Row]:
        """The records of its agent that had come by a time, the current one last."""
        return [
            record
            for record in self.agents[report["agent_id"]]
            if record["effective_at"] is None or record["effective_at"] <= until
        ]

    def _see_aged(self, records: list[Row], time: str, report: Row) -> list[Row]:
        return [
            record
            for record in records
            if record["effective_at"] <= self.find_cutoff(report)
            and record[time] >= report["recorded_at"] - self.age
        ]

    def find_task(self, report: Row) -> Row | None:
        """The task of a report."""
        return find_last(self.see_tasks(report))

    def find_result(self, report: Row) -> Row | None:
        """The result of a report."""
        return find_last(self.see_results(report))

    def find_agent(self, report: Row) -> Row | None:
        """The agent of a report."""
        return find_last(self.see_agents(report, self.find_cutoff(report)))


def group_versions(records: Iterable[Row], key: str) -> defaultdict[str, list[Row]]:
    """Records by their id, in the order of (effective_at, version); null is before every time."""
    groups = defaultdict(list)
    for record in records:
        groups[record[key]].append(record)
    for versions in groups.values():
        versions.sort(key=order_of_version)
    return groups


def order_of_version(record: Row) -> tuple[bool, int, str]:
    """What versions of a record are sorted by."""
    effective_at = record["effective_at"]
    return effective_at is not None, effective_at or 0, record["version"]


def find_last(records: list[Row]) -> Row | None:
    """The last record, if there is one."""
    return records[-1] if records else None
