"""docs/columns.md, "Fitness" of features."""

from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction

from tests.transforms.derived.oracle.rows import Row
from tests.transforms.derived.oracle.sums import SCALE, quantize


class TypeScores:
    """The level of a type's performance_score, and how its agents differ. All exact."""

    def __init__(self, reports: Sequence[Row]) -> None:
        scores = defaultdict(list)
        for report in reports:
            scores[report["agent_id"]].append(Fraction(quantize(report["performance_score"]), SCALE))
        self.k = len(scores)
        self.n = len(reports)
        if not self.n:
            return
        total = sum((sum(own, Fraction()) for own in scores.values()), Fraction())
        self.mu = total / self.n
        of_agents = sum((sum(own, Fraction()) ** 2 / len(own) for own in scores.values()), Fraction())
        squares = sum((each**2 for own in scores.values() for each in own), Fraction())
        between, within = of_agents - total**2 / self.n, squares - of_agents
        if self.n > self.k:
            self.sigma2 = within / (self.n - self.k)
        else:
            self.sigma2 = between / (self.n - 1) if self.n > 1 else Fraction()
        self.tau2 = Fraction()
        if self.k > 1 and self.n > self.k:
            spread = self.n - Fraction(sum(len(own) ** 2 for own in scores.values()), self.n)
            self.tau2 = max(Fraction(), (between - (self.k - 1) * self.sigma2) / spread)


def weigh_own_score(own: Sequence[float], of_type: TypeScores) -> tuple[float | None, float | None]:
    """agent_fitness_score and agent_fitness_weight of an agent with these scores in W."""
    n = len(own)
    if n == 0:
        return (float(of_type.mu), 0.0) if of_type.n else (None, None)
    scores = [Fraction(quantize(score), SCALE) for score in own]
    mean = sum(scores, Fraction()) / n
    if not of_type.n:
        return float(mean), 1.0
    v = (sum((score**2 for score in scores), Fraction()) - n * mean**2 + of_type.sigma2) / n
    weight = Fraction(1) if of_type.k == 1 or v == 0 else of_type.tau2 / (of_type.tau2 + v / n)
    return float(weight * mean + (1 - weight) * of_type.mu), float(weight)
