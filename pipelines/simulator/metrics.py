"""The metrics that Layer 4 exports, under its own names."""

from collections.abc import Iterable

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_MILLISECONDS = (10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 300_000)


class Layer4Metrics:
    """Counts the reports that are offered from the start on; what was offered before is history."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._uptime = self._gauge("uptime_seconds", "System uptime.")
        self._health = self._gauge("health_status", "System health: 1 is healthy.")
        self._cpu = self._gauge("cpu_usage", "System CPU utilization: mean of the agents.")
        self._memory = self._gauge("memory_usage", "System memory utilization: sum of the agents, in MB.")
        self._accuracy = self._gauge("task_accuracy", "Accuracy of the last task.")
        self._agent_cpu = self._gauge("agent_cpu_usage", "CPU usage of an agent.", "agent_id")
        self._agent_memory = self._gauge("agent_memory_mb", "Memory of an agent in MB.", "agent_id")
        self._latency = self._histogram("task_latency_ms", "Latency of tasks in milliseconds.")
        self._time = self._histogram("task_execution_time_ms", "Execution time of tasks in milliseconds.")
        self._spawned = self._counter("agents_spawned", "Agents created.")
        self._tasks = self._counter("tasks", "Tasks.")
        self._processed = self._counter("tasks_processed", "Tasks executed.")
        self._succeeded = self._counter("tasks_succeeded", "Tasks that succeeded.")
        self._failed = self._counter("tasks_failed", "Tasks that failed.")
        self._health.set(1)
        self._agents: dict[str, tuple[float, float]] = {}

    def count(self, reports: Iterable[bytes]) -> None:
        """Count the tasks of these reports, one a report; one with error_details failed."""
        for text in reports:
            try:
                self._count(orjson.loads(text))
            except (ValueError, KeyError, TypeError):
                self._failed.inc()
            self._tasks.inc()
            self._processed.inc()

    def _count(self, report: dict[str, object]) -> None:
        latency, cpu, memory, accuracy = (
            float(str(report[name])) for name in ("latency_ms", "cpu_usage", "memory_mb", "accuracy")
        )
        agent = str(report["agent_id"])
        if agent not in self._agents:
            self._spawned.inc()
        self._agents[agent] = (cpu, memory)
        self._latency.observe(latency)
        self._time.observe(latency)
        self._accuracy.set(accuracy)
        (self._failed if report.get("error_details") else self._succeeded).inc()

    def write(self, uptime: float) -> bytes:
        """The metrics as Prometheus text; `uptime` in seconds."""
        self._uptime.set(uptime)
        for agent, (cpu, memory) in self._agents.items():
            self._agent_cpu.labels(agent).set(cpu)
            self._agent_memory.labels(agent).set(memory)
        if self._agents:
            self._cpu.set(sum(cpu for cpu, _ in self._agents.values()) / len(self._agents))
            self._memory.set(sum(memory for _, memory in self._agents.values()))
        lines = generate_latest(self._registry).splitlines(keepends=True)
        # Python's client adds the time at which each counter was made.
        return b"".join(line for line in lines if b"_created" not in line)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"layer4_{name}", text, labels, registry=self._registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"layer4_{name}", text, registry=self._registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"layer4_{name}", text, buckets=_MILLISECONDS, registry=self._registry)
