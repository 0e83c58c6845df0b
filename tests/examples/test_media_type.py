"""A new media type is one entry in MEDIA_TYPES, and a decoder where no other one reads it."""

import json
import pkgutil
from itertools import permutations
from pathlib import Path

import pytest

from phicorpus.media.media_types import DECKS, IMAGES, MEDIA_TYPES, RECORDINGS, TEXTS
from tests.examples.package import a_package, run_in

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ENTRY = """
    MediaType(
        "application/x-subrip",
        "text",
        "phicorpus.media.subtitles:decode_subtitles",
        extensions=(".srt",),
    ),"""
SUBTITLES = """1
00:00:01,000 --> 00:00:02,500
<i>Sales rose</i>

2
00:00:03,000 --> 00:00:04,000
in spring.
"""


def test_subtitles_are_annotated_as_text_once_their_type_is_entered(tmp_path: Path) -> None:
    package = a_package(
        tmp_path / "source",
        added={"media/subtitles.py": HERE / "subtitles.py"},
        edited={"media/media_types.py": [("TEXTS = (", ENTRY)]},
    )
    (tmp_path / "in").mkdir()
    (tmp_path / "in/talk.srt").write_text(SUBTITLES)
    settings = json.dumps({"tasks": {"ask": {"prompt": "When?"}}})

    printed = run_in(package, tmp_path, str(HERE / "annotate.py"), str(tmp_path / "in"), settings)

    (unit,) = json.loads(printed)
    assert (unit["kind"], unit["segment_kinds"]) == ("text", ["passage"])
    assert (unit["media_types"], unit["errors"]) == (["application/x-subrip"], [None])
    assert unit["texts"] == ["<document>\nSales rose\n\nin spring.\n</document>\n\nWhen?"]
    assert unit["markdown"] == unit["texts"]


def test_each_entry_has_a_name_a_decoder_and_extensions_of_its_own() -> None:
    entries = (*IMAGES, *DECKS, *RECORDINGS, *TEXTS)
    extensions = [extension for entry in entries for extension in entry.extensions]

    assert len(MEDIA_TYPES) == len(entries)
    assert len(set(extensions)) == len(extensions)
    assert all(extension == extension.lower() for extension in extensions)
    assert all(callable(pkgutil.resolve_name(entry.decoder)) for entry in entries)


def test_no_signature_begins_another_types() -> None:
    signatures = [(mark, entry.name) for entry in MEDIA_TYPES.values() for mark in entry.signatures]

    clashes = [
        (mine, other)
        for (mark, mine), (longer, other) in permutations(signatures, 2)
        if longer.startswith(mark) and mine != other
    ]

    assert clashes == []
