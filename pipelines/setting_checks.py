"""Whether settings fit each other. Loads nothing, since every command needs it."""

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.settings import Settings

_DAY = timedelta(days=1)


def find_conflict(settings: "Settings") -> str | None:
    """What is wrong with the settings of retention beside the others, with a fix; None if they fit."""
    return next(_find_conflicts(settings), None)


def _find_conflicts(settings: "Settings") -> Iterator[str]:
    late = settings.stale_seconds + settings.future_seconds + settings.reread_seconds
    complete = timedelta(seconds=late), "stale_seconds and reread_seconds"
    context = timedelta(hours=settings.context_hours), "context_hours"
    experience = timedelta(days=settings.experience_days), "experience_days"
    needs = {
        "keep_reports_days": (complete, context),
        "keep_records_days": (context,),
        "keep_windows_1h_days": (complete, experience),
        "keep_windows_1m_days": (complete,),
        "keep_windows_5s_days": (complete,),
        "keep_derived_days": (context,),
    }
    for name, reaches in needs.items():
        for reach, because in reaches:
            least = -(-reach // _DAY) + 1
            if (kept := getattr(settings, name)) < least:
                yield (
                    f"setting {name} = {kept} is too short beside {because}: rows would expire before all is "
                    f"written that needs them; set it to {least} or more"
                )
