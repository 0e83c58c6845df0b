from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest

from phicorpus.config import EngineConfig
from phicorpus.engine.continuous import ContinuousEngine
from phicorpus.engine.engine import Engine
from phicorpus.models.model import Model
from tests.engine.builders import engine_threads
from tests.engine.static import StaticEngine


@pytest.fixture(scope="session", autouse=True)
def imports_are_no_garbage() -> Iterator[None]:
    """Whenever its loop stops, the library collects garbage: spare it what was imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def start() -> Iterator[Callable[[Model, EngineConfig], ContinuousEngine]]:
    """The continuous engine; whatever it made is closed after the test, and no thread is left."""
    engines: list[ContinuousEngine] = []

    def make(model: Model, config: EngineConfig) -> ContinuousEngine:
        engines.append(ContinuousEngine(model, config))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()
    assert engine_threads() == []


@pytest.fixture(params=[ContinuousEngine, StaticEngine], ids=["continuous", "static"])
def load(request: pytest.FixtureRequest) -> Iterator[Callable[[Model, EngineConfig], Engine]]:
    """Each engine's class in turn, as `start`."""
    engines: list[Engine] = []

    def make(model: Model, config: EngineConfig) -> Engine:
        engines.append(request.param(model, config))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()
    assert engine_threads() == []
