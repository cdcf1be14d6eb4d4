"""All named queries. One more: an object in a module of this package, and a line here."""

from pipelines.failures import WrongUse
from pipelines.queries import recommendation_queries, report_queries, table_queries
from pipelines.queries.query import Query, name_nearest

QUERIES: dict[str, Query] = {
    query.name: query
    for query in (
        report_queries.REPORTS_BY_TASK,
        report_queries.AGENT_OVER_TIME,
        report_queries.REPORTS_BY_TYPE,
        report_queries.REPORTS_BY_PERFORMANCE,
        report_queries.AGENT_SUMMARY,
        report_queries.HOURLY_PATTERNS,
        report_queries.ANOMALIES,
        report_queries.OUTLIERS,
        table_queries.AGGREGATES,
        table_queries.FLEET_WINDOWS,
        table_queries.TOTALS,
        table_queries.FEATURES,
        table_queries.EXPERIMENTS,
        table_queries.EXPERIMENT,
        table_queries.TRENDS,
        table_queries.QUALITY,
        recommendation_queries.RECOMMENDATIONS,
        table_queries.QUARANTINE,
        table_queries.QUARANTINE_CAUSES,
        table_queries.MARKED,
    )
}


def find_query(name: str) -> Query:
    """The query of a name.

    Raises:
        WrongUse: there is none.
    """
    if name not in QUERIES:
        raise WrongUse(f"no query is called {name[:50]}", name_nearest(name, list(QUERIES)))
    return QUERIES[name]
