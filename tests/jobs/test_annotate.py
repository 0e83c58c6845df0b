from __future__ import annotations

from pathlib import Path

import pytest

from jobs.annotate import script
from phicorpus import cli


def test_a_wrong_config_ends_the_job_as_it_ends_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(lambda: script(str(tmp_path / "none.yaml")))

    assert ended.value.code == 2
    assert "cannot read config" in capsys.readouterr().err
