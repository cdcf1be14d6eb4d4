"""A graph in Beam's portable form: what a runner of Docker images, such as Dataflow, can make of it, and its picture."""

import bz2
import io
import pickle
import sys
import sysconfig
import zlib
from base64 import b64decode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from apache_beam.portability import common_urns, python_urns
from apache_beam.portability.api import beam_runner_api_pb2 as protos
from apache_beam.portability.api import standard_window_fns_pb2
from apache_beam.transforms import environments
from google.protobuf.wrappers_pb2 import BytesValue
from rich.console import Group
from rich.text import Text
from rich.tree import Tree

_RUNNABLE = frozenset({
    *(getattr(common_urns.primitives, name).urn for name in ("PAR_DO", "GROUP_BY_KEY", "FLATTEN", "IMPULSE", "ASSIGN_WINDOWS")),
    *(getattr(common_urns.composites, name).urn for name in ("PUBSUB_READ", "PUBSUB_WRITE")),
})  # fmt: skip
_COMBINES = frozenset(
    {common_urns.composites.COMBINE_PER_KEY.urn, common_urns.composites.COMBINE_GLOBALLY.urn}
)
_MET = frozenset({
    getattr(common_urns.requirements, f"REQUIRES_{name}").urn
    for name in ("STATEFUL_PROCESSING", "BUNDLE_FINALIZATION", "SPLITTABLE_DOFN")
})  # fmt: skip
_SIDE_INPUTS = frozenset({common_urns.side_inputs.ITERABLE.urn, common_urns.side_inputs.MULTIMAP.urn})
_BY_VALUE = frozenset({"_make_function", "_make_skeleton_class"})
_INSTALLED = ("stdlib", "platstdlib", "purelib", "platlib")


@dataclass(frozen=True)
class Finding:
    """What keeps a graph from Dataflow: where, why, and the mend."""

    where: str
    problem: str
    mend: str

    def __str__(self) -> str:
        return f"{self.where} {self.problem}; {self.mend}"


@dataclass(frozen=True)
class Step:
    """A transform of the graph, what is to be known of it, and the steps that it is made of."""

    name: str
    marks: tuple[str, ...] = ()
    steps: tuple["Step", ...] = ()

    def all_marks(self) -> tuple[str, ...]:
        """Its marks and those of its steps, each once."""
        return tuple(
            dict.fromkeys([*self.marks, *(mark for step in self.steps for mark in step.all_marks())])
        )


@dataclass(frozen=True)
class Report:
    """A graph as Dataflow would get it: its steps, what is amiss, and what to know. Prints itself on a rich console.

    `transforms` is how many steps of each kind (URN) there are, without composites; `coders` names those that are pickled.
    """

    title: str
    steps: tuple[Step, ...]
    problems: tuple[Finding, ...]
    notes: tuple[str, ...]
    transforms: dict[str, int]
    requirements: tuple[str, ...]
    coders: tuple[str, ...]
    environments: tuple[str, ...]
    depth: int = 2

    def with_problems(self, problems: Iterable[Finding]) -> "Report":
        """The report with further problems, first."""
        return replace(self, problems=(*problems, *self.problems))

    def __rich__(self) -> Group:
        tree = Tree(Text(self.title))
        _draw(tree, self.steps, self.depth)
        kinds = ", ".join(f"{count} {urn.split(':')[-2]}" for urn, count in sorted(self.transforms.items()))
        lines = [Text(f"{kinds}; pickled coders: {', '.join(self.coders) or 'none'}")]
        lines += [Text(f"note: {note}") for note in self.notes]
        lines += [Text(f"problem: {problem}", "bold red") for problem in self.problems]
        if not self.problems:
            lines.append(Text("Dataflow can run this, as far as can be told from here", "green"))
        return Group(tree, *lines)


def look_over(
    graph: protos.Pipeline, title: str, exactly_once: bool = True, secrets: Sequence[str] = ()
) -> Report:
    """What Dataflow would make of a graph in Beam's portable form; `secrets` are texts that must not be in it."""
    whole = _Graph(graph)
    urns = [each.spec.urn for each in whole.leaves]
    pickles = list(whole.pickles())
    problems = [*whole.problems(), *_unloadable(pickles), *_told(whole.payloads(), secrets)]
    if not exactly_once:
        problems += whole.counting()
    return Report(
        title,
        tuple(whole.step(each) for each in whole.top if each.subtransforms or _works(each)),
        tuple(dict.fromkeys(problems)),
        tuple(whole.notes(exactly_once)),
        {urn: urns.count(urn) for urn in sorted(set(urns))},
        tuple(sorted(graph.requirements)),
        tuple(sorted(name for name, _, is_coder in pickles if is_coder)),
        tuple(sorted({_place(each) for each in graph.components.environments.values()})),
    )


class _Graph:
    """A graph in Beam's portable form: its transforms in the order in which they were applied, and what is asked of them."""

    def __init__(self, graph: protos.Pipeline) -> None:
        self.graph, self.parts = graph, graph.components
        roots = [self.parts.transforms[each] for each in graph.root_transform_ids]
        self.ordered = [each for root in roots for each in self._within(root)]
        self.leaves = [each for each in self.ordered if _works(each)]
        self.top = [each for root in roots for each in ([root] if root.spec.urn else self._parts_of(root))]
        self.dofns = {
            each.unique_name: protos.ParDoPayload.FromString(each.spec.payload)
            for each in self.leaves
            if each.spec.urn == common_urns.primitives.PAR_DO.urn
        }

    def _parts_of(self, transform: protos.PTransform) -> list[protos.PTransform]:
        return [self.parts.transforms[each] for each in transform.subtransforms]

    def _within(self, transform: protos.PTransform) -> Iterator[protos.PTransform]:
        yield transform
        for each in self._parts_of(transform):
            yield from self._within(each)

    def _windows(self, collections: Iterable[str]) -> list[protos.WindowingStrategy]:
        known = self.parts.pcollections
        return [self.parts.windowing_strategies[known[each].windowing_strategy_id] for each in collections]

    def step(self, transform: protos.PTransform, above: str = "") -> Step:
        """A transform and all that it is made of; what passes its input on is left out."""
        name = transform.unique_name
        steps = tuple(
            self.step(each, name) for each in self._parts_of(transform) if each.subtransforms or _works(each)
        )
        return Step(name.removeprefix(f"{above}/"), tuple(self._marks(transform)), steps)

    def _marks(self, transform: protos.PTransform) -> Iterator[str]:
        outputs = transform.outputs.values()
        if transform.spec.urn == common_urns.primitives.GROUP_BY_KEY.urn:
            yield "grouped by key"
        elif _combines(transform):
            yield "combined"
        elif transform.spec.urn == common_urns.primitives.ASSIGN_WINDOWS.urn:
            yield from map(_windowing, self._windows(outputs))
        if dofn := self.dofns.get(transform.unique_name):
            unbounded = any(
                self.parts.pcollections[each].is_bounded == protos.IsBounded.UNBOUNDED for each in outputs
            )
            yield from (
                ["splittable, without end" if unbounded else "splittable"]
                if dofn.restriction_coder_id
                else []
            )
            yield from (f"state {name} ({_kind(spec)})" for name, spec in sorted(dofn.state_specs.items()))
            yield from (
                f"timer {name} ({_domain(spec)})" for name, spec in sorted(dofn.timer_family_specs.items())
            )
            yield from ["told when durable"] if dofn.requests_finalization else []
            yield from ["side inputs"] if dofn.side_inputs else []

    def problems(self) -> Iterator[Finding]:
        """What Dataflow does not run."""
        for urn in sorted(set(self.graph.requirements) - _MET):
            yield Finding(
                "the graph", f"requires {urn}, which Dataflow is not known to meet", "do without it"
            )
        for key, environment in sorted(self.parts.environments.items()):
            if (resolved := _docker(environment)).urn != common_urns.environments.DOCKER.urn:
                users = [each.unique_name for each in self.leaves if each.environment_id == key]
                mend = "Dataflow runs Docker images only: leave the environment to --sdk-container-image"
                yield Finding(", ".join(users[:3]) or "the graph", f"is to run in {resolved.urn}", mend)
        for transform in self.leaves:
            if transform.spec.urn not in _RUNNABLE:
                mend = "build the step of ParDo, GroupByKey, Flatten and windows"
                yield Finding(
                    transform.unique_name,
                    f"is a {transform.spec.urn}, which Dataflow is not known to run",
                    mend,
                )
        for name, dofn in self.dofns.items():
            yield from _of_dofn(name, dofn)
        for transform in self.leaves:
            yield from self._of_windows(transform)

    def _of_windows(self, transform: protos.PTransform) -> Iterator[Finding]:
        name, dofn = transform.unique_name, self.dofns.get(transform.unique_name)
        for windows in self._windows(transform.inputs.values() if dofn else transform.outputs.values()):
            if dofn and dofn.state_specs and windows.merge_status == protos.MergeStatus.NEEDS_MERGE:
                yield Finding(name, "keeps state in windows that merge", "give it windows of a fixed length")
            if not dofn and windows.accumulation_mode == protos.AccumulationMode.RETRACTING:
                yield Finding(name, "retracts panes, which Dataflow does not", "accumulate or discard them")

    def counting(self) -> list[Finding]:
        """The steps that would count a record twice which comes twice."""
        names = [each.unique_name for each in self.ordered if _combines(each)]
        return [
            Finding(name, "counts a record again that comes again", "run the job exactly once")
            for name in names
        ]

    def notes(self, exactly_once: bool) -> Iterator[str]:
        """What to know of a graph that can be run."""
        for name, dofn in self.dofns.items():
            if dofn.requests_finalization:
                yield f"{name} is told once Dataflow has its rows, before later steps are done: drain the job, do not cancel it"
            if dofn.state_specs:
                again = "" if exactly_once else ", and may get some again"
                yield f"{name} gets the rows of a key in no order that Dataflow promises{again}"

    def pickles(self) -> Iterator[tuple[str, bytes, bool]]:
        """What the workers are to load: where it belongs, its pickle, and whether it is a coder."""
        for name, dofn in self.dofns.items():
            functions = [dofn.do_fn, *(each.view_fn for each in dofn.side_inputs.values())]
            yield from (
                (name, _unpacked(each.payload), False) for each in functions if "pickled_python" in each.urn
            )
        for coder in self.parts.coders.values():
            if coder.spec.urn == python_urns.PICKLED_CODER:
                coder_name, _, packed = BytesValue.FromString(coder.spec.payload).value.partition(b"$")
                yield coder_name.decode(), _unpacked(packed), True
        for windows in self.parts.windowing_strategies.values():
            if windows.window_fn.urn == python_urns.PICKLED_WINDOWFN:
                yield (
                    "a window function",
                    _unpacked(BytesValue.FromString(windows.window_fn.payload).value),
                    False,
                )

    def payloads(self) -> Iterator[tuple[str, bytes]]:
        """All that is pickled, whether or not a worker loads it."""
        yield from ((name, pickled) for name, pickled, _ in self.pickles())
        for transform in self.ordered:
            if transform.spec.urn == python_urns.PICKLED_TRANSFORM:
                yield transform.unique_name, _unpacked(transform.spec.payload)


def _of_dofn(name: str, dofn: protos.ParDoPayload) -> Iterator[Finding]:
    for state, spec in sorted(dofn.state_specs.items()):
        if spec.protocol.urn not in ("", common_urns.user_state.BAG.urn):
            yield Finding(
                name,
                f"keeps the state {state!r} ({_kind(spec)}), which Dataflow cannot",
                "keep it in a bag or a value",
            )
    for side_input in dofn.side_inputs.values():
        if side_input.access_pattern.urn not in _SIDE_INPUTS:
            yield Finding(
                name,
                f"has a side input by {side_input.access_pattern.urn}",
                "read it as an iterable or a multimap",
            )
    for timer, family in sorted(dofn.timer_family_specs.items()):
        if family.time_domain not in (protos.TimeDomain.EVENT_TIME, protos.TimeDomain.PROCESSING_TIME):
            yield Finding(
                name, f"sets the timer {timer!r} in no known time", "set it in event time or processing time"
            )


def _works(transform: protos.PTransform) -> bool:
    """Whether it is a step by itself: not made of others, and no composite that passes on what it got."""
    return not transform.subtransforms and bool(
        set(transform.outputs.values()) - set(transform.inputs.values())
    )


def _combines(transform: protos.PTransform) -> bool:
    return transform.spec.urn in _COMBINES


def _docker(environment: protos.Environment) -> protos.Environment:
    resolved: protos.Environment = environments.resolve_anyof_environment(
        environment, common_urns.environments.DOCKER.urn
    )
    return resolved


def _place(environment: protos.Environment) -> str:
    """An environment's image, or its kind where it has none."""
    resolved = _docker(environment)
    docker = resolved.urn == common_urns.environments.DOCKER.urn
    return protos.DockerPayload.FromString(resolved.payload).container_image if docker else resolved.urn


def _kind(spec: protos.StateSpec) -> str:
    kind: str = spec.WhichOneof("spec") or spec.protocol.urn
    return {"read_modify_write_spec": "value"}.get(kind, kind.removesuffix("_spec").replace("_", " "))


def _domain(spec: protos.TimerFamilySpec) -> str:
    return protos.TimeDomain.Enum.Name(spec.time_domain).lower().replace("_", " ")


def _triggers(trigger: protos.Trigger) -> Iterator[str]:
    """The kinds of a trigger and of those in it."""
    kind = trigger.WhichOneof("trigger") or "default"
    yield kind
    for _, value in getattr(trigger, kind).ListFields():
        for each in value if not isinstance(value, protos.Trigger | bool | int) else [value]:
            if isinstance(each, protos.Trigger):
                yield from _triggers(each)


def _windowing(windows: protos.WindowingStrategy) -> str:
    """A windowing strategy in words."""
    urn, payload = windows.window_fn.urn, windows.window_fn.payload
    if urn == common_urns.fixed_windows.urn:
        size = standard_window_fns_pb2.FixedWindowsPayload.FromString(payload).size.ToSeconds()
        words = [f"windows of {size} s"]
    else:
        words = [urn.split(":")[-2].replace("_", " ").replace("windows", "window")]
    plain = {"default", "repeat", "after_any", "after_end_of_window", "after_synchronized_processing_time"}
    end = windows.trigger.after_end_of_window
    words += ["early panes"] if end.HasField("early_firings") else []
    words += ["late panes"] if end.HasField("late_firings") else []
    words += sorted(kind.replace("_", " ") for kind in set(_triggers(windows.trigger)) - plain)
    words += [f"up to {windows.allowed_lateness // 1000} s late"] if windows.allowed_lateness else []
    return ", ".join(words)


def _draw(tree: Tree, steps: Iterable[Step], depth: int) -> None:
    for step in steps:
        whole = depth == 1
        marks = step.all_marks() if whole else step.marks
        branch = tree.add(Text.assemble(step.name, (f"  {'; '.join(marks)}", "dim") if marks else ""))
        if not whole:
            _draw(branch, step.steps, depth - 1)


def _unpacked(encoded: bytes) -> bytes:
    """The pickle in what Beam's pickler gave."""
    packed = b64decode(encoded)
    return bz2.decompress(packed) if packed.startswith(b"BZh") else zlib.decompress(packed)


class _Loader(pickle.Unpickler):
    """Loads a pickle, and remembers which names of which modules that took."""

    def __init__(self, pickled: bytes) -> None:
        super().__init__(io.BytesIO(pickled))
        self.taken: set[tuple[str, str]] = set()

    def find_class(self, module: str, name: str) -> Any:
        self.taken.add((module, name))
        found = super().find_class(module, name)
        return self._import if name == "subimport" else found

    def _import(self, module: str) -> Any:
        self.taken.add((module, ""))
        return import_module(module)


@cache
def _is_installed(module: str) -> bool:
    """Whether a module that is loaded is Python's, of an installed package, or of the one that this module is in."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or any(
        Path(file).is_relative_to(folder) for folder in map(sysconfig.get_path, _INSTALLED)
    ):
        return True
    distributions = packages_distributions()
    own = distributions.get(__name__.partition(".")[0], [])
    return any(name in own for name in distributions.get(module.partition(".")[0], []))


def _unloadable(pickles: Iterable[tuple[str, bytes, bool]]) -> Iterator[Finding]:
    """What a worker could not load that has the same packages installed as this process."""
    for where, pickled, is_coder in pickles:
        loader = _Loader(pickled)
        try:
            loader.load()
        except Exception as error:  # whatever a constructor may raise
            yield Finding(
                where,
                f"cannot be loaded again: {error}",
                "let it hold plain values, and connect where it works",
            )
        for module in sorted({module for module, _ in loader.taken if not _is_installed(module)}):
            yield Finding(
                where,
                f"needs the module {module} of no installed package",
                "put it into one that the image has",
            )
        if is_coder and any(name in _BY_VALUE for _, name in loader.taken):
            mend = "make it a class of a module that the image has"
            yield Finding(
                where, "is pickled with its code, so that no later build could read its state", mend
            )


def _told(payloads: Iterable[tuple[str, bytes]], secrets: Sequence[str]) -> Iterator[Finding]:
    for where, pickled in payloads:
        if any(secret and secret.encode() in pickled for secret in secrets):
            yield Finding(
                where,
                "holds a secret in clear, and the graph is kept in Cloud Storage",
                "let the workers fetch it",
            )
