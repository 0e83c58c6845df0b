"""The dashboard is well formed, and shows what the code and Ray do export."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phicorpus.workers.cluster import EngineMetrics

ROOT = Path(__file__).parents[2]
Document = dict[str, Any]

# What exports Ray's own metrics, by the first word of their names.
RAYS_FILES = {
    "node": ["dashboard/modules/reporter/reporter_agent.py"],
    "data": [
        "data/_internal/stats.py",
        "data/_internal/execution/interfaces/op_runtime_metrics.py",
    ],
}
FUNCTIONS = {"sum", "count", "by", "rate", "increase", "label_replace"}


@pytest.fixture(scope="module")
def dashboard() -> Document:
    return json.loads((ROOT / "infra/grafana.json").read_text("utf-8"))


def targets(dashboard: Document) -> Iterator[Document]:
    for panel in dashboard["panels"]:
        yield from panel["targets"]


def metrics(dashboard: Document) -> set[str]:
    queries = [variable["query"] for variable in dashboard["templating"]["list"]]
    asked = [query["query"] for query in queries if isinstance(query, dict)]
    asked += [target["expr"] for target in targets(dashboard)]
    return set(re.findall(r"\bray_\w+", " ".join(asked)))


def exported() -> tuple[set[str], tuple[str, ...]]:
    """Give the names that Prometheus reads of a replica's metrics, and their labels."""
    names: set[str] = set()
    labels: list[tuple[str, ...]] = []

    def counter(name: str, _: str, keys: tuple[str, ...]) -> Any:
        names.add(f"ray_{name}_total")
        labels.append(keys)

    def gauge(name: str, _: str, keys: tuple[str, ...]) -> Any:
        names.add(f"ray_{name}")
        labels.append(keys)

    EngineMetrics("vision", "phi@1", counter=counter, gauge=gauge)
    (keys,) = set(labels)
    return names, keys


def test_every_metric_of_ours_is_one_that_a_replica_exports(dashboard: Document) -> None:
    ours = {name for name in metrics(dashboard) if name.startswith("ray_phicorpus_")}

    assert ours == exported()[0]


def test_every_metric_of_rays_is_one_that_the_installed_ray_exports(dashboard: Document) -> None:
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    rays = {name for name in metrics(dashboard) if not name.startswith("ray_phicorpus_")}

    gone = set()
    for name in rays:
        kind, short = re.fullmatch(r"ray_(\w+?)_(\w+)", name).groups()  # type: ignore[union-attr]
        source = "\n".join((folder / file).read_text("utf-8") for file in RAYS_FILES[kind])
        if not re.search(rf'"{kind}_{short}"|^    {short}: ', source, re.MULTILINE):
            gone.add(name)

    assert len(rays) > 5
    assert gone == set()


def test_an_expression_has_balanced_brackets_and_no_labels_of_its_own(dashboard: Document) -> None:
    known = {*exported()[1], "operator", "NodeAddress", "WorkerId", "ip", "GpuIndex", "replica"}
    for target in targets(dashboard):
        expression = re.sub(r'"[^"]*"', '""', target["expr"])
        for opening, closing in ("()", "{}", "[]"):
            assert expression.count(opening) == expression.count(closing)
        words = set(re.findall(r"\b[A-Za-z_]\w*", re.sub(r"\[\w+\]", "", expression)))
        assert words - metrics(dashboard) - FUNCTIONS <= known
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= known


def test_it_shows_what_the_readme_says_to_watch(dashboard: Document) -> None:
    pages = (ROOT / "README.md").read_text("utf-8") + (ROOT / "infra/README.md").read_text("utf-8")
    watched = {name for name in re.findall(r"\bray_\w+[a-z]\b", pages) if "phicorpus_" in name}
    watched |= {"ray_node_gpus_utilization", "ray_data_output_rows", "ray_node_mem_used"}
    shown = {panel["title"] for panel in dashboard["panels"]}

    assert watched <= metrics(dashboard)
    assert {"Busy share", "Busy share per replica", "GPU utilisation", "GPU memory used"} <= shown
    assert {"Completion tokens per second and replica", "Errors"} <= shown


def test_panels_have_ids_and_places_of_their_own_and_the_chosen_source(dashboard: Document) -> None:
    panels = dashboard["panels"]
    source = {"type": "prometheus", "uid": "${datasource}"}
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert taken.isdisjoint(cells)
        taken |= cells
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"] == source
        assert all(target["datasource"] == source for target in panel["targets"])
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert {v["name"] for v in dashboard["templating"]["list"]} == {"datasource", "flow"}
    assert dashboard["uid"]
    assert dashboard["schemaVersion"] >= 39
