"""The SQL of `features` in parts, a module an idea: `context`, `windows`, `complexity`, `standing`, `rows`.

Each part is named queries (`WITH name AS (...)`), which use those of the parts before it. Sums are of whole
numbers (`arithmetic`), so that they depend neither on the order of rows nor on the number of threads.
"""

import re


def join_queries(queries: dict[str, str], result: str) -> str:
    """One query of `result` over named queries. What is used once is computed where it is used."""
    everything = " ".join([*queries.values(), result])
    uses = {name: len(re.findall(rf"(?:FROM|JOIN) {name}\b", everything)) for name in queries}
    kept = {name: "MATERIALIZED" if uses[name] > 1 else "NOT MATERIALIZED" for name in queries}
    named = ", ".join(f"{name} AS {kept[name]} ({text})" for name, text in queries.items())
    return f"WITH RECURSIVE {named} {result}"
