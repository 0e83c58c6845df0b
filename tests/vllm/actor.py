"""A process with an engine on vLLM that waits to be killed."""

import time

from phicorpus.engine.vllm.engine import VllmEngine
from tests.engine.builders import FakeModel
from tests.vllm.builders import HIDDEN, engine_config


def main() -> None:
    engine = VllmEngine(FakeModel(hidden=HIDDEN), engine_config())
    print("ready", engine.stats().extra, flush=True)  # noqa: T201 - whoever waits reads it
    time.sleep(600)


if __name__ == "__main__":
    main()
