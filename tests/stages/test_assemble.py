"""Documents of decks: what the file says, what the model says, and what failed."""

from typing import Any

from phicorpus.media.segment import Chart, Native
from phicorpus.stages.assemble import assemble

OWN = Native(
    title="Annual Report",
    text=("Annual", "Report", "Costs fell."),
    notes="Say it slowly.",
    tables=((("Item", "Cost"), ("Chair", "40")),),
    charts=(Chart(kind="bar", title="Sales", categories=("North",), series=(("Sales", (12.0,)),)),),
)
TABLE = "| Item | Cost |\n| --- | --- |\n| Chair | 40 |"
CHART = "Sales\n\n|  | Sales |\n| --- | --- |\n| North | 12 |"


def a_row(task: str, **columns: Any) -> dict[str, Any]:
    return {
        "asset_id": "a",
        "uri": "/a.pptx",
        "media_type": "x",
        "sha256": "0",
        "unit_id": "u",
        "segment_index": 0,
        "segment_count": 1,
        "page_number": 1,
        "hidden": False,
        "task": task,
        "status": "ok",
        "source": "model",
        "text": None,
        "answer": None,
        "flags": [],
        "error_type": None,
        "error_message": None,
    } | columns


def markdown(*rows: dict[str, Any]) -> str:
    (document,) = assemble("deck", rows)
    return document["markdown"]


def native_row() -> dict[str, Any]:
    return a_row("native", answer=OWN.to_json(), source="native", text="any")


def test_without_ocr_a_document_has_the_files_text_tables_and_charts_with_its_title_once() -> None:
    assert markdown(native_row()) == (
        f"## Page 1: Annual Report\n\nCosts fell.\n\n{TABLE}\n\n{CHART}\n\n> Say it slowly."
    )


def test_a_files_own_chart_stands_in_place_of_the_models_reading_of_it() -> None:
    page = markdown(
        native_row(),
        a_row("ocr", text="Annual Report Costs fell."),
        a_row("chart", text="| a | b |\n| --- | --- |\n| North | 11 |"),
    )

    assert page == (
        f"## Page 1: Annual Report\n\nAnnual Report Costs fell.\n\n{CHART}\n\n> Say it slowly."
    )


def test_a_models_reading_of_a_chart_stands_where_the_file_has_none() -> None:
    own = Native(text=("Words",))
    reading = "| a | b |\n| --- | --- |\n| North | 11 |"

    page = markdown(a_row("native", answer=own.to_json()), a_row("chart", text=reading))

    assert page == f"## Page 1\n\nWords\n\n{reading}"


def test_a_page_whose_picture_failed_has_what_its_file_says_and_why() -> None:
    failed = {"status": "error", "error_type": "RenderError", "error_message": "no PDF"}

    page = markdown(native_row(), a_row("caption", **failed), a_row("ocr", **failed))

    assert "Costs fell." in page
    assert page.endswith("<!-- ocr: RenderError: no PDF -->")
