"""Our prompts against the whole tokenizer reading the template's text, for texts of all kinds."""

from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pipeline.models.model import Turn
from pipeline.models.phi3.prompt import ChatFormat
from pipeline.models.phi4_multimodal.image import ImagePreparation
from pipeline.models.phi4_multimodal.prompt import PromptFormat
from pipeline.models.tokenizer import PromptTokenizer

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
