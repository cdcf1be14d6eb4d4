"""Categories as numbers, by a pipeline of scikit-learn that is kept, so that the same encoding serves later.

| column | encoding | a category that was not there when the encoding was made, or null |
|---|---|---|
| agent_type | one-hot: `agent_type=NAME` is 1 or 0 | 0 in every column |
| source_layer | label: `source_layer_label`, its place among the names in the order of code points | -1 |
| priority | ordinal: `priority_ordinal`, background 0 to critical 4 | -1 |
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

from pipelines.export.dictionary import add_texts
from pipelines.failures import WrongUse
from transforms.core.durable_files import replace_file

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

ONE_HOT, LABEL, ORDINAL = "agent_type", "source_layer", "priority"
PRIORITIES = (1, 25, 50, 75, 100)
_UNKNOWN = -1
_NULL = ""
"""What a null text is before it is encoded: no schema allows it as a category."""

_BY_PLACE = {"handle_unknown": "use_encoded_value", "unknown_value": _UNKNOWN}
_PARTS = {
    "one_hot": (OneHotEncoder, {"handle_unknown": "ignore", "sparse_output": False}, ONE_HOT),
    "label": (OrdinalEncoder, _BY_PLACE, LABEL),
    "ordinal": (OrdinalEncoder, _BY_PLACE, ORDINAL),
}
"""The parts of an encoding by name: what encodes, its options, and the column."""


class Categories:
    """The categories that an export has, collected as its rows come by."""

    def __init__(self) -> None:
        self._found: dict[str, set[str]] = {ONE_HOT: set(), LABEL: set()}

    def add(self, rows: pa.RecordBatch) -> None:
        """Collect the categories of some rows."""
        for name, found in self._found.items():
            found.update(pc.drop_null(pc.unique(rows[name])).to_pylist())

    def sort(self) -> dict[str, list[str]]:
        """The categories of each column, in the order of code points."""
        return {name: sorted(found) for name, found in self._found.items()}


class Encoder:
    """An encoding, as in the table of the module."""

    def __init__(self, transformer: "BaseEstimator") -> None:
        self._transformer = transformer
        self.names = tuple(map(str, transformer.get_feature_names_out()))

    def make_fields(self) -> list[pa.Field]:
        """The columns of the encoding, each with its meaning."""
        return [add_texts(pa.field(name, pa.int32()), _explain(name)) for name in self.names]

    def encode(self, rows: pa.RecordBatch) -> list[pa.Array]:
        """int32[n]: a column for each of `names`."""
        values = self._transformer.transform(_make_frame(rows))
        return [pa.array(column) for column in np.asarray(values).astype(np.int32).T]

    def save(self, path: Path) -> None:
        """Write the pipeline to a file, safe on disk."""
        replace_file(path, skops.io.dumps(self._transformer))


def fit_encoder(categories: Mapping[str, Iterable[str]]) -> Encoder:
    """The encoding of these categories of ONE_HOT and LABEL."""
    one_hot, label = (list(categories[name]) for name in (ONE_HOT, LABEL))
    # without a category there is no column
    known = {"one_hot": one_hot, "label": label, "ordinal": list(PRIORITIES)}
    parts = [
        (part, kind(categories=[known[part]], **options), [column])
        for part, (kind, options, column) in _PARTS.items()
        if known[part]
    ]
    transformer = ColumnTransformer(parts, verbose_feature_names_out=_name_column)
    example = {ONE_HOT: one_hot[:1] or [_NULL], LABEL: label[:1] or [_NULL], ORDINAL: [PRIORITIES[0]]}
    return Encoder(transformer.fit(pd.DataFrame(example)))


def load_encoder(path: Path) -> Encoder:
    """The encoding that `Encoder.save` wrote.

    Raises:
        WrongUse: the file is not there, or holds anything else. No code of the file is run.
    """
    fix = "give --encoder the .skops file of an earlier `kpiflow features --encode`"
    trusted = [f"{__name__}._name_column"]
    try:
        unknown = sorted(set(skops.io.get_untrusted_types(file=path)) - set(trusted))
        if unknown:
            raise WrongUse(f"{path} needs types that an encoding has not: {', '.join(unknown)}", fix)
        transformer = skops.io.load(path, trusted=trusted)
        if not _is_encoding(transformer):
            raise WrongUse(f"{path} holds no encoding", fix)
        return Encoder(transformer)
    except WrongUse:
        raise
    except Exception as error:  # whatever a file that is none of ours makes the library raise
        raise WrongUse(f"cannot read an encoding from {path}: {error}", fix) from error


def _is_encoding(transformer: object) -> bool:
    """Whether it is made as `fit_encoder` does: another pipeline could fail in the middle, or mean another
    thing."""
    return (
        isinstance(transformer, ColumnTransformer)
        and "ordinal" in transformer.named_transformers_
        and all(
            part in _PARTS and _is_part(encoder, columns, *_PARTS[part])
            for part, encoder, columns in transformer.transformers_
            if encoder != "drop"
        )
    )


def _is_part(encoder: object, columns: object, kind: type, options: dict[str, object], column: str) -> bool:
    return (
        type(encoder) is kind
        and columns == [column]
        and all(getattr(encoder, name) == value for name, value in options.items())
    )


def _name_column(part: str, name: str) -> str:
    """The name of an encoded column, from that of the transformer and its own."""
    if part == "one_hot":
        return f"{ONE_HOT}={name.removeprefix(f'{ONE_HOT}_')}"
    return f"{name}_{part}"


def _explain(name: str) -> dict[str, str]:
    if name.startswith(f"{ONE_HOT}="):
        meaning, values = f"1 if agent_type is `{name.removeprefix(f'{ONE_HOT}=')}`, else 0", "0, 1"
    elif name.startswith(LABEL):
        meaning, values = "place of source_layer among the known layers; -1: unknown or null", "-1 and up"
    else:
        meaning, values = "rank of priority, background 0 to critical 4; -1: null", "-1 to 4"
    return {"type": "int32", "meaning": meaning, "range": values, "null_when": "never"}


def _make_frame(rows: pa.RecordBatch) -> pd.DataFrame:
    texts = {
        name: pc.fill_null(rows[name], _NULL).to_numpy(zero_copy_only=False) for name in (ONE_HOT, LABEL)
    }
    priority = pc.fill_null(rows[ORDINAL], _UNKNOWN).to_numpy(zero_copy_only=False)
    return pd.DataFrame(
        {**{name: column.astype(object) for name, column in texts.items()}, ORDINAL: priority}
    )
