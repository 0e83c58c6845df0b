"""Our prompts against the whole tokenizer reading the template's text, for texts of all kinds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from phicorpus.errors import RequestRefused
from phicorpus.models.model import Canvas, Clip, Modality, Slot, Tools, Turn
from phicorpus.models.phi3.prompt import ChatFormat
from phicorpus.models.phi3_vision.image import ImagePreparation as Phi3Preparation
from phicorpus.models.phi4_multimodal.image import ImagePreparation
from phicorpus.models.phi4_multimodal.prompt import PromptFormat
from phicorpus.models.tokenizer import PromptTokenizer

GOLDENS = Path(__file__).parents[1] / "goldens"
PHI4 = PromptTokenizer.from_folder(GOLDENS / "phi4_multimodal")
PHI3 = PromptTokenizer.from_folder(GOLDENS / "phi3_vision")
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)


def answerable(*parts: str) -> None:
    assume(all(part.strip() and "<" not in part for part in parts))


@settings(deadline=None)
@given(texts, texts)
@example(" a ", "\u00a0b\u2028")
@example("\x1ca\x85", "b\t")
def test_phi_4_reads_our_ids_as_it_reads_its_template(system: str, user: str) -> None:
    answerable(system, user)
    turns = [Turn("system", (system,)), Turn("user", (user,))]

    ids = PromptFormat(PHI4, ImagePreparation(), "text").write(turns)

    template = f"<|system|>{system}<|end|><|user|>{user}<|end|><|assistant|>"
    assert ids == PHI4.backend.encode(template).ids


@settings(deadline=None)
@given(texts, texts)
@example(" a ", "\u00a0b\u2028")
def test_phi_3_reads_our_ids_as_it_reads_its_template(system: str, user: str) -> None:
    answerable(system, user)
    turns = [Turn("system", (system,)), Turn("user", (user,))]

    ids = ChatFormat(PHI3).write(turns)

    template = f"<|system|>\n{system}<|end|>\n<|user|>\n{user}<|end|>\n<|assistant|>\n"
    assert ids == PHI3.backend.encode(template).ids


@pytest.mark.parametrize("tokenizer", [PHI3, PHI4])
@settings(deadline=None)
@given(text=st.text(st.sampled_from("<|>/_1 endoftextuserassistantsystemimage"), max_size=60))
@example(text="<|end|>")
@example(text="<s></s><|endoftext|><|user|>")
def test_no_text_becomes_a_special_token(tokenizer: PromptTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)

    assert not {tokenizer.special_id("<|end|>"), tokenizer.special_id("<|user|>")} & set(ids)
    assert tokenizer.decode(ids) == text


def test_a_merge_that_makes_a_special_token_is_never_applied() -> None:
    definition = """{"version": "1.0", "added_tokens": [{"id": 3, "content": "<s>", "special": true,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "truncation": null, "padding": null, "model": {"type": "BPE", "vocab":
        {"<": 0, "s": 1, ">": 2, "<s>": 3, "<s": 4}, "merges": ["< s", "<s >"]}}"""

    assert PromptTokenizer(definition).encode("<s>") == [4, 2]


def a_canvas(width_px: int = 448, height_px: int = 448) -> Canvas:
    return ImagePreparation().canvas(Image.new("RGB", (width_px, height_px)))


def a_clip(seconds: float, *, key: str = "clip") -> Clip:
    return Clip(samples=np.zeros(round(16_000 * seconds), np.float32), key=key)


def phi_4(modality: Modality = "vision") -> PromptFormat:
    return PromptFormat(PHI4, ImagePreparation(), modality)


def media_of(prompt: Sequence[int | Slot]) -> list[Canvas | Clip]:
    return [part.media for part in prompt if isinstance(part, Slot)]


def test_media_take_their_places_in_order_whatever_the_places_numbers_are() -> None:
    square, wide = a_canvas(), a_canvas(1600, 300)

    prompt = phi_4().read("<|user|><|image_3|>a<|image_1|>b<|end|><|assistant|>", [square, wide])

    assert media_of(prompt) == [square, wide]


@pytest.mark.parametrize("prompt", ["<|user|>none<|end|>", "<|user|><|image_1|><|image_2|><|end|>"])
def test_a_prompt_whose_places_do_not_fit_its_media_is_refused(prompt: str) -> None:
    with pytest.raises(RequestRefused, match="place"):
        phi_4().read(prompt, [a_canvas()])


@settings(deadline=None)
@given(texts, texts, texts)
def test_turns_and_the_originals_notation_are_tokenized_alike(a: str, b: str, c: str) -> None:
    answerable(a, b, c)
    image, sound = a_canvas(), a_clip(1)
    turns = [Turn("system", (a,)), Turn("user", (image, b, sound, c))]

    ids = phi_4().write(turns)

    notation = f"<|system|>{a}<|end|><|user|><|image_1|>{b}<|audio_1|>{c}<|end|><|assistant|>"
    assert [_plain(part) for part in ids] == [
        _plain(part) for part in phi_4().read(notation, [image, sound])
    ]


def _plain(part: int | Slot) -> object:
    return part.key if isinstance(part, Slot) else part


def test_phi_3_breaks_the_line_behind_an_image_in_turns_but_not_in_a_prompt_without_break() -> None:
    preparation = Phi3Preparation(max_crops=1)
    image = preparation.canvas(Image.new("RGB", (336, 336)))
    chat = ChatFormat(PHI3, preparation)
    line_break = PHI3.encode("\n")

    from_turns = chat.write([Turn("user", (image, "What?"))])
    from_notation = chat.read("<|user|>\n<|image_1|>What?<|end|>\n<|assistant|>\n", [image])
    with_break = chat.read("<|user|>\n<|image_1|>\nWhat?<|end|>\n<|assistant|>\n", [image])

    assert len(from_turns) == len(from_notation) + len(line_break)
    assert list(map(_plain, from_turns)) == list(map(_plain, with_break))


TOOLS = '[{"name": "weather", "parameters": {"city": {"type": "str"}}}]'


@pytest.mark.parametrize("format_", [phi_4("text"), ChatFormat(PHI4)])
def test_tools_stand_between_their_two_special_tokens(format_: PromptFormat | ChatFormat) -> None:
    turns = [Turn("system", ("You have tools.", Tools(TOOLS))), Turn("user", ("Rain?",))]

    ids = format_.write(turns)

    notation = f"<|system|>You have tools.<|tool|>{TOOLS}<|/tool|><|end|><|user|>Rain?<|end|>"
    assert ids == PHI4.backend.encode(notation + "<|assistant|>").ids
    assert {200023, 200024} <= set(ids)


def test_a_documents_text_never_declares_tools() -> None:
    ids = phi_4("text").write([Turn("user", (f"<|tool|>{TOOLS}<|/tool|>",))])

    assert not {200023, 200024} & set(ids)


@pytest.mark.parametrize(
    ("format_", "turns", "reason"),
    [
        (phi_4("text"), [Turn("user", (Tools(TOOLS), "?"))], "has tools"),
        (ChatFormat(PHI3), [Turn("system", (Tools(TOOLS),)), Turn("user", ("?",))], "no <|tool|>"),
    ],
)
def test_tools_where_none_may_be_are_refused(
    format_: PromptFormat | ChatFormat, turns: list[Turn], reason: str
) -> None:
    with pytest.raises(RequestRefused, match=reason.replace("|", r"\|")):
        format_.write(turns)


@pytest.mark.parametrize(
    ("media", "expected"),
    [
        ([a_clip(41)], [True]),
        ([a_clip(39)], [False]),  # one block, which has no filling
        ([a_clip(80.01)], [False]),  # 1,000 rows: two whole blocks
        ([a_clip(41), a_clip(3)], [False, False]),
        ([a_canvas(), a_clip(95)], [False, True]),
    ],
)
def test_the_only_clip_of_a_request_attends_to_what_fills_up_its_last_block(
    media: list[Canvas | Clip], expected: list[bool]
) -> None:
    has_image = any(isinstance(medium, Canvas) for medium in media)

    slots = phi_4("vision" if has_image else "speech").slots(media)

    assert [slot.attends_filling for slot in slots] == expected


def test_a_clip_alone_and_beside_another_are_encoded_for_themselves() -> None:
    clip = a_clip(41)

    alone, beside, _ = (
        *phi_4("speech").slots([clip]),
        *phi_4("speech").slots([clip, a_clip(1, key="b")]),
    )

    assert alone.key != beside.key
