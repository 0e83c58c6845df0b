"""A replica's memory plan, by the published models' configs and the memory there is."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.gpu.full_size import PHI3_VISION, PHI4_MULTIMODAL
from phicorpus.cli.tables import show_plan
from phicorpus.commands.annotate import annotate
from phicorpus.commands.prepare import prepare
from phicorpus.config import EngineSettings, RunConfig
from phicorpus.engine.backend import phi_backend
from phicorpus.engine.memory import MemoryPlan, least_bytes, plan_memory
from phicorpus.engine.memory_budget import Budget, DeviceKind, cpu_budget, free_bytes
from phicorpus.errors import ConfigError
from phicorpus.models.memory_use import Footprint, footprint
from phicorpus.models.model import Modality
from phicorpus.models.random_checkpoint import write_tiny
from tests.engine.builders import logged

GB = 1_000_000_000
SIZES = ("max_requests", "max_batch_tokens", "kv_cache_tokens", "feature_rows", "encode_batch")
PHI4 = {
    modality: footprint("phi4_multimodal", PHI4_MULTIMODAL, modality, itemsize=2)
    for modality in ("vision", "speech", "text")
}
PHI3 = footprint("phi3_vision", PHI3_VISION, "vision", itemsize=2)


def planned(
    size: Footprint,
    num_bytes: int,
    device: DeviceKind = "gpu",
    chosen: Mapping[str, int] = MappingProxyType({}),
) -> MemoryPlan:
    budget = Budget(device=device, num_bytes=num_bytes, origin="0.5 of a test")
    sizes = EngineSettings.model_validate(chosen)
    return plan_memory(size, sizes, budget, label="a replica")


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny(folder, seed=1)
    return folder


def a_job(folder: Path, **engine: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "manifest": "m.parquet",
            "output": "out",
            "model": {"name": str(folder), "device": "cpu"},
            "tasks": ["ocr"],
            "engine": engine,
        }
    )


def test_the_published_models_take_what_their_cards_say() -> None:
    assert PHI3.weights == pytest.approx(8.29 * GB, rel=0.01)
    assert PHI4["vision"].weights == pytest.approx(9.7 * GB, rel=0.05)
    assert PHI4["vision"].kv_token == 2 * 32 * 8 * 128 * 2
    assert PHI3.kv_token == 2 * 32 * 32 * 96 * 2
    assert PHI4["text"].encoded_item == 0
    # 40 s of sound through 1,024 channels at half the rate and half the bands
    assert PHI4["speech"].encoded_item >= 1024 * 2000 * 40 * 2


def test_a_large_gpu_gets_the_sizes_that_are_worth_having() -> None:
    config = planned(PHI4["vision"], 141 * GB).config

    assert (config.max_requests, config.max_batch_tokens, config.page_size) == (256, 8192, 256)
    assert 700_000 < config.kv_cache_tokens <= 1_048_576
    assert config.encode_batch == 16


def test_four_replicas_on_a_gpu_get_less_each_and_fit() -> None:
    whole, quarter = planned(PHI4["vision"], 80 * GB), planned(PHI4["vision"], 20 * GB)

    assert quarter.config.kv_cache_tokens < whole.config.kv_cache_tokens
    assert sum(quarter.parts.values()) <= 20 * GB
    assert quarter.config.kv_cache_tokens >= 4096


def test_what_does_not_fit_is_refused_with_the_numbers_and_the_way_out() -> None:
    with pytest.raises(ConfigError) as refused:
        planned(PHI4["vision"], 8 * GB)

    for word in ("a replica needs", "weights 9.", "8.00 GB: 0.5 of a test", "gpus_per_replica"):
        assert word in str(refused.value)
    with pytest.raises(ConfigError, match=r"Make engine\.kv_cache_tokens smaller"):
        planned(PHI4["text"], 40 * GB, chosen={"kv_cache_tokens": 1_000_000})


def test_the_least_that_is_told_is_the_least_that_is_accepted() -> None:
    devices: tuple[DeviceKind, ...] = ("cpu", "gpu")
    for size in (*PHI4.values(), PHI3):
        for device in devices:
            least = least_bytes(size, device)
            planned(size, least, device)
            with pytest.raises(ConfigError):
                planned(size, int(0.99 * least), device)


def test_what_is_set_is_kept() -> None:
    chosen = {name: 300 + place for place, name in enumerate((*SIZES, "page_size"))}

    config = planned(PHI4["vision"], 400 * GB, chosen=chosen).config

    assert config.model_dump(include={*chosen}) == chosen


SET = st.fixed_dictionaries(
    {},
    optional={
        "max_requests": st.integers(1, 256),
        "max_batch_tokens": st.integers(16, 16_384),
        "page_size": st.sampled_from([4, 32, 256]),
        "kv_cache_tokens": st.integers(256, 300_000),
        "feature_rows": st.integers(256, 300_000),
        "encode_batch": st.integers(1, 64),
    },
)


@given(
    size=st.sampled_from([*PHI4.values(), PHI3]),
    smaller=st.integers(0, 200 * GB),
    more=st.integers(0, 50 * GB),
    device=st.sampled_from(["cpu", "gpu"]),
    chosen=SET,
)
def test_parts_fit_in_the_budget_and_more_memory_never_gives_less(
    size: Footprint, smaller: int, more: int, device: DeviceKind, chosen: dict[str, int]
) -> None:
    try:
        less = planned(size, smaller, device, chosen)
    except ConfigError:
        with pytest.raises(ConfigError):
            planned(size, smaller // 2, device, chosen)
        return
    larger = planned(size, smaller + more, device, chosen)

    for plan in (less, larger):
        assert sum(plan.parts.values()) <= plan.budget.num_bytes
        assert min(plan.parts.values()) >= 0
        assert plan.config.kv_cache_tokens >= plan.config.page_size
    for name in SIZES:
        assert getattr(larger.config, name) >= getattr(less.config, name)


@pytest.mark.parametrize("version", [1, 2])
def test_a_control_groups_limit_counts_and_what_it_caches_is_free(
    tmp_path: Path, version: int
) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/job\n" if version == 2 else "4:memory:/job\n3:cpu:/other\n")
    group = tmp_path / ("job" if version == 2 else "memory/job")
    group.mkdir(parents=True)
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    (group / names[0]).write_text("5000000\n")
    (group / names[1]).write_text("4000000\n")
    (group / "memory.stat").write_text(f"anon 7\n{names[2]} 500000\n")

    assert free_bytes(tmp_path, own) == 1_500_000
    (group / names[0]).write_text("max\n")
    assert free_bytes(tmp_path, own) > 50_000_000


def test_replicas_share_half_of_what_is_free() -> None:
    one, two = cpu_budget(None, 1), cpu_budget(None, 2)

    assert one.num_bytes == pytest.approx(free_bytes() / 2, rel=0.2)
    assert two.num_bytes == pytest.approx(one.num_bytes / 2, rel=0.2)
    assert cpu_budget(0.9, 4).num_bytes > one.num_bytes


@pytest.mark.parametrize("modality", ["vision", "speech"])
def test_a_replica_logs_its_plan_before_it_loads(tiny_folder: Path, modality: Modality) -> None:
    backend = phi_backend(a_job(tiny_folder, kv_cache_tokens=4096))
    promised = backend.plan_memory(modality)

    with logged() as records:
        backend.load(modality).close()

    (line,) = [record for record in records if record.msg == "replica's memory"]
    fields = vars(line)
    assert fields["modality"] == modality
    assert fields["kv_cache_tokens"] == 4096
    assert fields["weights_gb"] >= 0
    assert promised is not None
    assert promised.config.kv_cache_tokens == 4096


def test_a_job_whose_replica_does_not_fit_here_is_refused_before_anything_starts(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = [{"asset_id": "a", "uri": str(tmp_path / "a.png"), "media_type": "image/png"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet")
    places = {"manifest": str(tmp_path / "m.parquet"), "output": str(tmp_path / "out")}
    small = a_job(tiny_folder, memory_share=1e-6).model_copy(update=places)

    with pytest.raises(ConfigError, match="memory_share"):
        annotate(small)

    assert not (tmp_path / "out" / "runs").exists()
    show_plan(prepare(small))
    assert "not on this machine" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="memory_share"):
        phi_backend(small).load("vision")
