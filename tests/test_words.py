"""Docstrings open with a verb, or with what a thing is; modules have names of the field."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pipeline/phicorpus"
FORBIDDEN = {
    *("Give", "Gives", "Say", "Says", "Tell", "Tells"),
    *("How", "Of", "That", "What", "Whatever", "Where", "Whether", "Which", "Who", "Whose"),
}
METAPHORS = {
    *("admission", "answer", "callers", "casebook", "current", "cut", "footprint"),
    *("guard", "holdings", "hooks", "hybrid"),
    *("in_place", "intake", "inventory", "ladder", "lobby", "meter", "reception", "standing"),
    *("steady", "watch", "witness"),
}


def first_words(source: str) -> Iterator[tuple[str, str]]:
    """The first word of the module's and of each function's docstring, by name."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node) or ""
            name = "module" if isinstance(node, ast.Module) else node.name
            yield name, (re.findall(r"\w+", docstring) or [""])[0]


def modules() -> Iterator[Path]:
    yield from sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize(
    ("docstring", "word"), [("Tell whether.", "Tell"), ("`x` is read.", "x"), ("", "")]
)
def test_the_first_word_of_a_docstring_is_found(docstring: str, word: str) -> None:
    source = f'def f():\n    """{docstring}"""\n'

    assert list(first_words(source)) == [("module", ""), ("f", word)]


def test_a_docstring_opens_with_what_happens_or_with_what_a_thing_is() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}: {name} opens with {word!r}"
        for path in modules()
        for name, word in first_words(path.read_text("utf-8"))
        if word in FORBIDDEN
    ]

    assert wrong == []


def test_no_module_is_named_by_a_metaphor() -> None:
    assert [path for path in PACKAGE.rglob("*.py") if path.stem in METAPHORS] == []
