"""The abilities in which engines differ, and the library that one is built on. No torch."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field

from phicorpus.config import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """The library whose inside an engine is built on.

    Attributes:
        packages: Published builds of it.
        version: The one that is known, of any patch.
        fix: What to do where it is another, or is not there.
    """

    packages: tuple[str, ...]
    version: str
    fix: str

    def installed(self) -> Mapping[str, str]:
        """Return the installed versions by package; normally one."""
        found: dict[str, str] = {}
        for package in self.packages:
            try:
                found[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
        return found

    def why_unknown(self, installed: Mapping[str, str]) -> str | None:
        """Return why an engine cannot be built on what is installed; None: it can."""
        if not installed:
            return f"{self.packages[0]} is not installed"
        package, version = next(iter(installed.items()))
        if version.startswith(self.version + "."):
            return None
        return f"{package} is {version}, known is {self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """The abilities in which engines differ.

    Attributes:
        shares_prefixes: Computes the prompt of several requests about one image once.
        recovers: A fault of the device costs no answer; else the process has to be replaced.
        decoder_per_regime: Requests that need the long LongRoPE factors get a second decoder, with
            weights and a KV cache of its own; else they run beside the others.
        devices: Those of `model.device` that it runs on; None: any.
        takes_attention: `model.attention` chooses the decoder's; else the engine brings its own.
        takes_quantization: Runs decoders whose weights `model.quantization` makes smaller.
        head_sizes: By package of its library: the dimensions of a head that it has kernels for.
        library: What it is built on.
    """

    shares_prefixes: bool = False
    recovers: bool = False
    decoder_per_regime: bool = False
    devices: frozenset[Device] | None = None
    takes_attention: bool = True
    takes_quantization: bool = True
    head_sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    library: Library | None = None
