"""Synthetic KPI reports: documents for tests (`KpiTestGenerator`), and whole archives with the expected fate
of each message.

    fleet -> columns (+ outliers) -> JSON -> messages (+ dirt) -> archive, or a Redis stream

Numbers are drawn as numpy columns and lines joined as Arrow strings. The same seed and options give the same
bytes.
"""

from pipelines.synthetic.reports import START, KpiTestGenerator

__all__ = ["START", "KpiTestGenerator"]
