"""Synthetic KPI reports: documents for tests (`KpiTestGenerator`), and whole archives whose every fate is known.

    fleet -> columns (+ outliers) -> texts -> messages (+ dirt) -> archive

Numbers are drawn as numpy columns, lines are joined as Arrow strings; the same seed and options give the same bytes.
"""

from pipelines.synthetic.reports import START, KpiTestGenerator

__all__ = ["START", "KpiTestGenerator"]
