from datetime import UTC, date, datetime, timedelta

from pipelines.maintenance.plan import (
    EXPIRE,
    MOVE,
    REMOVE,
    SEAL,
    MaintenancePlan,
    MaintenanceRules,
    MaintenanceStep,
    Withheld,
    can_seal,
    make_plan,
)
from transforms.sinks.parquet.maintenance_ledger import COLD, HOT, WARM, DayPlace, Ledger

REPORTS, TASKS = "kpi_reports", "tasks"
DAY = date(2026, 1, 10)
NEXT = DAY + timedelta(days=1)
HOUR = timedelta(hours=1)
MIDNIGHT = datetime(2026, 1, 11, tzinfo=UTC)
RULES = MaintenanceRules(after=3 * HOUR, grace=HOUR)
TIERED = MaintenanceRules(3 * HOUR, HOUR, timedelta(days=7), timedelta(days=30))


def plan(ledger=None, stored=None, rules=RULES, now=MIDNIGHT + 3 * HOUR, until=None):
    stored = {REPORTS: frozenset([DAY])} if stored is None else stored
    return list(make_plan(ledger or Ledger(), stored, rules, now, until or now).steps)


def test_a_day_is_sealed_once_no_message_of_it_can_come():
    assert plan() == [MaintenanceStep(SEAL, REPORTS, DAY)]
    assert plan(now=MIDNIGHT + 3 * HOUR - timedelta(seconds=1)) == []


def test_the_stream_decides_when_that_is_and_not_the_clock():
    assert plan(now=MIDNIGHT + 99 * HOUR, until=MIDNIGHT + 2 * HOUR) == []
    assert make_plan(Ledger(), {REPORTS: frozenset([DAY])}, RULES, MIDNIGHT + 99 * HOUR, None).steps == ()


def test_what_is_sealed_is_not_sealed_again():
    sealed = Ledger().put_day(REPORTS, DAY, DayPlace(True), MIDNIGHT + 3 * HOUR)
    assert plan(sealed) == []


def test_days_are_sealed_oldest_first():
    stored = {REPORTS: frozenset([NEXT, DAY]), "duplicates": frozenset([DAY])}
    found = plan(stored=stored, now=MIDNIGHT + 99 * HOUR)
    assert [(step.folder, step.day) for step in found] == [
        ("duplicates", DAY),
        (REPORTS, DAY),
        (REPORTS, NEXT),
    ]


def test_tables_that_a_stream_can_add_old_rows_to_are_not_sealed():
    assert not can_seal(TASKS)
    assert not can_seal("agents")
    assert can_seal("features")
    assert can_seal("kpi_aggregations/window_size=5s")
    assert can_seal("quarantine")
    assert plan(stored={TASKS: frozenset([DAY])}, now=MIDNIGHT + 99 * HOUR) == []


def test_replaced_files_are_removed_after_the_grace_period():
    ledger = Ledger().put_day(REPORTS, DAY, DayPlace(True), MIDNIGHT)
    assert plan(ledger, now=MIDNIGHT + HOUR) == [MaintenanceStep(REMOVE, REPORTS, DAY, HOT, False)]
    assert plan(ledger, now=MIDNIGHT + HOUR - timedelta(seconds=1)) == []


def test_a_sealed_day_moves_to_the_tier_of_its_age_once():
    ledger = (
        Ledger()
        .put_day(REPORTS, DAY, DayPlace(True), MIDNIGHT)
        .forget(*Ledger().put_day(REPORTS, DAY, DayPlace(True), MIDNIGHT).replaced)
    )
    for days, tier in ((7, WARM), (29, WARM), (30, COLD)):
        assert plan(ledger, {}, TIERED, MIDNIGHT + timedelta(days=days)) == [
            MaintenanceStep(MOVE, REPORTS, DAY, tier)
        ]
    assert plan(ledger, {}, TIERED, MIDNIGHT + timedelta(days=6)) == []
    assert plan(ledger, {}, RULES, MIDNIGHT + timedelta(days=99)) == []
    cold = Ledger(days={REPORTS: {DAY: DayPlace(True, COLD)}})
    assert plan(cold, {}, TIERED, MIDNIGHT + timedelta(days=8)) == []


def test_a_day_that_was_not_sealed_for_long_is_sealed_and_moved_in_one_run():
    found = plan(rules=TIERED, now=MIDNIGHT + timedelta(days=40))
    assert found == [MaintenanceStep(SEAL, REPORTS, DAY), MaintenanceStep(MOVE, REPORTS, DAY, COLD)]


def test_what_expires_is_neither_sealed_nor_moved():
    rules = MaintenanceRules(3 * HOUR, HOUR, timedelta(days=7), None, {REPORTS: NEXT}, expire_most=True)
    assert plan(rules=rules, now=MIDNIGHT + timedelta(days=40)) == [MaintenanceStep(EXPIRE, REPORTS, NEXT)]


def test_nothing_expires_that_is_not_complete_and_nothing_twice():
    rules = MaintenanceRules(3 * HOUR, HOUR, kept_from={REPORTS: NEXT})
    assert plan(rules=rules, now=MIDNIGHT + 2 * HOUR) == []
    expired = Ledger().expire(REPORTS, NEXT, frozenset(), MIDNIGHT)
    assert plan(expired, rules=rules, now=MIDNIGHT + 99 * HOUR) == []


def test_nothing_expires_if_more_than_half_of_the_days_would_go_from_a_table():
    days = frozenset(DAY - timedelta(days=age) for age in range(4))
    stored = {REPORTS: days, "duplicates": days}
    now = MIDNIGHT + 99 * HOUR

    def expire(kept: int, **more) -> MaintenancePlan:
        kept_from = {REPORTS: DAY - timedelta(days=kept - 1), "duplicates": DAY - timedelta(days=2)}
        return make_plan(
            Ledger(), stored, MaintenanceRules(3 * HOUR, HOUR, kept_from=kept_from, **more), now, now
        )

    def list_expired(plan: MaintenancePlan) -> list[str]:
        return [step.folder for step in plan.steps if step.action == EXPIRE]

    half, most = expire(2), expire(1)
    assert (list_expired(half), half.withheld) == (["duplicates", REPORTS], ())
    assert list_expired(most) == []
    assert most.withheld == (
        Withheld("duplicates", DAY - timedelta(days=2), 1),
        Withheld(REPORTS, DAY, 3),
    )
    assert sum(step.action == SEAL for step in most.steps) == 8
    assert list_expired(expire(1, expire_most=True)) == ["duplicates", REPORTS]


def test_a_table_with_rows_of_few_days_expires_like_the_others():
    stored = {
        REPORTS: frozenset(DAY - timedelta(days=age) for age in range(4)),
        "quarantine": frozenset([DAY]),
    }
    rules = MaintenanceRules(3 * HOUR, HOUR, kept_from={"quarantine": NEXT})
    assert plan(stored=stored, rules=rules, now=MIDNIGHT + 99 * HOUR)[0] == MaintenanceStep(
        EXPIRE, "quarantine", NEXT
    )
