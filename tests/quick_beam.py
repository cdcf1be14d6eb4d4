"""Beam without work that it does again and again: half the time of a small graph.

For each bundle, and several times for each step of a graph, Beam inspects the methods of a DoFn; and for each
question about an option it makes a parser of options. The answers are always the same.
"""

from typing import Any
from weakref import WeakKeyDictionary

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import DoFn, userstate

_find_specs, _make_view = userstate.get_dofn_specs, PipelineOptions.view_as
_specs: WeakKeyDictionary[DoFn, Any] = WeakKeyDictionary()
_views: WeakKeyDictionary[PipelineOptions, dict[Any, PipelineOptions]] = WeakKeyDictionary()


def remember_answers() -> None:
    """Have Beam find each of these answers once, in this process and in those that are forked from it."""
    userstate.get_dofn_specs = _get_dofn_specs
    PipelineOptions.view_as = _view_as  # type: ignore[assignment, method-assign]


def _get_dofn_specs(dofn: DoFn) -> Any:
    if dofn not in _specs:
        _specs[dofn] = _find_specs(dofn)
    return _specs[dofn]


def _view_as(options: PipelineOptions, kind: Any) -> PipelineOptions:
    """The view of this kind. All views share their values, unless these were exchanged since."""
    views = _views.setdefault(options, {})
    known = views.get(kind)
    if known is None or known._all_options is not options._all_options:
        known = views[kind] = _make_view(options, kind)
    return known
