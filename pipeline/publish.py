"""Publish a unit's rows: one file per task, created if absent, with its description inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """

    fingerprints: Mapping[tuple[str, str], str]
    document_fingerprints: Mapping[str, str]
    model: str
    passed_through: pa.Schema
    software_version: str

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

    def annotations(self, unit: Unit, task: str, rows: Sequence[Row]) -> bool:
        """Create the file of one (unit, task): this is the commit.

        Args:
            unit: Gives the manifest's further columns.
            task: Whose rows these are.
            rows: ANNOTATION columns, in the order of the file.

        Returns:
            False if another driver had created it before.

        Raises:
            StoreError: the store refused.
        """
        fingerprint = self._publication.fingerprints[task, unit.kind]
        described = {"unit_id": unit.unit_id, "task": task, "fingerprint": fingerprint}
        for status in ("ok", "error", "skipped"):
            described[f"num_{status}"] = str(sum(row["status"] == status for row in rows))
        table = self._with_passed_through(unit, rows)
        return self._create(annotation_path(task, fingerprint, unit.unit_id), table, described)

    def documents(self, unit: Unit, documents: Sequence[Row]) -> bool:
        """Create the file of a unit's documents, in the manifest's order."""
        order = {name: i for i, name in enumerate(unit.rows["asset_id"].to_pylist())}
        rows = sorted(documents, key=lambda document: order[document["asset_id"]])
        fingerprint = self._publication.document_fingerprints[unit.kind]
        described = {"unit_id": unit.unit_id, "fingerprint": fingerprint}
        table = pa.Table.from_pylist(rows, schema=DOCUMENT)
        return self._create(document_path(fingerprint, unit.unit_id), table, described)

    def read_annotations(self, unit: Unit, task: str) -> list[Row]:
        """Read the rows of one committed (unit, task), each with its `task`."""
        fingerprint = self._publication.fingerprints[task, unit.kind]
        content = self._store.read(annotation_path(task, fingerprint, unit.unit_id))
        table = pq.read_table(pa.BufferReader(content))
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
        }
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
        return self._store.create(path, sink.getvalue().to_pybytes())
