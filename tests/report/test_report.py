from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from pipeline.config import FetchConfig
from pipeline.publish import Publication, Publisher
from pipeline.report import gather, render
from pipeline.stages.assemble import assemble
from pipeline.stages.commit import Commit
from pipeline.storage.store import open_store
from tests.builders import a_reply, a_unit_of, an_image, replies


def an_output(folder: Path) -> Path:
    """One unit of two images: one answered, one broken; and one of a recording."""
    (folder / "a.png").write_bytes(an_image())
    output = folder / "output"
    publication = Publication(
        fingerprints={("ocr", "image"): "f1"},
        document_fingerprints={"image": "f2"},
        model="phi",
        passed_through=pa.schema([]),
        software_version="0",
    )
    commit = Commit(Publisher(open_store(str(output)), publication), assemble)
    rows = [{"uri": str(folder / f"{name}.png"), "asset_id": name} for name in "ab"]
    missing = pa.nulls(2, pa.string())
    table = pa.Table.from_pylist(rows).append_column("media_type", missing)
    table = table.append_column("sha256", missing).append_column("etag", missing)
    commit.expect(a_unit_of(table, {"a": ("ocr",), "b": ("ocr",)}, unit_id="image-1"))
    error = {"error_stage": "decode", "error_type": "DecodeError", "error_message": "torn <b>"}
    commit.add(
        replies(
            a_reply(unit_id="image-1", uri=rows[0]["uri"], text="<script>alert(1)</script>"),
            a_reply(
                unit_id="image-1",
                asset_id="b",
                uri=rows[1]["uri"],
                status="error",
                text=None,
                **error,
            ),
        )
    )
    return output


def test_a_report_counts_every_row_and_groups_the_errors(tmp_path: Path) -> None:
    output = an_output(tmp_path)

    findings = gather(open_store(str(output)), str(output), fetch=FetchConfig())

    assert findings.counts == {"ocr": {"ok": 1, "error": 1, "skipped": 0}}
    (group,) = findings.errors
    assert (group.stage, group.error_type, group.count) == ("decode", "DecodeError", 1)
    (sample,) = findings.samples
    assert sample.picture is not None
    assert sample.picture.startswith("data:image/jpeg")


def test_what_files_and_models_say_is_escaped(tmp_path: Path) -> None:
    output = an_output(tmp_path)

    page = render(gather(open_store(str(output)), str(output)))

    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "torn &lt;b&gt;" in page


def test_an_asset_that_is_gone_costs_its_picture_only(tmp_path: Path) -> None:
    output = an_output(tmp_path)
    (tmp_path / "a.png").unlink()

    (sample,) = gather(open_store(str(output)), str(output), fetch=FetchConfig()).samples

    assert sample.picture is None


def test_an_empty_output_has_an_empty_report(tmp_path: Path) -> None:
    page = render(gather(open_store(str(tmp_path)), "nothing"))

    assert "<b>0</b>annotations" in page
