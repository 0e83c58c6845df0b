"""Publish a unit's rows: one file per task, created if absent, with its description inside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from phicorpus.manifest.units import FileShare, Unit, declared_contents
from phicorpus.output.files import FileKey
from phicorpus.schemas import ANNOTATION, DOCUMENT
from phicorpus.schemas.paths import OutputPath, annotation_path, document_path, path_of
from phicorpus.storage.store import Store
from phicorpus.storage.tables import read_table, rows_hash

Row = dict[str, Any]
RowKey = tuple[str, int, str]

STATUSES = ("ok", "error", "skipped")
TOLD = ("asset_id", "asset_version", *(f"num_{status}" for status in STATUSES))
"""Columns that say which document it is, and of how many annotations it tells."""


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

    def __init__(
        self,
        store: Store,
        publication: Publication,
        rounds: Mapping[FileKey, Sequence[int]] | None = None,
    ) -> None:
        """Write nothing yet.

        Args:
            store: The output.
            publication: What the files have in common.
            rounds: Later rounds of files that are there.
        """
        self._store = store
        self._publication = publication
        self._rounds = rounds or {}

    @property
    def model(self) -> str:
        """Name and revision of the model, for the rows that it answered."""
        return self._publication.model

    def annotations(self, unit: Unit, task: str, rows: Sequence[Row]) -> Sequence[Row] | None:
        """Create the file of what a unit has to do for a task: this is the commit.

        Args:
            unit: Gives the manifest's further columns.
            task: Whose rows these are.
            rows: ANNOTATION columns, in the order of the file.

        Returns:
            The rows that were written; None if another driver had created the file before.

        Raises:
            StoreError: the store refused.
        """
        return rows if self.write_annotations(unit, task, unit.todo[task], rows) else None

    def documents(self, unit: Unit, documents: Sequence[Row]) -> None:
        """Create the file of a unit's documents, in the manifest's order."""
        if unit.documents_todo is not None:
            self.write_documents(unit, unit.documents_todo, documents)

    def write_annotations(
        self, unit: Unit, task: str, share: FileShare, rows: Sequence[Row], number: int = 0
    ) -> bool:
        """Create a file of annotations, or one of its later rounds; False if it was there."""
        fingerprint = self.fingerprint(unit, task)
        described = {"unit_id": share.file_id, "task": task, "fingerprint": fingerprint}
        status = Counter(row["status"] for row in rows)
        described |= {f"num_{name}": str(status[name]) for name in STATUSES}
        table = self._with_passed_through(unit, _as_of(unit, share, rows, number))
        path = annotation_path(task, fingerprint, share.file_id, number)
        return self._create(path, table, described)

    def write_documents(
        self, unit: Unit, share: FileShare, documents: Sequence[Row], number: int = 0
    ) -> bool:
        """Create a file of documents, or one of its later rounds; False if it was there."""
        order = {name: i for i, name in enumerate(unit.rows["asset_id"].to_pylist())}
        rows = sorted(documents, key=lambda document: order[document["asset_id"]])
        fingerprint = self._publication.document_fingerprints[unit.kind]
        described = {"unit_id": share.file_id, "fingerprint": fingerprint}
        table = pa.Table.from_pylist(_as_of(unit, share, rows, number), schema=DOCUMENT)
        return self._create(document_path(fingerprint, share.file_id, number), table, described)

    def fingerprint(self, unit: Unit, task: str) -> str:
        """Give the fingerprint of a task's answers about a unit's kind of asset."""
        return self._publication.fingerprints[task, unit.kind]

    def read_annotations(self, unit: Unit, task: str) -> list[Row]:
        """Read what is committed of a unit's task, as it stands after its retries."""
        shares = unit.done.get(task, ())
        return [row for share in shares for row in self.read(unit, task, share)]

    def theirs(self, unit: Unit, task: str) -> list[Row]:
        """Read what another driver published in the place of ours."""
        return self.read(unit, task, unit.todo[task])

    def read(self, unit: Unit, task: str, share: FileShare) -> list[Row]:
        """Read the rows of a share as they stand after its retries, each with its `task`."""
        key = (task, self.fingerprint(unit, task), share.file_id)
        return read_share(self._store, key, share, self._rounds.get(key, ()))

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
            "phicorpus.rows_hash": rows_hash(table),
            "phicorpus.software_version": self._publication.software_version,
            "phicorpus.run_id": self._publication.run_id,
        }
        sink = pa.BufferOutputStream()
        whole = table.replace_schema_metadata(metadata)
        pq.write_table(whole, sink, compression="zstd", write_page_checksum=True)
        return self._store.create(path, sink.getvalue().to_pybytes())


def _as_of(unit: Unit, share: FileShare, rows: Iterable[Row], number: int) -> list[Row]:
    """Say of rows which file, round and content they are of, as the next plan will look for it."""
    claimed = declared_contents(unit.rows)
    return [
        {
            **row,
            "unit_id": share.file_id,
            "round": number,
            "sha256": row["sha256"] or claimed[row["asset_id"]][0],
            "etag": claimed[row["asset_id"]][1] or row.get("etag"),
            "asset_version": share.versions.get(row["asset_id"], 0),
        }
        for row in rows
    ]


def read_share(store: Store, key: FileKey, share: FileShare, rounds: Iterable[int]) -> list[Row]:
    """Read the rows of a share, later rounds laid over earlier ones, each with its `task`.

    Raises:
        StoreError: a file cannot be read, or is torn.
    """
    task, fingerprint, file_id = key
    merged: dict[RowKey, Row] = {}
    for number in (0, *sorted(rounds)):
        path = path_of(OutputPath("annotations", task, fingerprint, file_id, number))
        table = read_table(store, path)
        rows = [{**row, "task": task} for row in table.to_pylist()]
        merged = merge(merged.values(), of_share(share, rows))
    return list(merged.values())


def read_told(
    store: Store, fingerprint: str, share: FileShare, rounds: Iterable[int]
) -> dict[str, Counter[str]]:
    """Read of how many annotations, by status, the newest documents of a share tell, by asset.

    Raises:
        StoreError: a file cannot be read, or is torn.
    """
    newest: dict[str, Counter[str]] = {}
    for number in (0, *sorted(rounds)):
        path = document_path(fingerprint, share.file_id, number)
        rows = read_table(store, path, TOLD).to_pylist()
        newest |= {row["asset_id"]: told(row) for row in of_share(share, rows)}
    return newest


def told(document: Row) -> Counter[str]:
    """Give how many annotations, by status, a document tells of.

    Example:
        >>> told({"num_ok": 2, "num_error": 0, "num_skipped": 1})["skipped"]
        1
    """
    return Counter({status: document[f"num_{status}"] for status in STATUSES})


def of_share(share: FileShare, rows: Iterable[Row]) -> Iterator[Row]:
    """Give those rows of a file that are of a share's assets, in their versions."""
    wanted = {(name, share.versions.get(name, 0)) for name in share.assets}
    return (row for row in rows if (row["asset_id"], row.get("asset_version") or 0) in wanted)


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
