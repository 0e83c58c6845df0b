"""The manifest, read in pieces."""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions at run time, where pyright cannot see them)

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from posixpath import normpath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import FSSpecHandler, PyFileSystem

from phicorpus.errors import ManifestError
from phicorpus.manifest.columns import cast, hive_root, hive_schema, unified
from phicorpus.media.media_types import PLAIN_TEXT
from phicorpus.media.sniff import guess
from phicorpus.schemas import ANNOTATION, MANIFEST
from phicorpus.storage.connect import filesystem_of, how_to_connect, how_to_install
from phicorpus.storage.faults import foreign_errors
from phicorpus.storage.policy import uri_of
from phicorpus.storage.redact import redacted

log = logging.getLogger(__name__)

_BATCH_ROWS = 4_096
"""Read at once: more would be no faster, and memory would grow with the manifest."""
_BUFFER_BYTES = 1024**2
_MAGIC = b"PAR1"
_SUFFIXES = (".parquet", ".parq", ".pq")
_RESERVED = {*ANNOTATION.names, *MANIFEST.names, "task", "fingerprint"}
DEFAULT_KIND = "image"
"""The flow that sniffs an asset whose type neither the manifest nor the uri tells."""


@dataclass(frozen=True, slots=True)
class ManifestPart:
    """Some rows of one manifest file, all MANIFEST columns filled, further columns after them.

    Attributes:
        aliases: By row, from the part's first: the default id of the same local path, simply
            written, of an asset that has its id by an odd spelling, such as `./a.wav`.
    """

    file: str
    first_row: int
    rows: pa.Table
    aliases: Mapping[int, str] = dataclasses.field(default_factory=dict[int, str])


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest that can be read; `check` says whether it is right.

    Attributes:
        schema: In which it is read: its files' types may be narrower.
        left_out: Files of its folder that are no Parquet.
    """

    uri: str
    dataset: ds.FileSystemDataset
    schema: pa.Schema
    scheme: str
    left_out: tuple[str, ...] = ()

    @property
    def passed_through(self) -> pa.Schema:
        """The further columns, which go to the annotations by name."""
        return pa.schema([field for field in self.schema if field.name not in MANIFEST.names])

    def with_types(self, held: Mapping[str, pa.DataType]) -> Manifest:
        """Read these of the further columns in the types that an output holds them in."""
        fields = [
            pa.field(field.name, held.get(field.name, field.type))
            if field.name in self.passed_through.names
            else field
            for field in self.schema
        ]
        return replace(self, schema=pa.schema(fields))

    def parts(self) -> Iterator[ManifestPart]:
        """Read file by file in name order, a few thousand rows at a time; memory stays flat."""
        for fragment in sorted(self.dataset.get_fragments(), key=lambda f: f.path):
            first_row = 0
            partition = ds.get_partition_keys(fragment.partition_expression)
            for batch in _batches(fragment, foreign_errors(self.scheme)):
                table = self._as_declared(fragment.path, batch, partition)
                rows = self._filled(fragment.path, table)
                aliases = _aliases(table["uri"].to_pylist(), rows["asset_id"].to_pylist())
                yield ManifestPart(fragment.path, first_row, rows, aliases)
                first_row += batch.num_rows

    def _as_declared(
        self, file: str, batch: pa.RecordBatch, partition: Mapping[str, Any]
    ) -> pa.Table:
        """Bring one file's columns into the manifest's schema, with those of its partition."""
        columns: list[pa.Array] = []
        for field in self.schema:
            if field.name in partition:
                column = pa.repeat(pa.scalar(partition[field.name]), batch.num_rows)
            elif field.name in batch.schema.names:
                column = batch.column(field.name)
            else:
                column = pa.nulls(batch.num_rows, field.type)
            try:
                columns.append(cast(column, field.type))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                why = " ".join(str(error).split())
                raise ManifestError(
                    f"{file}, column {field.name!r}: {column.type} cannot be made {field.type}, "
                    f"as other files of the manifest or the output have it ({why}); give it that "
                    "type, or another name"
                ) from error
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


def _aliases(written: Sequence[str | None], ids: Sequence[str | None]) -> dict[int, str]:
    """Return the ids that oddly spelled local paths would have, if they were simply spelled.

    The ids themselves stay as they are: rows that are published have them.

    Example:
        >>> names = ["a.wav", "./a.wav", "b//c.wav", "s3://b/./a.wav"]
        >>> found = _aliases(names, [_default_id(name) for name in names])
        >>> found == {1: _default_id("a.wav"), 2: _default_id("b/c.wav")}
        True
    """
    return {
        row: str(_default_id(simple))
        for row, (uri, asset_id) in enumerate(zip(written, ids, strict=True))
        if uri
        and "://" not in uri
        and (simple := normpath(uri)) != uri
        and asset_id == _default_id(uri)
    }


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
        files, left_out = _parquet_files(filesystem, path)
        if not files:
            where = f" ({path})" if protocol == "file" and path != uri else ""
            raise ManifestError(f"no Parquet file at {uri}{where}")
        arrow = PyFileSystem(FSSpecHandler(filesystem))
        base = _base(filesystem, path)
        plain = ds.dataset(files, filesystem=arrow, format="parquet")
        found = [(f.path, f.physical_schema) for f in plain.get_fragments()]
        taken = {name for _, schema in found for name in schema.names}
        hive = hive_schema(files, base, _RESERVED | taken)
        dataset = ds.dataset(
            files,
            filesystem=arrow,
            format="parquet",
            partitioning=ds.partitioning(hive, flavor="hive"),
            partition_base_dir=hive_root(base),
        )
        schema = unified([*((file, _without(own, hive)) for file, own in found), (uri, hive)])
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        why = " ".join(str(error).split())
        raise ManifestError(f"cannot read the manifest {uri}: {why}{_conversion(uri)}") from error
    except (OSError, ValueError, ImportError, *foreign_errors(protocol)) as error:
        why = str(error).partition("\n")[0] + how_to_install(uri) + how_to_connect(error, protocol)
        raise ManifestError(redacted(f"cannot open the manifest {uri}: {why}", options)) from error
    _check_schema(uri, schema)
    if left_out:
        log.warning(
            "files of the manifest's folder that are no Parquet are left out",
            extra={"manifest": uri, "num_files": len(left_out), "such_as": left_out[0]},
        )
    return Manifest(uri, dataset, schema, protocol, left_out)


def _without(schema: pa.Schema, hive: pa.Schema) -> pa.Schema:
    """Leave out the columns that the folders' names give: those are believed."""
    return pa.schema([field for field in schema if field.name not in hive.names])


def _conversion(uri: str) -> str:
    """Describe how another format becomes a manifest.

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


def _parquet_files(
    filesystem: fsspec.AbstractFileSystem, path: str
) -> tuple[list[str], tuple[str, ...]]:
    """Find a manifest's files, and those of its folder that are left out."""
    if "*" in path:
        return sorted(str(name) for name in filesystem.glob(path)), ()
    if not filesystem.isdir(path):
        return [path] if filesystem.exists(path) else [], ()
    names = [str(name) for name in filesystem.find(path)]
    shown = sorted(name for name in names if not _is_hidden(name[len(path) :]))
    promised = {name for name in shown if name.lower().endswith(_SUFFIXES)}
    # A name that promises a picture or a recording is believed: a corpus may lie beside it.
    asked = [name for name in shown if name not in promised and guess(name) is None]
    ends = [len(_MAGIC)] * len(asked)
    heads = filesystem.cat_ranges(asked, [0] * len(asked), ends, on_error="return") if asked else []
    told = {name for name, head in zip(asked, heads, strict=True) if head == _MAGIC}
    files = [name for name in shown if name in promised | told]
    return files, tuple(name for name in shown if name not in promised | told)


def _base(filesystem: fsspec.AbstractFileSystem, path: str) -> str:
    """Return the folder below which `column=value` in a file's path is a column."""
    if "*" in path:
        return path[: path.index("*")].rpartition("/")[0]
    return path if filesystem.isdir(path) else path.rpartition("/")[0]


def _is_hidden(name: str) -> bool:
    """Check for what a table's writers keep beside it from its files: _temporary, _delta_log, .tmp.

    Example:
        >>> _is_hidden("/day=1/a.parquet"), _is_hidden("/_temporary/0/a.parquet")
        (False, True)
    """
    return any(part.startswith(("_", ".")) and "=" not in part for part in name.split("/"))


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
