"""Publish a unit's rows: one file per task, created if absent, with its description inside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage.store import Store
from pipeline.unit import Unit
from schemas import ANNOTATION, DOCUMENT
from schemas.paths import annotation_path, document_path

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What every file of a run has in common.

    Attributes:
        fingerprints: By (task, kind of asset).
        document_fingerprints: By kind of asset.
        model: Name and revision, for the rows that a model answered.
        passed_through: The manifest's further columns.
        software_version: Goes into every file's metadata.
        run_id: So does this: two runs never write the same bytes.
    """

    fingerprints: Mapping[tuple[str, str], str]
    document_fingerprints: Mapping[str, str]
    model: str
    passed_through: pa.Schema
    software_version: str
    run_id: str = ""

    @property
    def schema(self) -> pa.Schema:
        """ANNOTATION and the passed-through columns."""
        fields = [*ANNOTATION, *self.passed_through]
        return pa.schema(fields, metadata=ANNOTATION.metadata)


class Publisher:
    """Turns rows into the files of the output, and reads them back."""

    def __init__(self, store: Store, publication: Publication) -> None:
        self._store = store
        self._publication = publication

    @property
    def model(self) -> str:
        """Name and revision of the model, for the rows that it answered."""
        return self._publication.model

    def annotations(self, unit: Unit, task: str, rows: Sequence[Row]) -> Sequence[Row] | None:
        """Create the file of one (unit, task): this is the commit.

        Args:
            unit: Gives the manifest's further columns.
            task: Whose rows these are.
            rows: ANNOTATION columns, in the order of the file.

        Returns:
            The rows that were written; None if another driver had created the file before.

        Raises:
            StoreError: the store refused.
        """
        return rows if self.write_annotations(unit, task, rows, 0) else None

    def documents(self, unit: Unit, documents: Sequence[Row]) -> None:
        """Create the file of a unit's documents, in the manifest's order."""
        self.write_documents(unit, documents, 0)

    def write_annotations(self, unit: Unit, task: str, rows: Sequence[Row], number: int) -> bool:
        """Create the file of one round of a (unit, task); False if it was there."""
        fingerprint = self.fingerprint(unit, task)
        described = {"unit_id": unit.unit_id, "task": task, "fingerprint": fingerprint}
        status = Counter(row["status"] for row in rows)
        described |= {f"num_{name}": str(status[name]) for name in ("ok", "error", "skipped")}
        table = self._with_passed_through(unit, [{**row, "round": number} for row in rows])
        path = annotation_path(task, fingerprint, unit.unit_id, number)
        return self._create(path, table, described)

    def write_documents(self, unit: Unit, documents: Sequence[Row], number: int) -> bool:
        """Create the file of one round of a unit's documents; False if it was there."""
        order = {name: i for i, name in enumerate(unit.rows["asset_id"].to_pylist())}
        rows = sorted(documents, key=lambda document: order[document["asset_id"]])
        fingerprint = self._publication.document_fingerprints[unit.kind]
        described = {"unit_id": unit.unit_id, "fingerprint": fingerprint}
        table = pa.Table.from_pylist([{**r, "round": number} for r in rows], schema=DOCUMENT)
        return self._create(document_path(fingerprint, unit.unit_id, number), table, described)

    def fingerprint(self, unit: Unit, task: str) -> str:
        """Give the fingerprint of a task's answers about a unit's kind of asset."""
        return self._publication.fingerprints[task, unit.kind]

    def read_annotations(self, unit: Unit, task: str) -> list[Row]:
        """Read the rows of one committed (unit, task), each with its `task`."""
        return self.read_round(unit, task, 0)

    def read_round(self, unit: Unit, task: str, number: int) -> list[Row]:
        """Read the rows of one round of a committed (unit, task), each with its `task`."""
        path = annotation_path(task, self.fingerprint(unit, task), unit.unit_id, number)
        table = pq.read_table(pa.BufferReader(self._store.read(path)))
        return [{**row, "task": task} for row in table.to_pylist()]

    def _with_passed_through(self, unit: Unit, rows: Sequence[Row]) -> pa.Table:
        """Add the manifest's further columns to annotations, by asset."""
        schema = self._publication.schema
        table = pa.Table.from_pylist(list(rows), schema=pa.schema(list(ANNOTATION)))
        position = {name: i for i, name in enumerate(unit.rows["asset_id"].to_pylist())}
        taken = pa.array([position[row["asset_id"]] for row in rows], pa.int64())
        further = unit.rows.select(self._publication.passed_through.names).take(taken)
        for column in further.schema:
            table = table.append_column(column, further[column.name])
        return table.cast(schema)

    def _create(self, path: str, table: pa.Table, described: Mapping[str, str]) -> bool:
        metadata = {
            **(table.schema.metadata or {}),
            **{f"phicorpus.{name}": value for name, value in described.items()},
            "phicorpus.num_rows": str(table.num_rows),
            "phicorpus.software_version": self._publication.software_version,
            "phicorpus.run_id": self._publication.run_id,
        }
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
        return self._store.create(path, sink.getvalue().to_pybytes())


RowKey = tuple[str, int, str]


def merge(earlier: Iterable[Row], later: Iterable[Row]) -> dict[RowKey, Row]:
    """Put rows together by key; an answer is never replaced, an error is by whatever comes later.

    Example:
        >>> row = {"asset_id": "a", "segment_index": 0, "task": "ocr"}
        >>> failed, right = row | {"status": "error"}, row | {"status": "ok"}
        >>> [r["status"] for r in merge([failed], [right]).values()]
        ['ok']
        >>> [r["status"] for r in merge([right], [failed]).values()]
        ['ok']
    """
    merged: dict[RowKey, Row] = {}
    for row in (*earlier, *later):
        key = (row["asset_id"], row["segment_index"], row["task"])
        if key not in merged or merged[key]["status"] == "error":
            merged[key] = row
    return merged
