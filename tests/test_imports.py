"""No module imports itself, through however many others, lazy imports and those for types included."""

import grimp
import pytest

Links = dict[str, set[str]]


def circles(links: Links) -> list[set[str]]:
    """Find the sets of modules that reach one another."""
    reached = {module: _reach(module, links) for module in links}
    found: list[set[str]] = []
    for module in sorted(links):
        circle = {other for other in reached[module] if module in reached[other]}
        if circle and circle not in found:
            found.append(circle)
    return found


def _reach(module: str, links: Links) -> set[str]:
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        new = links.get(waiting.pop(), set()) - reached
        reached |= new
        waiting += new
    return reached


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"a"}, "c": {"a"}}, [{"a", "b"}]),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, [{"b", "c"}]),
    ],
)
def test_a_circle_is_found_and_a_chain_is_none(links: Links, expected: list[set[str]]) -> None:
    assert circles(links) == expected


def test_there_is_no_import_circle_in_the_package() -> None:
    graph = grimp.build_graph("phicorpus", cache_dir=None)
    links = {
        module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules
    }

    assert len(links) > 200
    assert circles(links) == []
