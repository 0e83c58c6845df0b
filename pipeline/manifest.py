"""The manifest, read in pieces."""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions at run time, where pyright cannot see them)

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import FSSpecHandler, PyFileSystem

from pipeline.errors import ManifestError
from pipeline.media.sniff import PLAIN_TEXT, guess
from pipeline.storage.connect import filesystem_of, how_to_connect, how_to_install
from pipeline.storage.faults import foreign_errors
from pipeline.storage.policy import uri_of
from pipeline.storage.redact import redacted
from schemas import ANNOTATION, MANIFEST

_BATCH_ROWS = 4_096
"""Read at once: more would be no faster, and memory would grow with the manifest."""
_BUFFER_BYTES = 1024**2
_RESERVED = {*ANNOTATION.names, *MANIFEST.names, "task", "fingerprint"}
DEFAULT_KIND = "image"
"""The flow that sniffs an asset whose type neither the manifest nor the uri tells."""


@dataclass(frozen=True, slots=True)
class ManifestPart:
    """Some rows of one manifest file, all MANIFEST columns filled, further columns after them."""

    file: str
    first_row: int
    rows: pa.Table


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest that can be read; `check` says whether it is right."""

    uri: str
    dataset: ds.FileSystemDataset
    schema: pa.Schema
    scheme: str

    @property
    def passed_through(self) -> pa.Schema:
        """The further columns, which go to the annotations by name."""
        return pa.schema([field for field in self.schema if field.name not in MANIFEST.names])

    def parts(self) -> Iterator[ManifestPart]:
        """Read file by file in name order, a few thousand rows at a time; memory stays flat."""
        for fragment in sorted(self.dataset.get_fragments(), key=lambda f: f.path):
            first_row = 0
            partition = ds.get_partition_keys(fragment.partition_expression)
            for batch in _batches(fragment, foreign_errors(self.scheme)):
                table = self._as_declared(batch, partition)
                yield ManifestPart(fragment.path, first_row, self._filled(fragment.path, table))
                first_row += batch.num_rows

    def _as_declared(self, batch: pa.RecordBatch, partition: Mapping[str, Any]) -> pa.Table:
        """Bring one file's columns into the manifest's schema, with those of its partition."""
        columns: list[pa.Array] = []
        for field in self.schema:
            if field.name in partition:
                value = pa.scalar(partition[field.name], field.type)
                columns.append(pa.repeat(value, batch.num_rows))
            elif field.name in batch.schema.names:
                columns.append(batch.column(field.name).cast(field.type))
            else:
                columns.append(pa.nulls(batch.num_rows, field.type))
        return pa.Table.from_arrays(columns, schema=self.schema)

    def _filled(self, file: str, table: pa.Table) -> pa.Table:
        """Add the optional columns with their defaults, and make relative uris absolute."""
        written: list[str | None] = table["uri"].to_pylist()
        columns: dict[str, pa.ChunkedArray | pa.Array] = {}
        columns["text"] = _column(table, "text", lambda: [None] * len(written))
        held = pc.is_valid(columns["text"]).to_pylist()
        uris = [
            uri if here else self._absolute(file, uri)
            for uri, here in zip(written, held, strict=True)
        ]
        columns["uri"] = pa.array(uris, pa.string())
        columns["asset_id"] = _column(table, "asset_id", lambda: map(_default_id, written))
        columns["media_type"] = _media_types(table, columns["text"], written)
        columns["sha256"] = _column(table, "sha256", lambda: [None] * len(written))
        columns["etag"] = _column(table, "etag", lambda: [None] * len(written))
        columns["tasks"] = _column(table, "tasks", lambda: [None] * len(written))
        for field in self.passed_through:
            columns[field.name] = table[field.name]
        fields = [*MANIFEST.remove_metadata(), *self.passed_through]
        return pa.table(columns).select([f.name for f in fields])

    def _absolute(self, file: str, uri: str | None) -> str | None:
        if not uri or "://" in uri or uri.startswith("/"):
            return uri
        folder = file.rpartition("/")[0]
        return f"{uri_of(folder, self.uri)}/{uri}"


def _batches(
    fragment: ds.FileFragment, foreign: tuple[type[Exception], ...]
) -> Iterator[pa.RecordBatch]:
    """Read one file; what is wrong with its bytes is found here, and not by whoever uses them."""
    num_read = 0
    try:
        with fragment.open() as opened:
            # Not the dataset's own reader: that one holds whole row groups.
            file = pq.ParquetFile(opened, buffer_size=_BUFFER_BYTES, pre_buffer=False)
            for batch in file.iter_batches(_BATCH_ROWS, use_threads=False):
                batch.validate(full=True)  # texts that are not UTF-8, among others
                yield batch
                num_read += batch.num_rows
    except (pa.ArrowInvalid, OSError, *foreign) as error:
        why = " ".join(str(error).split())
        raise ManifestError(f"{fragment.path}, after row {num_read}: {why}") from error


def _column(table: pa.Table, name: str, default: Callable[[], Any]) -> pa.Array | pa.ChunkedArray:
    kind = MANIFEST.field(name).type
    if name not in table.column_names:
        return pa.array(list(default()), kind)
    column = table[name].cast(kind)
    if column.null_count and name in {"asset_id", "media_type"}:
        return pc.coalesce(column, pa.array(list(default()), kind))
    return column


def _media_types(
    table: pa.Table, texts: pa.Array | pa.ChunkedArray, written: Sequence[str | None]
) -> pa.Array | pa.ChunkedArray:
    """Take the declared type, else that of a text for a row that holds one, else the uri's."""
    guessed = _column(table, "media_type", lambda: map(_guess, written))
    if texts.null_count == len(texts):
        return guessed
    declared = _declared(table, "media_type")
    return pc.if_else(pc.is_valid(texts), pc.coalesce(declared, pa.scalar(PLAIN_TEXT)), guessed)


def _declared(table: pa.Table, name: str) -> pa.Array | pa.ChunkedArray:
    kind = MANIFEST.field(name).type
    return table[name].cast(kind) if name in table.column_names else pa.nulls(len(table), kind)


def _default_id(uri: str | None) -> str | None:
    """Name an asset by its uri as written: 16 hex digits."""
    return None if uri is None else hashlib.blake2b(uri.encode(), digest_size=8).hexdigest()


def _guess(uri: str | None) -> str | None:
    """Guess the type, once per extension: a manifest has millions of uris and few extensions."""
    if uri is None or "?" in uri or "#" in uri:
        return None if uri is None else guess(uri)
    name = uri[uri.rfind("/") + 1 :]
    stem, _, extension = name.rpartition(".")
    return _guess_extension(extension) if stem else None


@lru_cache(maxsize=4096)
def _guess_extension(extension: str) -> str | None:
    return guess(f"name.{extension}")


def open_manifest(uri: str, options: Mapping[str, Any] | None = None) -> Manifest:
    """Open a manifest: one Parquet file, a folder or prefix (Hive partitions too), or a glob.

    Raises:
        ManifestError: nothing is there, it is not Parquet, its files do not fit together, the `uri`
            column is missing, a column has the wrong type, or a further column's name is taken.
    """
    protocol = uri.partition("://")[0] if "://" in uri else "file"
    try:
        filesystem, path = filesystem_of(uri, options)
        files = _parquet_files(filesystem, path)
        if not files:
            where = f" ({path})" if protocol == "file" and path != uri else ""
            raise ManifestError(f"no Parquet file at {uri}{where}")
        arrow = PyFileSystem(FSSpecHandler(filesystem))
        base = _base(filesystem, path)
        partitioning = ds.HivePartitioning.discover(infer_dictionary=False)
        dataset = ds.dataset(
            files,
            filesystem=arrow,
            format="parquet",
            partitioning=partitioning,
            partition_base_dir=base,
        )
        physical = [fragment.physical_schema for fragment in dataset.get_fragments()]
        schema = _as_read(pa.unify_schemas([dataset.schema, *physical]))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        why = " ".join(str(error).split())
        raise ManifestError(f"cannot read the manifest {uri}: {why}{_conversion(uri)}") from error
    except (OSError, ValueError, ImportError, *foreign_errors(protocol)) as error:
        why = str(error).partition("\n")[0] + how_to_install(uri) + how_to_connect(error, protocol)
        raise ManifestError(redacted(f"cannot open the manifest {uri}: {why}", options)) from error
    _check_schema(uri, schema)
    return Manifest(uri, dataset, schema, protocol)


def _conversion(uri: str) -> str:
    """Tell how another format becomes a manifest.

    Example:
        >>> _conversion("m.parquet"), "COPY 'm.csv'" in _conversion("m.csv")
        ('', True)
    """
    stem, _, extension = uri.rpartition(".")
    if extension.lower() not in {"csv", "tsv", "json", "jsonl", "ndjson"}:
        return ""
    return (
        f". A manifest is Parquet; duckdb -c \"COPY '{uri}' TO '{stem}.parquet'\" makes one of it"
    )


def _parquet_files(filesystem: fsspec.AbstractFileSystem, path: str) -> list[str]:
    if "*" in path:
        found = filesystem.glob(path)
    elif filesystem.isdir(path):
        found = [name for name in filesystem.find(path) if _is_data(str(name)[len(path) :])]
    else:
        found = [path] if filesystem.exists(path) else []
    return sorted(str(name) for name in found)


def _base(filesystem: fsspec.AbstractFileSystem, path: str) -> str:
    """Give the folder below which `column=value` in a file's path is a column."""
    if "*" in path:
        return path[: path.index("*")].rpartition("/")[0]
    return path if filesystem.isdir(path) else path.rpartition("/")[0]


def _is_data(name: str) -> bool:
    """Tell a table's files from what its writers keep beside them: _temporary, _delta_log, .tmp.

    Example:
        >>> _is_data("/day=1/a.parquet"), _is_data("/_temporary/0/a.parquet")
        (True, False)
    """
    hidden = any(part.startswith(("_", ".")) and "=" not in part for part in name.split("/"))
    return name.endswith(".parquet") and not hidden


def _as_read(schema: pa.Schema) -> pa.Schema:
    """Give the types in which columns are read, and passed through.

    Any may be null: another file of the manifest need not have it. A column of nulls alone is one
    of texts, so that it fits beside the same column when it has some. No metadata.
    """
    return pa.schema([pa.field(field.name, _type_read(field.type)) for field in schema])


def _type_read(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_null(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(kind) else kind


def _check_schema(uri: str, schema: pa.Schema) -> None:
    if "uri" not in schema.names:
        raise ManifestError(f"{uri}: the column 'uri' is missing; found {schema.names}")
    for field in MANIFEST:
        if field.name in schema.names and not _same_kind(schema.field(field.name).type, field.type):
            found = schema.field(field.name).type
            raise ManifestError(
                f"{uri}, column {field.name!r}: expected {field.type}, found {found}"
            )
    seen: dict[str, str] = {}
    for name in sorted(set(schema.names) - set(MANIFEST.names)):
        if name.lower() in _RESERVED:
            raise ManifestError(
                f"{uri}, column {name!r}: the annotations have a column of this name; rename it "
                "(readers take Name for name)"
            )
        if (twin := seen.setdefault(name.lower(), name)) != name:
            raise ManifestError(
                f"{uri}, columns {twin!r} and {name!r}: readers take Name for name; rename one"
            )


def _same_kind(found: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_list(wanted):
        listed = pa.types.is_list(found) or pa.types.is_large_list(found)
        return listed and _same_kind(found.value_type, wanted.value_type)
    if pa.types.is_dictionary(found):
        found = found.value_type
    return pa.types.is_string(found) or pa.types.is_large_string(found)
