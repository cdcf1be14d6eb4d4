"""A reader's positions as the restriction of a splittable DoFn: what a runner keeps in its checkpoints."""

import json
from collections.abc import Mapping
from dataclasses import astuple

import apache_beam as beam
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker
from apache_beam.transforms.core import RestrictionProvider

from transforms.sources.redis.group import parse_position
from transforms.sources.redis.positions import Position

Positions = Mapping[str, Position]


class PositionsTracker(RestrictionTracker):
    """A restriction that never ends: the positions so far. A split takes all that is left, which is what
    comes after them."""

    def __init__(self, positions: Positions) -> None:
        self.positions = dict(positions)
        self.split_off = False

    def current_restriction(self) -> dict[str, Position]:
        return self.positions

    def try_claim(self, position: Positions) -> bool:
        if not self.split_off:
            self.positions = dict(position)
        return not self.split_off

    def try_split(
        self, fraction_of_remainder: float
    ) -> tuple[dict[str, Position], dict[str, Position]] | None:
        if fraction_of_remainder or self.split_off:
            return None
        self.split_off = True
        return self.positions, self.positions

    def check_done(self) -> bool:
        return True

    def current_progress(self) -> RestrictionProgress:
        return RestrictionProgress(fraction=0.0)

    def is_bounded(self) -> bool:
        return False


class PositionsCoder(beam.coders.Coder):
    """Positions as JSON, which any later version can read."""

    def encode(self, positions: Positions) -> bytes:
        return json.dumps({key: astuple(position) for key, position in positions.items()}).encode()

    def decode(self, encoded: bytes) -> dict[str, Position]:
        return {key: parse_position(values) for key, values in json.loads(encoded).items()}

    def is_deterministic(self) -> bool:
        return True


class PositionsProvider(RestrictionProvider):
    """Begins with no positions at all: the first session asks Redis for them."""

    def initial_restriction(self, element: object) -> dict[str, Position]:
        return {}

    def create_tracker(self, restriction: Positions) -> PositionsTracker:
        return PositionsTracker(restriction)

    def restriction_size(self, element: object, restriction: Positions) -> int:
        return 1

    def restriction_coder(self) -> beam.coders.Coder:
        return PositionsCoder()
