from pathlib import Path

import pyarrow as pa

from pipeline.config import FetchConfig
from pipeline.stages.fetch import fetch
from schemas import ASSET
from schemas.segment import FETCHED


def test_an_unreadable_asset_keeps_its_row_and_hurts_no_neighbour(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    uris = [str(tmp_path / "none"), str(tmp_path / "a"), "http://example.com/a"]
    rows = [{"unit_id": "u", "asset_id": uri, "uri": uri, "tasks": ["ocr"]} for uri in uris]

    tables = list(fetch(pa.Table.from_pylist(rows, schema=ASSET), config=FetchConfig()))

    fetched = pa.concat_tables(tables)
    assert fetched.schema == FETCHED
    assert fetched["uri"].to_pylist() == uris
    assert fetched["content"].to_pylist() == [None, b"x", None]
    assert fetched["error_type"].to_pylist() == ["AssetMissing", None, "UriRefused"]
    assert fetched["error_stage"].to_pylist() == ["fetch", None, "fetch"]


def test_a_text_of_the_manifest_is_its_own_content() -> None:
    row = {"unit_id": "u", "asset_id": "a", "uri": "http://10.0.0.1/", "tasks": ["ask"]}
    inline = pa.Table.from_pylist([row | {"text": "na\xefve"}], schema=ASSET)

    (fetched,) = fetch(inline, config=FetchConfig())

    assert fetched.schema == FETCHED
    assert fetched["content"].to_pylist() == ["na\xefve".encode()]
    assert fetched["error_type"].to_pylist() == [None]
