from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa

from phicorpus.config import FetchConfig
from phicorpus.engine.engine import EngineStats
from phicorpus.output.files import Output
from phicorpus.output.write import Publication, RunPublisher
from phicorpus.report import gather, render
from phicorpus.report.gather import ErrorGroup, Findings, Sample
from phicorpus.stages.assemble import assemble
from phicorpus.stages.commit import Commit
from phicorpus.storage.store import open_store
from phicorpus.workers.metrics import sum_stats
from tests.builders import a_reply, a_unit_of, an_image, replies


class Tags(HTMLParser):
    """Which elements and attributes a page has, as a browser would read it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.found_attributes: set[str] = set()
        self.num_images = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.found_attributes |= {name for name, _ in attrs}
        self.num_images += tag == "img"


def an_output(folder: Path) -> Path:
    """One unit of two images: one answered, one broken; and one of a recording."""
    (folder / "a.png").write_bytes(an_image())
    output = folder / "output"
    publication = Publication(
        model="phi",
        passed_through=pa.schema([]),
        software_version="0",
    )
    commit = Commit(RunPublisher(Output(open_store(str(output))), publication), assemble)
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
    assert "Samples" not in page


HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)> \u202egnp.exe'


def a_row(**columns: Any) -> dict[str, Any]:
    row = {"status": "ok", "text": HOSTILE, "source": "model", "flags": [HOSTILE]}
    return {**row, "skip_reason": None, **columns}


def findings_of(**answers: dict[str, Any]) -> Findings:
    error = ErrorGroup(stage="fetch", error_type="X", count=1, examples=((HOSTILE, HOSTILE),))
    sample = Sample(uri=f"/{HOSTILE}", part="", picture="data:,", answers=answers)
    return Findings(output=HOSTILE, errors=[error], samples=[sample])


def test_no_name_text_flag_message_or_cell_becomes_markup() -> None:
    table = f"| a | b |\n|---|---|\n| {HOSTILE} | 1 |"

    page = render(findings_of(ocr=a_row(), chart=a_row(text=table)))

    tags = Tags()
    tags.feed(page)
    assert tags.found.isdisjoint({"script"})
    assert tags.found_attributes.isdisjoint({"onerror"})
    assert tags.num_images == 1
    assert "default-src 'none'" in page


def test_a_picture_has_a_text_and_every_table_can_be_reached_by_keyboard() -> None:
    page = render(findings_of(caption=a_row(text="A cat.")))

    assert re.search(r'<img [^>]*alt="[^"]+"', page)
    assert page.count('<div class="scroll" role=') == page.count('tabindex="0"') == 2


def test_a_chart_is_shown_as_a_table_and_a_long_text_is_cut() -> None:
    page = render(
        findings_of(
            chart=a_row(text="| Month | Orders |\n| --- | --- |\n| May | 35 |"),
            ocr=a_row(text="word " * 10_000),
        )
    )

    assert "<td>May</td><td>35</td>" in page
    assert "more characters]" in page
    assert len(page) < 20_000


def a_run(number: int, **fields: Any) -> dict[str, Any]:
    counts = {"num_ok": 90, "num_error": 10, "num_skipped": 0, "num_assets": 50}
    ended = {"ended_at": "2026-01-01T00:01", "elapsed_s": 50.0, "status": "done"}
    return {"run_id": f"run-{number:03}", **counts, **ended, **fields}


def test_runs_are_shown_once_newest_first_with_their_rate() -> None:
    started = a_run(1, ended_at=None, elapsed_s=None, status="running")
    killed = a_run(2, ended_at=None, elapsed_s=None, status="running")

    page = render(Findings(output="o", runs=[a_run(1), started, killed]))

    assert page.count("run-001") == 1
    assert page.index("run-002") < page.index("run-001")
    assert "running or killed" in page
    assert '<td class="n">2.00</td>' in page


def test_runs_tell_how_busy_their_replicas_were() -> None:
    counts = EngineStats(completion_tokens=420, busy_s=9.0, loaded_s=10.0)
    uses = {"vision": sum_stats([counts, counts]), "speech": sum_stats([counts])}

    page = render(
        Findings(output="o", runs=[a_run(1, engine=json.dumps(uses)), a_run(2, engine=None)])
    )

    assert re.search(r"<td>\s*vision 90%, 42\.0;\s+speech 90%, 42\.0\s*</td>", page)


def test_a_thousand_nights_make_a_short_page() -> None:
    page = render(Findings(output="o", runs=[a_run(number) for number in range(1000)]))

    assert page.count("run-") == 20
    assert "and 980 earlier" in page
