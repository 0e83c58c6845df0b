"""Annotate four images without Ray, by the package that this is run on, and check the output."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from phicorpus.commands.verify import verify
from phicorpus.storage.store import open_store
from tests.builders import a_finished_output


def main(folder: str) -> None:
    """Print what there is, and what `verify` minds."""
    output = a_finished_output(Path(folder), num_images=4, failed=["2"])
    found = verify(open_store(str(output)))
    print(json.dumps({"output": str(output), "problems": list(map(str, found.problems))}))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
