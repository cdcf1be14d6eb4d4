"""docs/columns.md, "Complexity" of features."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from tests.transforms.derived.oracle.rows import Row
from tests.transforms.derived.oracle.sums import SCALE, quantize

RIDGE = 0.001


def find_regressors(task: Row) -> list[float]:
    """x1 to x11."""

    def ln(value: float | None, plus: int) -> float:
        return 0.0 if value is None else math.log(plus + value)

    return [
        ln(task["payload_bytes"], 1),
        float(task["max_cpu_cores"] is not None),
        ln(task["max_cpu_cores"], 0),
        ln(task["max_memory_mb"], 1),
        ln(task["max_execution_time_secs"], 1),
        float(task["max_network_mbps"] is not None),
        ln(task["max_network_mbps"], 1),
        *(float(task["priority"] == priority) for priority in (25, 50, 75, 100)),
    ]


class Fit:
    """A least squares fit of y = ln(latency_ms) to what is known of tasks, with an intercept a type."""

    def __init__(self, observations: Sequence[tuple[Row, float]]) -> None:
        self.n = len(observations)
        if not self.n:
            return
        self.types = [task["target_agent_type"] for task, _ in observations]
        self.y = [quantize(math.log(latency)) for _, latency in observations]
        self.x = [
            [quantize(x) for x in column]
            for column in zip(*(find_regressors(task) for task, _ in observations))
        ]
        latencies = [math.log(latency) for _, latency in observations]
        self.least, self.most = min(latencies), max(latencies)
        self.coefficients = self._solve()

    def _solve(self) -> list[float]:
        coefficients = [0.0] * len(self.x)
        varying = [j for j, x in enumerate(self.x) if self._covary(x, x)]
        c_yy = self._covary(self.y, self.y)
        if not varying or not c_yy:
            return coefficients
        s_y = math.sqrt(c_yy)
        s = {j: math.sqrt(self._covary(self.x[j], self.x[j])) for j in varying}
        matrix = [
            [float(self._covary(self.x[j], self.x[k])) / (s[j] * s[k]) for k in varying] for j in varying
        ]
        right = [float(self._covary(self.x[j], self.y)) / (s[j] * s_y) for j in varying]
        solution = np.linalg.solve(np.array(matrix) + RIDGE * np.eye(len(varying)), right)
        for j, b in zip(varying, solution):
            coefficients[j] = float(b) * s_y / s[j]
        return coefficients

    def _covary(self, a: list[int], b: list[int]) -> Fraction:
        """C_ab, in units of q squared."""
        total = Fraction(0)
        for name in set(self.types):
            rows = [i for i, each in enumerate(self.types) if each == name]
            sum_a, sum_b = sum(a[i] for i in rows), sum(b[i] for i in rows)
            total += sum(a[i] * b[i] for i in rows) - Fraction(sum_a * sum_b, len(rows))
        return total

    def expect_latency(self, task: Row) -> float:
        """The expected latency of a task in ms."""
        rows = [i for i, name in enumerate(self.types) if name == task["target_agent_type"]] or range(self.n)

        def mean(values: list[int]) -> float:
            return float(Fraction(sum(values[i] for i in rows), len(rows) * SCALE))

        z = mean(self.y)
        for coefficient, x, column in zip(self.coefficients, find_regressors(task), self.x):
            z += coefficient * (x - mean(column))
        return math.exp(min(max(z, self.least), self.most))
