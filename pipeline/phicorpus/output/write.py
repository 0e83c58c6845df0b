"""Publish a unit's rows: one file per table, created if absent, with its description inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from phicorpus.manifest.units import FileShare, Unit, declared_contents
from phicorpus.output.files import STATUSES, Output, Row
from phicorpus.output.rows import count_statuses, read_share
from phicorpus.output.sink import SINK, Sink
from phicorpus.schemas import ANNOTATION, DOCUMENT
from phicorpus.schemas.paths import FileKey, TableKey
from phicorpus.storage.tables import rows_hash


class Publisher(Protocol):
    """Publishes a unit's rows for the commit stage: a first run's, or those of a retry."""

    def publish(self, unit: Unit, table: TableKey, rows: Sequence[Row]) -> Sequence[Row] | None:
        """Publish what a unit has to do for one of its tables: this is the commit.

        Args:
            unit: Has the table in its `todo`.
            table: Of annotations, or of documents.
            rows: In the table's columns.

        Returns:
            The rows that were published; None if another driver was faster.

        Raises:
            StoreError: the store refused.
        """
        ...

    def read_committed(self, unit: Unit, table: TableKey) -> list[Row]:
        """Read what is committed of a unit's table in its `done`, as it is after retries."""
        ...

    def read_winner(self, unit: Unit, table: TableKey) -> list[Row]:
        """Read what a faster driver published, where `read_committed` does not read that too."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """The fields that all files of a run have in common.

    Attributes:
        model: Name and revision, for the rows that a model answered.
        passed_through: The manifest's further columns.
        software_version: Goes into every file's metadata.
        run_id: So does this: two runs never write the same bytes.
    """

    model: str
    passed_through: pa.Schema
    software_version: str
    run_id: str = ""


class TableWriter:
    """Writes rows as files that name their unit, settings, contents and run."""

    def __init__(self, sink: Sink, publication: Publication) -> None:
        self._sink = sink
        self._publication = publication

    def write(
        self, unit: Unit, key: FileKey, share: FileShare, rows: Sequence[Row], number: int = 0
    ) -> bool:
        """Create a file of a unit's rows, or one of its later rounds; False if it was there.

        Args:
            unit: Its manifest rows have the declared contents and the further columns.
            key: The file.
            share: Its assets with their versions.
            rows: Those of annotations in the order of the file; of documents in any.
            number: Of the round.

        Raises:
            StoreError: the store refused.
        """
        declared = declared_contents(unit.rows)
        stamped = [
            {
                **row,
                "unit_id": key.file_id,
                "round": number,
                "sha256": row["sha256"] or declared[row["asset_id"]][0],
                "etag": declared[row["asset_id"]][1] or row.get("etag"),
                "asset_version": share.versions.get(row["asset_id"], 0),
            }
            for row in rows
        ]
        task, fingerprint = key.table.task, key.table.fingerprint
        description = {"unit_id": key.file_id, "fingerprint": fingerprint}
        if task is None:
            table = self._documents(unit, stamped)
        else:
            table = self._annotations(unit, stamped)
            status = count_statuses(rows)
            description = {"unit_id": key.file_id, "task": task, "fingerprint": fingerprint}
            description |= {f"num_{name}": str(status[name]) for name in STATUSES}
        description |= {
            "num_rows": str(table.num_rows),
            "rows_hash": rows_hash(table),
            "software_version": self._publication.software_version,
            "run_id": self._publication.run_id,
        }
        return self._sink.create(key, number, table, description)

    def _documents(self, unit: Unit, rows: Sequence[Row]) -> pa.Table:
        """Build a table of documents, in the manifest's order."""
        position = _positions(unit)
        ordered = sorted(rows, key=lambda row: position[row["asset_id"]])
        return pa.Table.from_pylist(ordered, schema=DOCUMENT)

    def _annotations(self, unit: Unit, rows: Sequence[Row]) -> pa.Table:
        """Add to annotations the model that answered, and by asset the manifest's columns."""
        model = self._publication.model
        answered = [{**row, "model": model if row["source"] == "model" else None} for row in rows]
        table = pa.Table.from_pylist(answered, schema=pa.schema(list(ANNOTATION)))
        position = _positions(unit)
        taken = pa.array([position[row["asset_id"]] for row in rows], pa.int64())
        passed_through = self._publication.passed_through
        further = unit.rows.select(passed_through.names).take(taken)
        for column in further.schema:
            table = table.append_column(column, further[column.name])
        fields = [*ANNOTATION, *passed_through]
        return table.cast(pa.schema(fields, metadata=ANNOTATION.metadata))


def _positions(unit: Unit) -> dict[str, int]:
    return {name: i for i, name in enumerate(unit.rows["asset_id"].to_pylist())}


class RunPublisher:
    """Publishes a run's units: the first round of each file."""

    def __init__(self, output: Output, publication: Publication) -> None:
        """Write nothing yet.

        Args:
            output: Where files go, and are read back from.
            publication: What the files have in common.
        """
        self._output = output
        self._writer = TableWriter(SINK(output.store), publication)

    def publish(self, unit: Unit, table: TableKey, rows: Sequence[Row]) -> Sequence[Row] | None:
        share = unit.todo[table]
        key = FileKey(table, share.file_id)
        return rows if self._writer.write(unit, key, share, rows) else None

    def read_committed(self, unit: Unit, table: TableKey) -> list[Row]:
        return read_committed(self._output, unit, table)

    def read_winner(self, unit: Unit, table: TableKey) -> list[Row]:
        return read_share(self._output, table, unit.todo[table])


def read_committed(output: Output, unit: Unit, table: TableKey) -> list[Row]:
    """Read what is committed of a unit's table, as it is after retries.

    Raises:
        StoreError: a file cannot be read, or is torn.
    """
    shares = unit.done.get(table, ())
    return [row for share in shares for row in read_share(output, table, share)]
