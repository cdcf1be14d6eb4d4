"""What a comparison of two outputs finds: counts of rows, and the first differences."""

from dataclasses import dataclass, field

EXAMPLES = 5
"""Differences of a table that are kept."""


@dataclass(frozen=True)
class Difference:
    """A difference at the row with a key.

    The row is in one output only (`column` is empty), a column differs, or the number of equal `ROWS`
    differs.
    """

    key: dict[str, str | None]
    column: str
    a: str | None
    b: str | None

    def __str__(self) -> str:
        row = " ".join(f"{name}={value}" for name, value in self.key.items())
        if not self.column:
            return f"{row}: only in {'A' if self.b is None else 'B'}"
        return f"{row}: {self.column} is {self.a} in A, {self.b} in B"


@dataclass
class TableComparison:
    """The comparison of a table.

    `equal` and `different` count pairs with one key; `differences` are the first few.
    `compared_from`: by folder, the first day that is compared, where earlier rows of an output have expired;
    empty if no row of it is compared.
    """

    rows_a: int = 0
    rows_b: int = 0
    equal: int = 0
    different: int = 0
    only_a: int = 0
    only_b: int = 0
    differences: list[Difference] = field(default_factory=list)
    compared_from: dict[str, str] = field(default_factory=dict)

    @property
    def same(self) -> bool:
        """Whether both outputs hold the same rows."""
        return not (self.different or self.only_a or self.only_b)

    def explain(self, difference: Difference) -> None:
        """Keep a difference, up to EXAMPLES."""
        if len(self.differences) < EXAMPLES:
            self.differences.append(difference)
