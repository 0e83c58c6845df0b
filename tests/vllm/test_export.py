"""What is handed to vLLM: the decoder's files, and prompts with rows of media."""

import json
from collections import ChainMap
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from transformers import Phi3Config, Phi3ForCausalLM

from phicorpus.config import EngineConfig
from phicorpus.engine.encoder_cache import Medium
from phicorpus.engine.sequence import Prompt, Sequence
from phicorpus.engine.vllm import export
from phicorpus.engine.vllm.export import Vocabulary
from phicorpus.engine.vllm.media_rows import on_cpu, prompt
from phicorpus.engine.vllm.server import SPARE_BLOCKS, Size, engine_arguments
from phicorpus.models.checkpoint import load, resolve
from phicorpus.models.model import Slot
from phicorpus.models.random_checkpoint import write_tiny
from tests.engine.builders import BANNED_ID, STOP_ID, FakeModel, a_request, an_image


def logits_of(decoder: Phi3ForCausalLM, length: int) -> torch.Tensor:
    ids = torch.tensor([[(7 * n) % 250 for n in range(length)]])
    with torch.no_grad():
        return decoder(ids).logits[0]


def test_the_written_decoder_is_the_merged_one(tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny", seed=1)
    model = load(resolve(str(tmp_path / "tiny")), modality="vision", device="cpu")
    written = tmp_path / "written"
    written.mkdir()

    export.write(model, written, shard_bytes=20_000)

    config = json.loads((written / "config.json").read_text())
    assert config["architectures"] == ["Phi3ForCausalLM"]
    assert config["original_max_position_embeddings"] == 4096
    shards = [load_file(shard) for shard in written.glob("*.safetensors")]
    assert len(shards) > 1
    read = Phi3ForCausalLM(Phi3Config(**config)).eval()
    missing, unknown = read.load_state_dict(dict(ChainMap(*shards)), strict=False)
    assert (missing, unknown) == (["lm_head.weight"], [])  # tied
    read.tie_weights()
    torch.testing.assert_close(logits_of(read, 40), logits_of(model.decoder, 40), atol=1e-5, rtol=0)
    export.remove_weights(written)
    assert not list(written.glob("*.safetensors"))


def test_the_vocabulary_comes_back_as_it_was(tmp_path: Path) -> None:
    model = FakeModel()

    export.write(model, tmp_path)

    found = Vocabulary.read(tmp_path)
    assert found == Vocabulary.of(model)
    assert (found.stop_ids, found.banned_ids) == ((STOP_ID,), (BANNED_ID,))


def test_a_decoder_taken_apart_holds_next_to_nothing_and_knows_what_it_was() -> None:
    decoder = FakeModel().decoder

    export.take_apart(decoder)

    assert sum(parameter.numel() for parameter in decoder.parameters()) < 100
    assert (decoder.device, decoder.dtype) == (torch.device("cpu"), torch.float32)
    assert decoder.lm_head.weight.shape[1] == decoder.config.hidden_size


def test_a_sliding_window_is_told_in_vllms_words(tmp_path: Path) -> None:
    model = FakeModel()
    cast("Any", model.decoder.config).sliding_window = 64

    export.write(model, tmp_path)

    config = json.loads((tmp_path / "config.json").read_text())
    assert config["layer_types"] == ["sliding_attention"] * 2


def test_a_prompt_has_words_by_id_and_media_by_row() -> None:
    slot = Slot(an_image("a"), "image", 2)
    medium = Medium(slot, rows=torch.arange(8.0).view(2, 4))

    mixed = prompt(a_sequence([5, slot, 6]), [medium])

    assert mixed.token_ids == [5, 0, 0, 6]
    assert mixed.is_word == [True, False, False, True]
    assert mixed.features is not None
    assert mixed.features[1:3].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert prompt(a_sequence([5, 6]), []).features is None


def test_rows_that_are_not_finite_never_reach_vllm() -> None:
    with pytest.raises(ValueError, match="nan"):
        on_cpu(lambda _: [torch.zeros(2, 4), torch.full((1, 4), torch.inf)])([])


def test_the_kv_cache_has_a_block_for_each_that_is_promised() -> None:
    config = EngineConfig(page_size=32, max_requests=600, max_batch_tokens=512)

    arguments = engine_arguments(
        FakeModel(), Path("folder"), Size(max_length=512, num_blocks=10, config=config)
    )

    keys_and_values_of_a_token = 2 * 2 * 2 * 8 * 4  # layers, heads, dimensions, bytes
    blocks = 10 + SPARE_BLOCKS
    assert arguments["kv_cache_memory_bytes"] == blocks * 32 * keys_and_values_of_a_token
    assert arguments["max_num_batched_tokens"] == 600
    assert arguments["trust_remote_code"] is False


def a_sequence(parts: list[int | Slot]) -> Sequence:
    return Sequence(request=a_request("q"), prompt=Prompt(parts), rope_regime="short")
