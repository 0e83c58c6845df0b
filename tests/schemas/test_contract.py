"""The contract files in schemas/ say what the code declares, so that a changed column is a diff."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from phicorpus import cli
from phicorpus.schemas import field
from phicorpus.schemas.contract import CONTRACTS, Contract, contract_files, describe

FOLDER = Path(__file__).parents[2] / "schemas"


def written(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def test_the_files_are_those_that_the_code_writes_and_no_others() -> None:
    there = {path.name: path.read_text("utf-8") for path in FOLDER.glob("*.json")}
    del there["contract.schema.json"]

    assert there == contract_files(), "phicorpus schema --write schemas"


@pytest.mark.parametrize("name", CONTRACTS)
def test_each_file_is_as_its_json_schema_says(name: str) -> None:
    form = json.loads((FOLDER / "contract.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(form)

    jsonschema.Draft202012Validator(form).validate(written(name))


@pytest.mark.parametrize("name", ["manifest", "annotation", "document"])
def test_a_parquet_file_of_the_table_has_the_types_that_the_contract_names(name: str) -> None:
    file = io.BytesIO()
    pq.write_table(CONTRACTS[name].schema.empty_table(), file)
    leaves = {}
    parquet = pq.ParquetFile(file).schema
    for number in range(len(parquet)):
        leaf = parquet.column(number)
        logical = leaf.logical_type.type
        leaves[leaf.path] = (leaf.physical_type, None if logical == "NONE" else logical)

    assert leaves == dict(_leaves(written(name)["columns"]))


def _leaves(columns: list[dict[str, Any]], above: str = "") -> list[tuple[str, tuple[str, str]]]:
    found: list[tuple[str, tuple[str, str]]] = []
    for column in columns:
        kind, path = column, above + column["name"]
        while kind["type"] == "list":
            kind, path = kind["element"], f"{path}.list.element"
        if kind["type"] == "struct":
            found += _leaves(kind["fields"], f"{path}.")
        else:
            found.append((path, (kind["parquet"]["physical"], kind["parquet"]["logical"])))
    return found


def test_the_key_is_of_columns_that_there_are() -> None:
    for name in CONTRACTS:
        table = written(name)
        columns = {column["name"] for column in table["columns"]}
        assert set(table["key"]) <= columns | set(table["path_columns"]), name


def test_a_column_that_is_added_says_since_when() -> None:
    columns = [
        field.field("uri", pa.string(), "Where", nullable=False),
        field.field("pages", pa.int32(), "How many", since="0.2.0"),
    ]
    contract = Contract(
        schema=field.schema("asset", 1, columns),
        meaning="An asset",
        place="assets.parquet",
        path_columns={},
        key=("uri",),
    )

    first, second = describe(contract)["columns"]

    assert (first["since"], second["since"]) == ("0.1.0", "0.2.0")


def test_the_command_writes_every_file_and_names_it(tmp_path: Path) -> None:
    shown = CliRunner().invoke(cli.app, ["schema", "--write", str(tmp_path / "contract")])

    assert shown.exit_code == 0
    found = {path.name: path.read_text("utf-8") for path in (tmp_path / "contract").iterdir()}
    assert found == contract_files()
    assert shown.output.splitlines() == [
        f"wrote {tmp_path}/contract/{name}" for name in contract_files()
    ]


def test_a_schema_without_a_name_is_refused() -> None:
    shown = CliRunner().invoke(cli.app, ["schema"])

    assert shown.exit_code == 2
    assert "missing argument NAME" in shown.output
