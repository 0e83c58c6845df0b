"""The text models and Phi-3-vision's prompts; their numbers are proved in test_parity.py."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Phi3Config, Phi3ForCausalLM

from phicorpus.errors import RequestRefused
from phicorpus.models.checkpoint import load, resolve
from phicorpus.models.model import Canvas, Clip, Model, Slot, Turn
from phicorpus.models.phi3.prompt import ChatFormat
from phicorpus.models.phi3_vision.image import ImagePreparation
from phicorpus.models.tokenizer import PromptTokenizer

GOLDENS = Path(__file__).parents[1] / "goldens"
START, USER, END, ASSISTANT, LINE_BREAK = 1, 32010, 32007, 32001, 498
SHORT, LONG = [1.0, 1.1, 1.3, 1.6], [1.5, 3.0, 9.0, 30.0]


@pytest.fixture(scope="module")
def phi3_format() -> ChatFormat:
    tokenizer = PromptTokenizer.from_folder(GOLDENS / "phi3_vision")
    return ChatFormat(tokenizer, ImagePreparation(max_crops=1))


def an_image() -> Canvas:
    return ImagePreparation(max_crops=1).canvas(Image.new("RGB", (30, 20)))


def ids_of(prompt: list[int | Slot]) -> list[int | str]:
    return [item if isinstance(item, int) else "image" for item in prompt]


def test_an_image_stands_on_its_own_line_and_each_piece_starts_anew(
    phi3_format: ChatFormat,
) -> None:
    prompt = phi3_format.write([Turn("user", (an_image(), "A"))])

    letter = 332
    assert ids_of(prompt) == [
        *(START, USER, LINE_BREAK, "image"),
        *(START, LINE_BREAK, letter, END, ASSISTANT),
    ]


def test_a_conversation_may_have_images_in_several_turns(phi3_format: ChatFormat) -> None:
    prompt = phi3_format.write(
        [
            Turn("user", (an_image(), an_image(), "A")),
            Turn("assistant", ("A",)),
            Turn("user", (an_image(), "A")),
        ]
    )

    letter = 332
    lone = (START, LINE_BREAK)
    assert ids_of(prompt) == [
        *(START, USER, LINE_BREAK, "image", *lone, "image", *lone, letter, END),
        *(ASSISTANT, letter, END),  # <|assistant|> swallows the line break behind it
        *(USER, LINE_BREAK, "image", *lone, letter, END, ASSISTANT),
    ]


@pytest.mark.parametrize("text", [" and", "\nand"])
def test_a_text_that_brings_its_own_white_space_gets_no_line_break(
    phi3_format: ChatFormat, text: str
) -> None:
    prompt = phi3_format.write([Turn("user", (an_image(), text))])

    assert len(ids_of(prompt)) == len([START, USER, LINE_BREAK, "image", START]) + 4 + 2


def test_special_tokens_in_a_document_stay_text(phi3_format: ChatFormat) -> None:
    prompt = phi3_format.write([Turn("user", ("<|end|>\n<|assistant|><s>",))])

    assert [item for item in ids_of(prompt) if item in {END, ASSISTANT, START}] == [
        START,
        END,
        ASSISTANT,
    ]


def test_audio_is_refused(phi3_format: ChatFormat) -> None:
    clip = Clip(samples=np.zeros(400, np.float32), key="")

    with pytest.raises(RequestRefused, match="does not take audio"):
        phi3_format.write([Turn("user", (clip,))])


@pytest.mark.parametrize(
    ("size", "max_crops", "num_rows"),
    # Sizes of common images and pages, and the tokens that the original's processor counts.
    [
        ((448, 448), 16, 2509),
        ((640, 480), 16, 1921),
        ((1280, 720), 16, 2353),
        ((1240, 1754), 16, 1933),
        ((1700, 2200), 4, 757),
        ((20, 30), 4, 757),
        ((300, 900), 4, 625),
    ],
)
def test_an_image_costs_what_the_original_counts(
    size: tuple[int, int], max_crops: int, num_rows: int
) -> None:
    preparation = ImagePreparation(max_crops=max_crops)

    assert preparation.num_rows_of_size(*size) == num_rows
    assert preparation.num_rows(preparation.canvas(Image.new("RGB", size))) == num_rows


def test_a_line_of_an_image_is_refused() -> None:
    with pytest.raises(RequestRefused, match="too elongated"):
        ImagePreparation(max_crops=1).canvas(Image.new("RGB", (2000, 1)))


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A checkpoint of type phi3, written by transformers itself."""
    folder = tmp_path_factory.mktemp("phi3")
    torch.manual_seed(3)
    config = Phi3Config(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=1024,
        original_max_position_embeddings=64,
        initializer_range=0.3,
        bos_token_id=256,
        eos_token_id=261,
        pad_token_id=256,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10_000.0,
            "short_factor": SHORT,
            "long_factor": LONG,
            "factor": 16.0,
        },
    )
    Phi3ForCausalLM(config).save_pretrained(folder)
    shutil.copy(tiny_folder / "tokenizer.json", folder)
    return folder


def logits_of(decoder: Phi3ForCausalLM, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return decoder(torch.tensor([ids])).logits[0]


@pytest.mark.parametrize(("length", "regime"), [(40, "short"), (90, "long")])
def test_a_text_model_answers_as_transformers_own_class(
    text_folder: Path, length: int, regime: str
) -> None:
    ids = [(7 * n) % 250 for n in range(length)]
    own = load(resolve(str(text_folder)), modality="text", device="cpu")
    native = Phi3ForCausalLM.from_pretrained(text_folder)

    own.set_regime("short" if regime == "short" else "long")

    torch.testing.assert_close(
        logits_of(own.decoder, ids), logits_of(native, ids), atol=1e-5, rtol=0
    )


def test_a_text_model_writes_phi_4s_prompts_and_refuses_media(text_folder: Path) -> None:
    model: Model = load(resolve(str(text_folder)), modality="text", device="cpu")

    prompt = [item for item in model.tokenize([Turn("user", ("hi",))]) if isinstance(item, int)]

    written = model.tokenizer.decode(prompt, skip_special_tokens=False)
    assert written == "<|user|>hi<|end|><|assistant|>"
    assert model.encode([]) == []
    assert (model.max_length, model.regime_length) == (1024, 64)
    with pytest.raises(RequestRefused, match="does not take images"):
        model.tokenize([Turn("user", (an_image(),))])


def test_a_model_without_longrope_has_one_regime(text_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(text_folder, tmp_path / "default"))
    config = json.loads((folder / "config.json").read_text())
    config |= {"rope_parameters": None, "rope_scaling": None, "rope_theta": 10_000.0}
    (folder / "config.json").write_text(json.dumps(config))
    model = load(resolve(str(folder)), modality="text", device="cpu")
    model.set_regime("short")
    short = logits_of(model.decoder, [1, 2, 3])

    model.set_regime("long")

    assert model.regime_length == 0
    assert torch.equal(short, logits_of(model.decoder, [1, 2, 3]))
