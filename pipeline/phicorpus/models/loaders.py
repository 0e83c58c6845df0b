"""The loader of each architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from phicorpus.models.checkpoint import Architecture
from phicorpus.models.loading import Placement, Source
from phicorpus.models.model import Modality, Model
from phicorpus.models.phi3 import model as phi3
from phicorpus.models.phi3_vision import model as phi3_vision
from phicorpus.models.phi4_multimodal import model as phi4_multimodal

LOADERS: Mapping[Architecture, Callable[[Source, Modality, Placement], Model]] = {
    "phi4_multimodal": phi4_multimodal.load,
    "phi3_vision": phi3_vision.load,
    "phi3": phi3.load,
}
