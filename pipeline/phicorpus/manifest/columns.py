"""The types of a table's columns: made one over several files, and kept as an output has them."""
# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions at run time, where pyright cannot see them)

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from phicorpus.errors import ManifestError
from phicorpus.storage.store import Store
from phicorpus.storage.tables import TornFile, read_schema

_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_INT32 = range(-(2**31), 2**31)
_MOST_FILES = 256  # whose schemas are looked at
_THREADS = 16


def unified(schemas: Iterable[tuple[str, pa.Schema]]) -> pa.Schema:
    """Find types in which the columns of all files can be read, each widened as far as needed.

    Any column may be null: another file need not have it. A column of nulls alone is one of texts,
    so that it fits beside the same column when it has some. No metadata.

    Args:
        schemas: Of the files, by name.

    Raises:
        ManifestError: two files have types of one column that do not fit together.
    """
    types: dict[str, pa.DataType] = {}
    first: dict[str, str] = {}
    for file, schema in schemas:
        for field in schema:
            if field.name not in types:
                types[field.name], first[field.name] = field.type, file
                continue
            both = _both(types[field.name], field.type)
            if both is None:
                raise ManifestError(
                    f"{file}, column {field.name!r}: {field.type} does not fit beside "
                    f"{types[field.name]}, as in {first[field.name]}; give both files one type"
                )
            types[field.name] = both
    return pa.schema([pa.field(name, _as_read(kind)) for name, kind in types.items()])


def _both(  # noqa: PLR0911 - one line per family of types
    one: pa.DataType, other: pa.DataType
) -> pa.DataType | None:
    """Return the narrowest type that holds both; None if there is none."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if pa.types.is_dictionary(one) or pa.types.is_dictionary(other):
        return _both(_value_type(one), _value_type(other))
    for is_kind, kind in ((_is_text, pa.string()), (_is_binary, pa.binary())):
        if is_kind(one) and is_kind(other):
            return kind
    if _is_list(one) and _is_list(other):
        values = _both(one.value_type, other.value_type)
        return None if values is None else pa.list_(values)
    try:
        pair = [pa.schema([pa.field("both", kind)]) for kind in (one, other)]
        return pa.unify_schemas(pair, promote_options="permissive").field(0).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return None


def _as_read(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_null(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(kind) else kind


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_view(kind, "string")


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or _is_view(kind, "binary")


def _is_view(kind: pa.DataType, of: str) -> bool:
    return str(kind) == f"{of}_view"


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Cast a column without any loss: what comes out says all that went in.

    Raises:
        pa.ArrowInvalid: a value would lose something; the message has the first.
        pa.ArrowNotImplementedError: there is no such cast.
    """
    if column.type == kind:
        return column
    if pa.types.is_dictionary(kind):
        return cast(column, kind.value_type).dictionary_encode().cast(kind)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    changed = column.cast(kind)
    is_number = not _is_text(column.type) or not _is_text(kind)
    if is_number and not _is_list(kind) and not pa.types.is_null(column.type):
        _check_same(column, changed)
    return changed


def _check_same(column: pa.Array, changed: pa.Array) -> None:
    lost = pc.fill_null(pc.not_equal(changed.cast(column.type), column), fill_value=False)
    if pc.any(lost).as_py():
        value = column[pc.index(lost, value=True).as_py()].as_py()
        raise pa.ArrowInvalid(f"{value!r} is not the same as {changed.type}")


def hive_schema(files: Sequence[str], base: str, taken: Iterable[str]) -> pa.Schema:
    """Find the columns that files have by their folders' names, `column=value`.

    They are whole numbers where all values are written as such, and else texts: "01001" is no 1001.

    Args:
        files: Paths.
        base: The folder that was asked for. What stands above it counts as far as it is one row of
            such names, so that one file of a table has the columns that the whole table has.
        taken: Names that columns above `base` must not have.

    Example:
        >>> hive_schema(["t/day=01/a", "t/day=12/a"], "t", []).field("day").type
        DataType(string)
        >>> hive_schema(["t/n=1/a.parquet"], "t/n=1", []).field("n").type
        DataType(int32)
    """
    values: dict[str, set[str]] = {}
    above = {name for name, _ in _pairs(base)} & set(taken)
    root = hive_root(base)
    for file in files:
        for name, value in _pairs(file[len(root) :].rpartition("/")[0], trailing=False):
            if name not in above:
                values.setdefault(name, set()).add(value)
    return pa.schema([(name, _hive_type(found - {_NO_VALUE})) for name, found in values.items()])


def hive_root(base: str) -> str:
    """Return the folder above all `column=value` that a path ends with.

    Example:
        >>> hive_root("/data/day=1/hour=2"), hive_root("/data/day=1/x")
        ('/data', '/data/day=1/x')
    """
    while "=" in base.rpartition("/")[2]:
        base = base.rpartition("/")[0]
    return base


def _pairs(path: str, *, trailing: bool = True) -> list[tuple[str, str]]:
    root = hive_root(path) if trailing else ""
    parts = path[len(root) :].split("/")
    split = (part.partition("=") for part in parts if "=" in part)
    return [(unquote(name), unquote(value)) for name, _, value in split]


def _hive_type(values: Iterable[str]) -> pa.DataType:
    found = list(values)
    if not found or not all(_WHOLE_NUMBER.fullmatch(value) for value in found):
        return pa.string()
    return pa.int32() if all(int(value) in _INT32 for value in found) else pa.int64()


def held_types(
    store: Store, paths: Iterable[str], names: Sequence[str]
) -> Mapping[str, pa.DataType]:
    """Find the types that columns have in an output's files already.

    Args:
        store: The output.
        paths: Of its files of annotations; so many are looked at, the first.
        names: Of the columns.

    Raises:
        StoreError: a file cannot be read. One that is torn says nothing.
    """
    if not names:
        return {}

    def of_file(path: str) -> Mapping[str, pa.DataType]:
        try:
            schema = read_schema(store, path)
        except TornFile:
            return {}
        return {name: schema.field(name).type for name in names if name in schema.names}

    found: dict[str, pa.DataType] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for types in pool.map(of_file, list(islice(paths, _MOST_FILES))):
            found = {**types, **found}
    return found
