"""The same chart, saved as PPTX, ODP and PPT, gives the same series, categories and values."""

import datetime
import io
import re
import subprocess
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pptx import Presentation
from pptx.chart.data import BubbleChartData, CategoryChartData, XyChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

from phicorpus.media.decks import libreoffice, pptx
from phicorpus.media.segment import Chart, Segment
from tests.media.builders import (
    TITLE_ONLY,
    chart_data,
    deck_bytes,
    member,
    outcomes,
    with_members,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(libreoffice.find_soffice() is None, reason="LibreOffice is not installed"),
]
BOX = (Inches(1), Inches(2), Inches(6), Inches(4))
KINDS = XL_CHART_TYPE
TWO = (("A", (1, None, 3)), ("B", (2.5, 4, 0.1)))
DAYS = [datetime.date(2024, 1, 31), datetime.date(2024, 2, 29), datetime.date(2024, 3, 31)]
FORMATS: Sequence[tuple[str, Sequence[float]]] = (
    ("General", (1, 2.5, 3)),
    ("h:mm", (0.375, 0.5, 0.625)),
    ("h:mm:ss", (0.375, 0.5, 0.625)),
    ("mm:ss", (0.01, 0.02, 0.03)),
    ("[h]:mm", (1.125, 0.5, 2)),
    ("0%", (0.1, 0.125, 0.5)),
    ('"day" 0', (1, 2, 3)),
    ("#,##0.00", (1000, 2000.5, 3)),
    ("0.00E+00", (1e10, 2e-5, 3)),
    ("[Red]0.0;[Blue]-0.0", (1, -2, 3)),
    ("[$-407]d. mmm yyyy", (45322, 45351, 45382)),
    ("yyyy-mm-dd hh:mm", (45322.25, 45322.5, 45323)),
    ("d/m", (45322, 45351, 45382)),
)


def categories(
    labels: Sequence[Any],
    series: Sequence[tuple[str, Sequence[float | None]]] = TWO,
    *,
    code: str | None = None,
) -> CategoryChartData:
    data = CategoryChartData()
    data.categories = labels
    if code is not None:
        data.categories.number_format = code  # type: ignore[attr-defined]
    for name, values in series:
        data.add_series(name, values)
    return data


def nested(*levels: Sequence[str]) -> CategoryChartData:
    data = CategoryChartData()
    count = 0

    def add(parent: Callable[[str], Any], depth: int) -> None:
        nonlocal count
        for label in levels[depth]:
            category = parent(label)
            if depth + 1 < len(levels):
                add(category.add_sub_category, depth + 1)
            else:
                count += 1

    add(data.add_category, 0)
    for name in ("Sales", "Costs"):
        data.add_series(name, range(count))
    return data


def points(data: Any, *series: Sequence[tuple[float, ...]]) -> Any:
    for number, places in enumerate(series):
        added = data.add_series(f"Run {number}")
        for place in places:
            added.add_data_point(*place)
    return data


def made() -> bytes:
    """A deck with a chart of each kind, and of each format of numbers."""
    deck = Presentation()

    def add(kind: XL_CHART_TYPE, data: Any) -> Any:
        slide = deck.slides.add_slide(deck.slide_layouts[TITLE_ONLY])
        return slide.shapes.add_chart(kind, *BOX, chart_data(data)).chart  # type: ignore[attr-defined]

    plain = ["x", "y", "z"]
    for kind in (KINDS.COLUMN_CLUSTERED, KINDS.BAR_STACKED_100, KINDS.LINE_MARKERS, KINDS.AREA):
        add(kind, categories(plain))
    for kind in (KINDS.DOUGHNUT, KINDS.RADAR, KINDS.RADAR_FILLED):
        add(kind, categories(plain))
    add(KINDS.PIE, categories(plain, TWO[:1]))
    add(KINDS.COLUMN_CLUSTERED, categories(DAYS))
    for code, numbers in FORMATS:
        add(KINDS.LINE, categories(numbers, code=code))
    add(KINDS.COLUMN_CLUSTERED, categories(["01", "2.50", "a\nb"], [("Net\nsales", (1, 2, 3))]))
    add(KINDS.COLUMN_CLUSTERED, nested(("2023", "2024"), ("H1", "H2")))
    add(KINDS.LINE, nested(("2023", "2024"), ("H1", "H2"), ("a", "b")))
    add(KINDS.XY_SCATTER, points(XyChartData(), ((1, 2), (3, 4.5)), ((10, 1), (20, 2))))
    add(KINDS.XY_SCATTER_LINES, points(XyChartData(), ((1, 2), (3, 4)), ((1, 5), (3, 6))))
    add(KINDS.BUBBLE, points(BubbleChartData(), ((1, 2, 3), (4, 5, 6)), ((7, 8, 9),)))
    titled = add(KINDS.COLUMN_CLUSTERED, categories(plain))
    titled.has_title = True
    titled.chart_title.text_frame.text = "Sales\nby year"
    for axis, words in ((titled.category_axis, "Region"), (titled.value_axis, "EUR")):
        axis.has_title = True
        axis.axis_title.text_frame.text = words
    return with_other_kinds(deck_bytes(deck))


def with_other_kinds(content: bytes) -> bytes:
    """Make of some charts what python-pptx does not write."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [name for name in archive.namelist() if name.startswith("ppt/charts/chart")]
    names.sort(key=lambda name: int("".join(filter(str.isdigit, name))))
    bar, _, line, area = names[:4]
    pie = names[7]
    second = r"</c:ser>\s*(<c:ser>(?:(?!<c:ser>).)*?</c:ser>)(.*?)</c:barChart>"
    combo = (
        r'</c:ser>\2</c:barChart><c:lineChart><c:grouping val="standard"/>\1'
        r'<c:axId val="-2068027336"/><c:axId val="-2113994440"/></c:lineChart>'
    )
    changes = {
        bar: (second, combo),
        line: ("c:lineChart>", "c:line3DChart>"),
        area: ("c:areaChart>", "c:area3DChart>"),
        pie: ("c:pieChart>", "c:pie3DChart>"),
    }
    changed: dict[str, bytes] = {}
    for name, (old, new) in changes.items():
        markup = member(content, name).decode()
        assert re.search(old, markup, re.DOTALL)
        changed[name] = re.sub(old, new, markup, flags=re.DOTALL).encode()
    return with_members(content, changed)


def converted(folder: Path, content: bytes, kind: str) -> bytes:
    (folder / "deck.pptx").write_bytes(content)
    profile = f"-env:UserInstallation={(folder / 'profile').as_uri()}"
    subprocess.run(  # noqa: S603 - the program that is tested with
        [
            *(str(libreoffice.find_soffice()), profile, "--headless", "--norestore"),
            *("--convert-to", kind, "--outdir", folder, folder / "deck.pptx"),
        ],
        check=True,
        capture_output=True,
        timeout=240,
    )
    return (folder / f"deck.{kind}").read_bytes()


def test_a_chart_is_the_same_in_every_format(tmp_path: Path) -> None:
    content = made()
    own = [slide.native.charts for slide in pptx.slides(content) if slide.native]

    saved = outcomes(*(converted(tmp_path, content, kind) for kind in ("odp", "ppt")))

    for pages in saved:
        natives = [page.native for page in pages if isinstance(page, Segment)]
        assert [native.charts for native in natives if native] == own


def test_every_chart_was_read_from_the_pptx() -> None:
    slides = pptx.slides(made())
    charts = [slide.native.charts for slide in slides if slide.native]

    assert {slide.flags for slide in slides} == {()}
    assert all(charts)
    assert {chart.kind for found in charts for chart in found} == {
        *("bar", "bar+line", "line", "area", "pie", "doughnut", "radar", "scatter", "bubble"),
    }
    assert all(isinstance(chart, Chart) for found in charts for chart in found)
