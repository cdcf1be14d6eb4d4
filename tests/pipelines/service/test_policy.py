"""Rights: what is not allowed is refused, whatever a query, a role or a file says."""

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from pipelines.failures import WrongUse
from pipelines.queries.query import Order, Parameter, Query, QueryInput
from pipelines.queries.registry import QUERIES
from pipelines.service.access.certificates import ClientCertificate, parse_certificate
from pipelines.service.access.masks import Masks
from pipelines.service.access.policy import Policy, Rights, decide
from pipelines.service.access.query_rights import choose_columns
from pipelines.service.access.roles import ROLES, read_subjects
from pipelines.service.access.subject import Forbidden, Subject, Unidentified
from schemas.access import CLASSES, HASHES, AccessClass, find_class
from schemas.tables import FLEET, QUARANTINED, REPORTS
from tests.certificates import make_ca, make_certificate

MASKS = Masks(bytes(32))
ALL_GRANTS = frozenset(CLASSES)
FLEET_SUMS = Query(
    "fleet-sums",
    "",
    (QueryInput("windows", FLEET, window="granularity"),),
    "SELECT target_agent_type, sum(task_count) AS tasks FROM windows GROUP BY target_agent_type",
    pa.schema([("target_agent_type", pa.string()), ("tasks", pa.int64())]),
    (Order("target_agent_type"),),
    (Parameter("granularity", "", choices=("1h",), default="1h"),),
)


def rights(role: str, *grants: str, action: str = "query") -> Rights:
    return decide(Subject("anna", role, frozenset(grants)), action, MASKS)


def make_query(sql: str, columns: dict[str, pa.DataType], *parameters: Parameter) -> Query:
    schema = pa.schema(list(columns.items()))
    return Query("made", "", (QueryInput("reports", REPORTS),), sql, schema, (), parameters)


@pytest.mark.parametrize("role", [*ROLES, "", "root"])
@pytest.mark.parametrize("grants", [(), ("kpi_reports",), tuple(ALL_GRANTS)], ids=len)
def test_each_role_sees_the_columns_of_its_classes_and_no_other(role: str, grants: tuple[str, ...]) -> None:
    levels = {
        "monitoring": {AccessClass.PUBLIC},
        "kpi-consumer": {AccessClass.PUBLIC, AccessClass.INTERNAL},
        "optimization-admin": {AccessClass.PUBLIC, AccessClass.INTERNAL, AccessClass.CONFIDENTIAL},
    }
    if role not in levels:
        with pytest.raises(Forbidden):
            rights(role, *grants)
        return
    given = rights(role, *grants)
    for table, columns in CLASSES.items():
        seen = levels[role] | (
            {AccessClass.RESTRICTED} if table in grants and role != "monitoring" else set()
        )
        classes = {**columns, "a_new_column": AccessClass.RESTRICTED}
        allowed, withheld = given.split(table, list(classes))
        hashes = set() if table in grants else HASHES
        assert set(allowed) == {name for name, level in classes.items() if level in seen} - hashes
        assert set(withheld) == set(classes) - set(allowed)
        for name in withheld:
            with pytest.raises(Forbidden):
                given.refuse_use(table, [name])


def test_an_action_that_no_role_names_is_refused() -> None:
    for role in ROLES:
        with pytest.raises(Forbidden):
            rights(role, action="delete")
    with pytest.raises(Forbidden):
        rights("monitoring", action="export")
    with pytest.raises(Forbidden):
        rights("kpi-consumer", action="metrics")


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
@pytest.mark.parametrize("role", ROLES)
def test_a_query_shows_no_column_that_its_tables_would_not(query: Query, role: str) -> None:
    given = rights(role)
    try:
        chosen = choose_columns(query, (), given)
    except Forbidden:
        assert role == "monitoring" or query.name in ("experiments", "experiment", "recommendations")
        return
    for source in query.inputs:
        for name in set(source.table.schema.names) & set(chosen.columns):
            assert given.may_see(source.table.name, name)
    assert not set(chosen.columns) & set(chosen.withheld)
    assert ("report_id" in chosen.masked) == ("report_id" in query.columns.names)


def test_the_queries_withhold_exactly_this_from_a_consumer() -> None:
    found = {
        name: choose_columns(query, (), rights("kpi-consumer")).withheld
        for name, query in QUERIES.items()
        if name not in ("experiments", "experiment", "recommendations")
    }
    assert {name: set(columns) for name, columns in found.items() if columns} == {
        "reports-by-task": {"custom_metrics", "error_details", "extra"},
        "features": {"agent_fitness_weight", "experiment", "variant"},
        "quarantine": {"payload_sha256", "field", "message"},
        "quarantine-causes": {"fields", "message"},
        "outliers": {"mark"},
        "anomalies": {"mark"},  # it is joined by report_id
        "marks": {"note"},
    }


def test_recommendations_are_for_those_who_optimise() -> None:
    asked = QUERIES["recommendations"]
    assert not choose_columns(asked, (), rights("optimization-admin")).withheld
    with pytest.raises(Forbidden):
        choose_columns(asked, (), rights("kpi-consumer", "recommendations"))


def test_the_list_of_experiments_needs_the_role_and_shows_nothing_of_producers() -> None:
    asked = QUERIES["experiments"]
    assert not choose_columns(asked, (), rights("optimization-admin")).withheld
    for role, grants in (("kpi-consumer", ("features",)), ("monitoring", ())):
        with pytest.raises(Forbidden):
            choose_columns(asked, (), rights(role, *grants))


def test_the_tasks_of_an_experiment_need_the_role_and_the_grants_of_the_report_ids_that_join_them() -> None:
    tables = ("features", "kpi_reports")
    asked = QUERIES["experiment"]
    for role, grants in (
        ("kpi-consumer", tables),
        ("optimization-admin", ()),
        ("optimization-admin", tables[:1]),
    ):
        with pytest.raises(Forbidden):
            choose_columns(asked, (), rights(role, *grants))
    assert not choose_columns(asked, (), rights("optimization-admin", *tables)).withheld


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT extra AS agent_id FROM reports",
        "SELECT CASE WHEN extra LIKE '%x%' THEN 'a' ELSE 'b' END AS agent_id FROM reports",
        "SELECT max(error_details) OVER () AS agent_id FROM reports",
        "SELECT report_id AS agent_id FROM reports",
        "SELECT left(report_id, 4) AS agent_id FROM reports",
        "SELECT * REPLACE (report_id AS agent_id) FROM reports",
        "SELECT (SELECT max(extra) FROM reports) AS agent_id FROM reports",
    ],
)
def test_a_column_made_of_what_is_withheld_is_withheld(sql: str) -> None:
    query = make_query(sql, {"agent_id": pa.string()})
    with pytest.raises(Forbidden):
        choose_columns(query, (), rights("kpi-consumer"))
    assert choose_columns(query, (), rights("kpi-consumer", "kpi_reports")).columns == ("agent_id",)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT agent_id FROM reports WHERE extra = 'x'",
        "SELECT agent_id FROM reports WHERE report_id LIKE 'a%'",
        "SELECT agent_id FROM reports GROUP BY agent_id, error_details",
        "SELECT agent_id FROM reports WHERE $part = 'none' OR extra IS NULL",
        "SELECT a.agent_id FROM reports a JOIN reports b ON a.extra = b.agent_id",
        "SELECT agent_id FROM reports ORDER BY extra LIMIT 1",
        "SELECT agent_id FROM reports QUALIFY row_number() OVER (ORDER BY report_id) = 1",
    ],
)
def test_a_query_that_compares_what_is_withheld_is_refused(sql: str) -> None:
    part = [Parameter("part", "", choices=("none", "all"), default="none")] if "$part" in sql else []
    query = make_query(sql, {"agent_id": pa.string()}, *part)
    with pytest.raises(Forbidden):
        choose_columns(query, (), rights("kpi-consumer"))


@pytest.mark.parametrize("condition", ["extra = $x", "report_id = $x", "starts_with(report_id, $x)"])
def test_a_filter_on_what_is_withheld_or_masked_is_refused_where_it_is_used(condition: str) -> None:
    query = make_query("SELECT * FROM reports", {"agent_id": pa.string()}, Parameter("x", "", condition))
    assert choose_columns(query, (), rights("kpi-consumer")).columns
    with pytest.raises(Forbidden):
        choose_columns(query, ("x",), rights("kpi-consumer"))
    assert choose_columns(query, ("x",), rights("kpi-consumer", "kpi_reports")).columns


def test_a_query_sorted_by_what_is_withheld_is_refused() -> None:
    query = replace(QUERIES["reports-by-task"], order=(Order("extra"),))
    with pytest.raises(Forbidden):
        choose_columns(query, (), rights("kpi-consumer"))


def test_not_even_the_number_of_rows_is_shown_of_a_table_without_right() -> None:
    count = make_query("SELECT count(*) AS n FROM reports", {"n": pa.int64()})
    with pytest.raises(Forbidden):
        choose_columns(count, (), rights("monitoring"))


def test_a_window_with_one_task_is_not_public() -> None:
    public = choose_columns(FLEET_SUMS, (), rights("monitoring"))
    assert public.row_conditions == {"kpi_fleet": "task_count >= 10"}
    assert choose_columns(FLEET_SUMS, (), rights("kpi-consumer")).row_conditions == {}


def test_a_report_id_is_masked_and_cannot_be_guessed_without_the_key() -> None:
    ids = pa.table({"report_id": pa.chunked_array([["a", None, "a", "b"]], pa.string())})
    given = rights("kpi-consumer")
    chosen = choose_columns(QUERIES["reports-by-task"], (), given)
    first, none, again, second = chosen.mask(ids, given)["report_id"].to_pylist()
    assert (none, first == again, first == second) == (None, True, False)
    assert first not in ("a", Masks(bytes(31) + b"x").mask_text("a"))
    granted = rights("kpi-consumer", "kpi_reports")
    assert choose_columns(QUERIES["reports-by-task"], (), granted).mask(ids, granted) == ids
    other = rights("kpi-consumer", "quarantine")
    assert choose_columns(QUERIES["reports-by-task"], (), other).mask(ids, other) != ids


def test_a_cursor_shows_no_report_id_and_belongs_to_one_subject() -> None:
    sealed = MASKS.seal_cursor("report_id 123", "anna")
    assert MASKS.open_cursor(sealed, "anna") == "report_id 123"
    for text, subject in (
        (sealed, "otto"),
        (sealed[:-2], "anna"),
        ("cmVwb3J0", "anna"),
        ("é", "anna"),
        ("", ""),
    ):
        with pytest.raises(WrongUse):
            MASKS.open_cursor(text, subject)


def test_the_secret_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    first = Masks.open(path).mask_text("a")
    assert path.stat().st_mode & 0o777 == 0o600
    assert Masks.open(path).mask_text("a") == first
    path.chmod(0o640)
    with pytest.raises(WrongUse, match="others"):
        Masks.open(path)


ENTRY = """
[[subject]]
name = "dashboard"
issuer = "CN=ca"
san = "DNS:Dashboard.example"
role = "kpi-consumer"
restricted = ["kpi_reports"]
"""


def show(tmp_path: Path, *hosts: str) -> ClientCertificate:
    made = make_certificate(make_ca(tmp_path), "client", hosts=hosts)
    return parse_certificate(made.load()[0].public_bytes(Encoding.DER))


def test_a_subject_is_known_by_issuer_and_alternative_name(tmp_path: Path) -> None:
    (tmp_path / "roles").write_text(ENTRY)
    policy = Policy(tmp_path / "roles", MASKS)
    found = policy.find_subject(show(tmp_path, "other", "dashboard.example"))
    assert (found.name, found.role, found.grants) == ("dashboard", "kpi-consumer", {"kpi_reports"})
    assert found.until is not None
    assert found.until > datetime.now(UTC) + timedelta(hours=23)
    stranger = policy.find_subject(show(tmp_path, "evil.dashboard.example"))
    assert (stranger.role, stranger.grants) == ("", frozenset())
    with pytest.raises(Forbidden):
        policy.decide(stranger, "query")
    (tmp_path / "roles").write_text(ENTRY.replace("CN=ca", "CN=other"))
    assert policy.find_subject(show(tmp_path, "dashboard.example")).role == ""


def test_a_certificate_with_the_names_of_two_subjects_is_refused(tmp_path: Path) -> None:
    (tmp_path / "roles").write_text(ENTRY + ENTRY.replace("Dashboard", "b").replace('"dash', '"bash'))
    with pytest.raises(Unidentified):
        Policy(tmp_path / "roles", MASKS).find_subject(show(tmp_path, "dashboard.example", "b.example"))


def test_a_role_that_is_taken_away_counts_at_once_and_a_broken_file_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, client = tmp_path / "roles", show(tmp_path, "dashboard.example")
    path.write_text(ENTRY)
    policy = Policy(path, MASKS)
    assert policy.find_subject(client).role == "kpi-consumer"
    path.write_text(ENTRY + "nonsense")
    assert policy.find_subject(client).role == "kpi-consumer"
    assert policy.problem
    assert "is not used" in caplog.text
    path.unlink()
    assert policy.find_subject(client).role == "kpi-consumer"
    path.write_text(ENTRY.replace("kpi-consumer", "monitoring"))
    assert policy.find_subject(client).role == "monitoring"
    assert policy.problem is None
    os.utime(path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("kpi-consumer", "root"), "the role root does not exist"),
        (("restricted", "grants"), "grants has no meaning"),
        (("kpi_reports", "kpi_report"), "restricted must list tables"),
        (('"CN=ca"', "3"), "it needs issuer"),
        (("DNS:", ""), "san must begin with"),
        (("[[subject]]", "[subject]"), r"must contain \[\[subject"),
        (("restricted", "["), "Invalid initial character for a key"),
        (('"kpi_reports"', "[1]"), "restricted must list tables"),
        (('"kpi_reports"', "{a = 1}"), "restricted must list tables"),
        (("restricted = [", "restricted = " + "[" * 100_000), "nested too deeply"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path: Path, change: tuple[str, str], problem: str) -> None:
    (tmp_path / "roles").write_text(ENTRY.replace(*change))
    with pytest.raises(ValueError, match=problem):
        read_subjects(tmp_path / "roles")


def test_two_roles_of_one_certificate_are_refused(tmp_path: Path) -> None:
    (tmp_path / "roles").write_text(ENTRY + ENTRY.replace("Dashboard", "dashboard"))
    with pytest.raises(ValueError, match="has a role already"):
        read_subjects(tmp_path / "roles")


def test_the_quarantine_has_its_own_grant() -> None:
    given = rights("kpi-consumer", "kpi_reports")
    assert not given.may_see(QUARANTINED.name, "payload")
    assert given.may_see("kpi_reports", "extra")
    assert find_class(QUARANTINED.name, "message") == AccessClass.RESTRICTED
