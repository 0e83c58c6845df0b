"""A sink is a module beside output/sink.py and an entry in SINKS."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.examples.package import a_package, run_in

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


def test_rows_are_written_as_lines_too_once_their_sink_is_entered(tmp_path: Path) -> None:
    package = a_package(
        tmp_path / "source",
        added={"output/lines.py": HERE / "lines.py"},
        edited={
            "output/sink.py": [
                (
                    "from phicorpus.output.parquet import ParquetSink\n",
                    "from phicorpus.output.lines import LinesSink\n",
                ),
                ('{"parquet": ParquetSink', ', "lines": LinesSink'),
                ('SINK = SINKS["parquet"]\n', 'SINK = SINKS["lines"]\n'),
            ]
        },
    )

    printed = json.loads(run_in(package, tmp_path, str(HERE / "finish.py"), str(tmp_path / "job")))

    output = Path(printed["output"])
    assert printed["problems"] == []
    files = sorted(output.glob("annotations/*/*/*.parquet"))
    assert len(files) == 4
    for path in files:
        run_id = pq.read_schema(path).metadata[b"phicorpus.run_id"].decode()
        name = f"{path.stem}-{run_id}.jsonl"
        lines = output / "lines" / path.relative_to(output).with_name(name)
        rows = [json.loads(line) for line in lines.read_text().splitlines()]
        held = pq.ParquetFile(path).read().to_pylist()
        assert [(row["asset_id"], row["status"]) for row in rows] == [
            (row["asset_id"], row["status"]) for row in held
        ]
