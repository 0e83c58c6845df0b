import pytest
from hypothesis import given
from hypothesis import strategies as st

from phicorpus.config import DecodeConfig, TextConfig
from phicorpus.errors import LimitExceeded, NotUtf8, UnsupportedMedia
from phicorpus.media.decode import decode
from phicorpus.media.segment import Segment
from phicorpus.media.text import segments

SMALL = TextConfig(max_passage_bytes=64)


def passages(text: str, config: TextConfig = SMALL) -> list[str]:
    return [str(segment.text) for segment in segments(text.encode(), config)]


def test_a_short_text_is_one_passage() -> None:
    (segment,) = segments(b"\xef\xbb\xbfWords.", TextConfig())

    assert (segment.kind, segment.index, segment.count, segment.text) == ("passage", 0, 1, "Words.")
    assert (segment.start_char, segment.end_char, segment.skip_reason) == (0, 6, None)


def test_a_long_text_is_cut_at_the_ends_of_paragraphs() -> None:
    paragraphs = [f"{number}. Some words.\nAnd others.\n\n" for number in range(6)]

    found = passages("".join(paragraphs))

    assert found == ["".join(paragraphs[at : at + 2]) for at in (0, 2, 4)]


@pytest.mark.parametrize(
    ("text", "end"),
    [("a line\n" * 20, "\n"), ("A sentence. " * 20, ". "), ("word " * 40, " "), ("w" * 200, "w")],
)
def test_a_long_paragraph_is_cut_at_the_best_end_there_is(text: str, end: str) -> None:
    found = passages(text)

    assert "".join(found) == text
    assert all(passage.endswith(end) for passage in found)
    assert max(map(len, found)) <= 64


@pytest.mark.parametrize(
    ("unit", "size"), [("e\u0301", 2), ("\u0e01\u0e34\u0e48", 3), ("\U0001f468\u200d\U0001f467", 3)]
)
def test_no_cut_takes_an_accent_from_its_letter(unit: str, size: int) -> None:
    found = passages(unit * 100)

    assert "".join(found) == unit * 100
    assert all(len(passage) % size == 0 for passage in found)


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=400))
def test_passages_cover_every_text_exactly_and_keep_the_limit(text: str) -> None:
    text = text.removeprefix("\ufeff")
    found = list(segments(text.encode(), SMALL))

    assert "".join(str(segment.text) for segment in found) == text
    assert [segment.index for segment in found] == list(range(len(found)))
    assert {segment.count for segment in found} == {len(found)}
    for segment in found:
        assert segment.text == text[segment.start_char : segment.end_char]
        assert len(str(segment.text).encode()) <= 64


def test_a_text_without_words_is_not_asked() -> None:
    assert [segment.skip_reason for segment in segments(b"", SMALL)] == ["no_text"]
    assert [segment.skip_reason for segment in segments(b" \n\n", SMALL)] == ["no_text"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("caf\xe9".encode("latin-1"), r"byte 0xe9 at 3 of 4"),
        ("caf\xe9".encode("utf-16"), "UTF-16"),
        (b"a\0b", "a NUL at byte 1"),
    ],
)
def test_other_encodings_than_utf_8_are_named(content: bytes, why: str) -> None:
    with pytest.raises(NotUtf8, match=why):
        list(decode(content, "text/plain"))


def test_the_limit_of_bytes_is_named() -> None:
    with pytest.raises(LimitExceeded, match=r"texts\.max_bytes: 5 bytes, limit 4"):
        list(segments(b"words", TextConfig(max_bytes=4)))


@pytest.mark.parametrize("start", ["P1 is the first point", "%PDF- is how a PDF begins", "BM", "<"])
def test_a_declared_text_may_begin_like_anything(start: str) -> None:
    segments_: list[Segment] = list(decode(start.encode(), "text/markdown", DecodeConfig()))

    assert [segment.text for segment in segments_] == [start]


def test_text_under_another_name_is_no_image() -> None:
    with pytest.raises(UnsupportedMedia, match="declared image/png, found text/plain"):
        list(decode(b"just words", "image/png"))
