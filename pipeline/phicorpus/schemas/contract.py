"""The tables that other programs write or read, described as JSON for any language."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from phicorpus.schemas.annotation import ANNOTATION, KEY
from phicorpus.schemas.document import DOCUMENT
from phicorpus.schemas.field import FIRST_RELEASE
from phicorpus.schemas.manifest import MANIFEST
from phicorpus.schemas.run import RUN


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """A table and what its schema does not say.

    Attributes:
        schema: The columns, with name and version of the table.
        meaning: What a row is.
        place: Where its files lie: below the output, or as the job's config says.
        format: Parquet files of many rows, or JSON files of one object each.
        path_columns: Columns that the path holds, as `name=value`, and the files do not.
        key: Columns, those of the path too, of which no two rows have the same values.
        further_columns: What other columns there may be.
        nested: Meaning and unit of the fields inside a column; the files do not hold them.
    """

    schema: pa.Schema
    meaning: str
    place: str
    format: Literal["parquet", "json"] = "parquet"
    path_columns: Mapping[str, str]
    key: Sequence[str]
    further_columns: str | None = None
    nested: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])


_FINGERPRINT = "Hash of everything that can change an answer"
_PASSED_THROUGH = "The manifest's further columns, by name and type"

CONTRACTS: Mapping[str, Contract] = {
    "manifest": Contract(
        schema=MANIFEST,
        meaning="One image, deck, recording or text to annotate",
        place="the job's `manifest`: a file, a folder or a pattern",
        path_columns={},
        key=("asset_id",),
        further_columns="Any; annotations and documents hold them by name",
    ),
    "annotation": Contract(
        schema=ANNOTATION,
        meaning="The answer to one task about one segment of an asset",
        place="annotations/task={task}/fingerprint={fingerprint}/{unit_id}[.r{round}].parquet",
        path_columns={"task": "The task", "fingerprint": _FINGERPRINT},
        key=(*KEY, "fingerprint", "round"),
        further_columns=_PASSED_THROUGH,
    ),
    "document": Contract(
        schema=DOCUMENT,
        meaning="One asset as a whole, put together from its annotations",
        place="documents/fingerprint={fingerprint}/{unit_id}[.r{round}].parquet",
        path_columns={"fingerprint": _FINGERPRINT},
        key=("asset_id", "asset_version", "fingerprint", "round"),
        further_columns=_PASSED_THROUGH,
        nested={
            "start_s": {"meaning": "Start of the window in its recording", "unit": "seconds"},
            "end_s": {"meaning": "End of the window in its recording", "unit": "seconds"},
            "text": {"meaning": "What is said in the window"},
            "status": {"meaning": "ok, error or skipped"},
            "channel": {"meaning": "Channel of its recording, from 1; null where they are mixed"},
        },
    ),
    "run": Contract(
        schema=RUN,
        meaning="One execution of a job",
        place="runs/{run_id}.json",
        format="json",
        path_columns={},
        key=("run_id",),
    ),
}


def describe(contract: Contract) -> dict[str, Any]:
    """Return a table as what JSON can hold: the content of its contract file."""
    about = contract.schema.metadata
    return {
        "table": about[b"schema"].decode(),
        "version": int(about[b"schema_version"]),
        "meaning": contract.meaning,
        "format": contract.format,
        "place": contract.place,
        "path_columns": dict(contract.path_columns),
        "key": list(contract.key),
        "further_columns": contract.further_columns,
        "columns": [_column(column, contract) for column in contract.schema],
    }


def contract_files() -> dict[str, str]:
    """Return the text of every contract file by its name."""
    return {
        f"{name}.json": json.dumps(describe(contract), indent=2, ensure_ascii=False) + "\n"
        for name, contract in CONTRACTS.items()
    }


def _column(column: pa.Field, contract: Contract) -> dict[str, Any]:
    metadata = {k.decode(): v.decode() for k, v in (column.metadata or {}).items()}
    about = metadata or contract.nested[column.name]
    return {
        "name": column.name,
        **_type(column.type, contract),
        "nullable": column.nullable,
        "unit": about.get("unit"),
        "meaning": about["meaning"],
        "since": about.get("since", FIRST_RELEASE),
    }


def _type(kind: pa.DataType, contract: Contract) -> dict[str, Any]:
    if pa.types.is_list(kind):
        return {"type": "list", "element": _type(kind.value_type, contract)}
    if pa.types.is_struct(kind):
        return {"type": "struct", "fields": [_column(inner, contract) for inner in kind]}
    if contract.format == "json":
        return {"type": str(kind)}
    return {"type": str(kind), "parquet": _parquet_type(kind)}


def _parquet_type(kind: pa.DataType) -> dict[str, str | None]:
    """Return the physical and the logical type that an Arrow type has in our Parquet files."""
    file = io.BytesIO()
    pq.write_table(pa.table({"column": pa.array([], kind)}), file)
    column = pq.ParquetFile(file).schema.column(0)
    logical = column.logical_type.type
    return {"physical": column.physical_type, "logical": None if logical == "NONE" else logical}
