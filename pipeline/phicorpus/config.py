"""The config of a job: one YAML, frozen, complete, unknown keys refused.

One model per section, which holds its own checks. No environment reads, no globals.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    ValidationError,
)
from pydantic_core import ErrorDetails

from phicorpus.errors import ConfigError

Device = Literal["auto", "cpu", "cuda", "mps", "npu"]
DType = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["none", "int8", "fp8"]
Modality = Literal["vision", "speech", "text"]
"""What a model is loaded for, and so which flow a task goes through."""
TaskName = str

_SHARE_OF_NO_PROGRESS = 0.9


class Section(BaseModel):
    """A part of the config: frozen, and closed against unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelConfig(Section):
    """Which model answers, and where it runs."""

    name: str = Field(description="Hub name, or local folder")
    revision: str | None = Field(
        default=None, description="Branch, tag or commit; default: the catalogue's"
    )
    adapters: tuple[str, ...] = Field(
        default=(), description="Hub names or folders of peft LoRA adapters, merged on top"
    )
    device: Device = "auto"
    dtype: DType = Field(
        default="auto", description="auto: bfloat16 where the device is fast at it"
    )
    attention: Literal["auto", "flash", "sdpa"] = "auto"
    quantization: Quantization = Field(
        default="none",
        description="Of the decoder's layers, to 8 bits: int8 anywhere, fp8 on Ada and Hopper. It"
        " changes answers, and so fingerprints",
    )


class RetryConfig(Section):
    """Asking again when an answer is a loop, is empty where it may not be, or cannot be read."""

    temperatures: tuple[Annotated[float, Field(gt=0, le=2)], ...] = Field(
        default=(0.2, 0.6), max_length=8, description="One more attempt at each; []: none"
    )
    no_repeat_ngram: Annotated[int, Field(ge=0, le=256)] = Field(
        default=16, description="Tokens that no further attempt says twice; 0: it may"
    )


class TaskConfig(Section):
    """How one task is asked."""

    prompt: Annotated[str, Field(pattern=r"\S")] | None = Field(
        default=None, description="Replaces the task's own prompt; not empty"
    )
    max_new_tokens: Annotated[int, Field(ge=1, le=16384)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0
    guide: bool = Field(
        default=False, description="Let the model write nothing but JSON of the task's form"
    )
    retry: RetryConfig = RetryConfig()


class FetchConfig(Section):
    """Reading assets."""

    allowed_schemes: tuple[str, ...] = ("file", "s3", "gs", "gcs", "abfs", "abfss", "az", "memory")
    allowed_prefixes: tuple[str, ...] = Field(
        default=(), description="Empty: any under the schemes"
    )
    max_asset_bytes: Annotated[int, Field(gt=0)] = 2 * 1024**3
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 4
    timeout_s: Annotated[float, Field(gt=0)] = Field(
        default=60.0, description="Longest wait for an asset's next bytes"
    )
    max_asset_s: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="Longest time for one asset, all attempts together; default, and at most: nine "
        "tenths of cluster.no_progress_timeout_s",
    )
    max_failures_at_start: Annotated[int, Field(ge=1)] | None = Field(
        default=32,
        description="Ends a run whose first so many assets all failed by their store, before any of"
        " it is published; null: never",
    )
    check_stores: bool = Field(
        default=True, description="Read one asset per bucket before anything starts"
    )
    allowed_networks: tuple[IPvAnyNetwork, ...] = Field(
        default=(),
        description="Networks that are not public and that http(s) may reach: 10.1.0.0/16",
    )
    storage_options: Mapping[str, Mapping[str, Any]] = Field(
        default_factory=dict, description="Passed to fsspec, by protocol: {s3: {endpoint_url: ...}}"
    )


class ImageConfig(Section):
    """Decoding images."""

    max_pixels: Annotated[int, Field(gt=0)] = 100_000_000
    max_memory_bytes: Annotated[int, Field(gt=0)] = Field(
        default=1280 * 1024**2,
        description="Estimated for decoding: WebP, JPEG 2000 and AVIF take twice what PNG takes",
    )
    max_frames: Annotated[int, Field(gt=0)] = Field(
        default=500, description="Pages of a TIFF, thumbnails counted"
    )
    max_scans: Annotated[int, Field(gt=0)] = Field(
        default=100, description="Of a JPEG; encoders write some ten"
    )
    timeout_s: Annotated[float, Field(gt=0)] = Field(
        default=60.0, description="To decode an image whose size does not bound the time"
    )
    max_crops: Annotated[int, Field(ge=1, le=64)] | None = Field(
        default=None, description="Crops per image; default: the model's"
    )


class DeckConfig(Section):
    """Decoding slide decks and PDF."""

    render: Literal["pixels", "native"] = Field(
        default="pixels",
        description="native: PPTX without LibreOffice, from its own text and charts only",
    )
    dpi: Annotated[int, Field(ge=36, le=600)] = 150
    max_side_px: Annotated[int, Field(ge=64, le=10_000)] = Field(
        default=1790,
        description="Caps the rendered page's long side: OCR of A4 just stays in short RoPE",
    )
    max_pages: Annotated[int, Field(gt=0)] = 1000
    render_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    max_memory_bytes: Annotated[int, Field(gt=0)] = 1536 * 1024**2
    max_member_bytes: Annotated[int, Field(gt=0)] = 128 * 1024**2
    max_unzipped_bytes: Annotated[int, Field(gt=0)] = 512 * 1024**2
    max_members: Annotated[int, Field(gt=0)] = 10_000
    max_zip_ratio: Annotated[float, Field(gt=1)] = 200.0
    max_chart_points: Annotated[int, Field(gt=0)] = Field(
        default=100_000,
        description="Of all series of a chart together; one with more is chart_unreadable",
    )
    max_table_cells: Annotated[int, Field(gt=0)] = Field(
        default=100_000,
        description="Of a page's table; one with more is native_incomplete",
    )


class AudioConfig(Section):
    """Decoding recordings."""

    max_hours: Annotated[float, Field(gt=0)] = 12.0
    max_samples: Annotated[int, Field(gt=0)] = Field(
        default=5_000_000_000,
        description="Decoded, of all channels, at the file's rate: 12 hours of stereo have 4.1e9",
    )
    channels: Literal["mix", "each"] = Field(
        default="mix", description="each: windows of every channel, as of a call's two sides"
    )
    min_window_s: Annotated[float, Field(gt=0)] = 15.0
    max_window_s: Annotated[float, Field(gt=0, le=40)] = 30.0
    vad: bool = Field(
        default=True, description="Cut at silences, and do not send silence to the model"
    )
    speech_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5


class TextConfig(Section):
    """Reading texts."""

    max_bytes: Annotated[int, Field(gt=0)] = 10 * 1024**2
    max_passage_bytes: Annotated[int, Field(ge=64)] = Field(
        default=9000,
        description="UTF-8, per request: with an answer of 1,000 tokens it stays in short RoPE",
    )


class DecodeConfig(Section):
    """The sections that decoding looks at, as the workers get them."""

    images: ImageConfig = ImageConfig()
    decks: DeckConfig = DeckConfig()
    audio: AudioConfig = AudioConfig()
    texts: TextConfig = TextConfig()


class UnitConfig(Section):
    """How many assets are committed together."""

    image: Annotated[int, Field(ge=1, le=4096)] = 64
    deck: Annotated[int, Field(ge=1, le=4096)] = 8
    audio: Annotated[int, Field(ge=1, le=4096)] = 8
    text: Annotated[int, Field(ge=1, le=4096)] = 64


EngineName = Literal["auto", "continuous", "static", "vllm"]
"""auto is continuous; so is static, which earlier configs and records name."""


class EngineConfig(Section):
    """What an engine runs with: `EngineSettings`, where all that was left open is decided."""

    name: EngineName = "auto"
    max_requests: Annotated[int, Field(ge=1, le=4096)] = 32
    max_batch_tokens: Annotated[int, Field(ge=16)] = 512
    page_size: Annotated[int, Field(ge=4)] = 32
    kv_cache_tokens: Annotated[int, Field(ge=256)] = 32_768
    feature_rows: Annotated[int, Field(ge=256)] = 32_768
    encode_batch: Annotated[int, Field(ge=1)] = 16
    deadline_s: Annotated[float, Field(gt=0)] = 600.0


class EngineSettings(Section):
    """Running the model inside an actor. Sizes left open follow from the device's memory."""

    name: EngineName = Field(
        default="auto",
        description="auto, continuous: our own, on every device; vllm: an extra; static, of earlier"
        " configs: as auto",
    )
    memory_share: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="Of the device's memory, for one replica; default: of a GPU cluster."
        "gpus_per_replica, on a CPU half of what is free, divided by cluster.replicas",
    )
    max_requests: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        default=None, description="Decoding at once; default: up to 256 on a GPU, 32 on a CPU"
    )
    max_batch_tokens: Annotated[int, Field(ge=16)] | None = Field(
        default=None, description="In one forward pass; default: up to 8192 on a GPU, 512 on a CPU"
    )
    page_size: Annotated[int, Field(ge=4)] | None = Field(
        default=None,
        description="Tokens per KV page; default: 256 on a GPU, 32 on a CPU. FlashAttention's own"
        " decoding needs a multiple of 256, ours takes any",
    )
    kv_cache_tokens: Annotated[int, Field(ge=256)] | None = Field(
        default=None, description="Prompts and answers of all that decode at once"
    )
    feature_rows: Annotated[int, Field(ge=256)] | None = Field(
        default=None, description="Encoded media kept for the requests whose prompts wait"
    )
    encode_batch: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Crops or clips encoded at once; default: up to 16"
    )
    deadline_s: Annotated[float, Field(gt=0)] = Field(
        default=600.0, description="Longest decoding of one answer; then it is cut"
    )


class ClusterConfig(Section):
    """Where the flow runs."""

    address: str | None = Field(
        default=None, description="None: Ray's default, else 'auto' or ray://..."
    )
    num_cpus: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Of a local cluster"
    )
    wait_for_nodes_s: Annotated[float, Field(ge=0)] = Field(
        default=300.0,
        description="Longest wait for a cluster at an address to have the CPUs and GPUs that the"
        " replicas need, which its autoscaler is asked for",
    )
    replicas: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto",
        description="Model actors per modality; auto: one for each share of a GPU, one on CPUs",
    )
    gpus_per_replica: Annotated[float, Field(ge=0)] | None = Field(
        default=None,
        description="Default: 1 where the cluster has GPUs or model.device is cuda, else 0",
    )
    cpus_per_replica: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="Default: 0.5 on CPUs; beside a GPU 3, which the engine, the encoders and the"
        " host's work keep busy, but no more than half of a node's CPUs for all its replicas",
    )
    fetch_cpus: Annotated[float, Field(gt=0)] = 0.25
    decode_cpus: Annotated[float, Field(gt=0)] = 0.5
    units_per_wave: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Units between which the replicas are kept; default: 16384, fewer where their"
        " rows are large, and 2048 where they are claimed",
    )
    claim_expiry_s: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="Drivers that share an output claim the units of a wave, so that none is worked"
        " on twice; a dead driver's claims expire. Default: no claims",
    )
    no_progress_timeout_s: Annotated[int, Field(ge=1)] = Field(
        default=900, description="Ends a worker that holds work and finishes nothing of it"
    )
    driver_timeout_s: Annotated[float, Field(gt=0)] = Field(
        default=3600.0,
        description="Ends the run, with exit code 6, when nothing has come from any worker for so "
        "long: from Ray's start on, loading the model included",
    )


class OutputStoreConfig(Section):
    """Writing and reading the output."""

    timeout_s: Annotated[float, Field(ge=1)] = Field(
        default=180.0,
        description="Longest time for one file, all attempts together; then the run ends with 5",
    )


class ErrorConfig(Section):
    """When a finished run counts as failed."""

    max_error_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.5,  # more is no matter of bad files: a wrong bucket, a wrong model
        description="Exit 3 when more than this share of annotations are errors",
    )
    max_unit_attempts: Annotated[int, Field(ge=1, le=10)] = 3


def _model_section(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


def _task_sections(value: object) -> object:
    if isinstance(value, str):
        value = [value]
    if isinstance(value, Mapping):
        sections = cast("Mapping[str, object]", value)
        return {name: _section_or_empty(section) for name, section in sections.items()}
    if isinstance(value, Sequence):
        names = cast("Sequence[str]", value)
        return {name: _section_or_empty(None) for name in names}
    return value


def _section_or_empty(section: object) -> object:
    """Return a section as it is, or a new empty one: overrides write into it."""
    return dict[str, object]() if section is None else section


class RunConfig(Section):
    """A whole job."""

    manifest: str = Field(description="Parquet: one file, a folder or prefix, or a glob")
    output: str = Field(description="Folder or prefix that gets annotations/, documents/ and runs/")
    model: Annotated[ModelConfig, BeforeValidator(_model_section)]
    tasks: Annotated[Mapping[TaskName, TaskConfig], BeforeValidator(_task_sections)] = Field(
        description="Names, or names with settings", min_length=1
    )
    generation: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="Another number answers everything anew, beside what is there; default: the "
        "newest that a run of the output has finished, as --reprocess all leaves it",
    )
    fetch: FetchConfig = FetchConfig()
    output_store: OutputStoreConfig = OutputStoreConfig()
    images: ImageConfig = ImageConfig()
    decks: DeckConfig = DeckConfig()
    audio: AudioConfig = AudioConfig()
    texts: TextConfig = TextConfig()
    units: UnitConfig = UnitConfig()
    engine: EngineSettings = EngineSettings()
    cluster: ClusterConfig = ClusterConfig()
    errors: ErrorConfig = ErrorConfig()

    @property
    def fetching(self) -> FetchConfig:
        """The section `fetch` as the workers get it.

        An asset ends as an error of its own before its worker is ended for making no progress,
        which would be blamed on the assets that it holds.
        """
        longest_s = _SHARE_OF_NO_PROGRESS * self.cluster.no_progress_timeout_s
        own_s = self.fetch.max_asset_s
        wanted_s = longest_s if own_s is None else min(own_s, longest_s)
        return self.fetch.model_copy(update={"max_asset_s": wanted_s})

    @property
    def decoding(self) -> DecodeConfig:
        """The sections that decoding looks at, apart from the job's secrets."""
        return DecodeConfig(**{name: getattr(self, name) for name in DecodeConfig.model_fields})


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a job's YAML and apply `key.path=value` overrides, whose values are YAML too.

    Raises:
        ConfigError: unreadable, not a mapping, an unknown key (with the nearest known one), a value
            out of range, or an override without "=".
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read config {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"config {path} is not YAML: byte {error.start} is not UTF-8; it takes a job's YAML, "
            "such as jobs/annotate.yaml"
        ) from error
    values = _yaml(text, f"{path} is not YAML")
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, found {type(values).__name__}")
    tree = cast("dict[str, Any]", values)
    for override in overrides:
        _apply(tree, override)
    return parse_config(tree, source=str(path))


def parse_config(values: Mapping[str, Any], *, source: str = "config") -> RunConfig:
    """Check a mapping against the config's models.

    Raises:
        ConfigError: every problem, one per line, each with its key.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        lines = [f"{source}: {line}" for line in _problems(error)]
        raise ConfigError("\n".join(lines)) from error


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice: of two sections YAML keeps the last, without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:  # noqa: ANN401 - PyYAML's
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value!r} stands twice", problem_mark=key.start_mark
                )
            seen.add(str(key.value))
        return node


def _yaml(text: str, wrong: str) -> object:
    """Read YAML; an error says on one line where and why, without the text: it may hold a key."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{wrong}: {where}{error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:  # the latter: a date that is none
        raise ConfigError(f"{wrong}: {str(error).partition(chr(10))[0]}") from error


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override!r}: expected key=value, such as decks.dpi=120")
    value = _yaml(text, f"--set {key}: the value is not YAML")
    *parents, leaf = key.split(".")
    node = tree
    for parent in parents:
        below = node.get(parent)
        if not isinstance(below, dict):
            below = dict(cast("dict[str, Any]", _section(parent, below)))
            node[parent] = below
        node = cast("dict[str, Any]", below)
    node[leaf] = value


def _section(name: str, value: object) -> object:
    if value is None:
        return {}
    if name == "model":
        return _model_section(value)
    if name == "tasks":
        return _task_sections(value)
    raise ConfigError(f"--set: {name} is a value, not a section")


_HINTS = {
    ("tasks", "too_short"): "name at least one task, such as ocr or caption",
    ("prompt", "string_pattern_mismatch"): "is empty; leave it out for the task's own prompt",
}
"""By key and pydantic's type of error, where its own words do not help."""


def _problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            yield f"unknown key {key!r}{_suggestion(problem['loc'])}"
        else:
            hint = _HINTS.get((str(problem["loc"][-1]), problem["type"]), problem["msg"])
            yield f"{key}: {hint}{_got(problem)}"


def _got(problem: ErrorDetails) -> str:
    """Repeat a wrong value; not what may hold keys of stores, as the whole config does."""
    is_whole = problem["type"] == "missing"  # pydantic gives what surrounds it
    is_secret = "storage_options" in problem["loc"]
    return "" if is_whole or is_secret else f" (got {problem['input']!r})"


def _suggestion(location: tuple[int | str, ...]) -> str:
    """Name the known key that is nearest to a wrong one."""
    section: type[BaseModel] = RunConfig
    for part in location[:-1]:
        if section is RunConfig and part == "tasks":
            section = TaskConfig
        elif part in section.model_fields:
            below = section.model_fields[str(part)].annotation
            if isinstance(below, type) and issubclass(below, BaseModel):
                section = below
    return nearest(str(location[-1]), section.model_fields, "keys")


def nearest(wrong: str, known: Iterable[str], kind: str) -> str:
    """End a message about an unknown word: with the nearest known one, or with all of them.

    Example:
        >>> nearest("urll", ["uri", "task"], "columns"), nearest("x", ["uri", "task"], "columns")
        ("; did you mean 'uri'?", '; known columns: uri, task')
    """
    words = list(known)
    near = difflib.get_close_matches(wrong, words, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known {kind}: {', '.join(words)}"
