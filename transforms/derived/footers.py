"""What the footers of derived files say that they were made of. DuckDB is not loaded here."""

import json
from collections.abc import Iterable, Mapping

import pyarrow as pa

from transforms.core.typed_json import parse_json
from transforms.sinks.parquet.output_files import OutputFile
from transforms.sinks.parquet.parquet_file import open_parquet

INPUTS = b"kpiflow.inputs"
"""Key of a derived file's footer: the digest of all that it may read, and how many files its unit has. Of a
sealed day it is a JSON object with these for the names of all files of hours whose rows it has."""


def join_inputs(inputs: Mapping[str, str]) -> dict[bytes, bytes]:
    """What the footer of the file of a sealed day says, from what each of its files of hours does."""
    return {INPUTS: json.dumps(dict(sorted(inputs.items()))).encode()}


def join_files(files: Iterable[OutputFile]) -> dict[bytes, bytes]:
    """What the footer of the file of a sealed day says that has the rows of some files."""
    return join_inputs({name: made for file in files for name, made in read_inputs(file).items()})


def read_inputs(file: OutputFile) -> dict[str, str]:
    """What a derived file is made of, by the names of files of hours; nothing, if it cannot be read."""
    try:
        with open_parquet(file.open()) as parquet:
            text = (parquet.metadata.metadata or {}).get(INPUTS, b"").decode(errors="replace")
        if not file.is_day:
            return {file.name: text}
        return parse_json(text, dict[str, str])
    except (OSError, ValueError, pa.ArrowException):
        return {} if file.is_day else {file.name: ""}
