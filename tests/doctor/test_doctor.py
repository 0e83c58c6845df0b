from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

from phicorpus.doctor import Finding, Machine, diagnose, render_findings

pytestmark = pytest.mark.slow


def a_machine(  # noqa: PLR0913 - a builder
    tmp_path: Path,
    *,
    programs: Sequence[str] = (),
    answers: dict[str, str] | None = None,
    modules: dict[str, str] | None = None,
    device: str | None = "",
    cuda: str | None = None,
    is_macos: bool = False,
) -> Machine:
    """A machine with these programs on its PATH; `answers` are by a program's name."""

    def output(command: Sequence[str]) -> str | None:
        return (answers or {}).get(Path(command[0]).name)

    return Machine(
        is_macos=is_macos,
        which=lambda name: f"/bin/{name}" if name in programs else None,
        output=output,
        version=(modules or {}).get,
        torch_device=lambda: device,
        torch_cuda=lambda: cuda,
        is_file=lambda path: Path(path).name in programs,
        font_folders=[str(tmp_path / "fonts")],
        temporary_folder=str(tmp_path),
        shared_folder=str(tmp_path),
        control_group=str(tmp_path / "cgroup"),
    )


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def shown(findings: list[Finding]) -> str:
    console = Console(width=20, no_color=True)  # narrow: install lines stay whole
    with console.capture() as capture:
        console.print(render_findings(findings), soft_wrap=True)
    return capture.get()


def test_this_machine_is_diagnosed_without_an_exception() -> None:
    findings = diagnose(Machine(torch_device=lambda: ""))

    assert len({finding.name for finding in findings}) == len(findings) >= 14
    assert json.loads(json.dumps([asdict(finding) for finding in findings]))
    assert all(finding.found and finding.stops_working for finding in findings)


def test_an_empty_machine_says_what_to_install_on_both_systems(tmp_path: Path) -> None:
    findings = by_name(diagnose(a_machine(tmp_path, device=None)))

    for name in ("LibreOffice", "fonts", "network isolation", "torch", "GPU", "s3fs"):
        assert not findings[name].ok, name
        assert findings[name].install.debian, name
    for name in ("LibreOffice", "fonts", "torch", "s3fs"):
        assert findings[name].install.macos, name
    table = shown(list(findings.values()))
    assert "brew install --cask libreoffice" in table
    assert "install: pip install 'phicorpus[s3]'\n" in table


def test_a_full_machine_is_told_nothing_to_install(tmp_path: Path) -> None:
    modules = {"torch": "2.13", "triton": "3.6", "flash_attn": "2.8"} | dict.fromkeys(
        ("s3fs", "gcsfs", "adlfs", "pillow_heif", "reportlab"), "1.0"
    )
    machine = a_machine(
        tmp_path,
        programs=("soffice", "fc-match", "bwrap", "gcc", "Python.h"),
        answers={
            "nvidia-smi": "580.65.06",
            "soffice": "LibreOffice 7.4.7.2",
            "fc-match": "Carlito,Caladea,Liberation Sans",
            "bwrap": "",
        },
        modules=modules,
        device="cuda: 1 x NVIDIA H200, 139 GiB",
        cuda="13.0",
    )

    findings = by_name(diagnose(machine))

    hardware = {"memory", "CPUs", "shared memory", "free disk"}
    assert [name for name, f in findings.items() if not f.ok and name not in hardware] == []
    assert findings["LibreOffice"].found == "/bin/soffice: LibreOffice 7.4.7.2"
    assert "install --no-install-recommends" not in shown(list(findings.values()))


@pytest.mark.parametrize(
    ("device", "level"), [("cuda: 1 x NVIDIA H200, 139 GiB", "useful"), ("mps", "optional")]
)
def test_what_gpu_kernels_need_is_missed_only_beside_an_nvidia_gpu(
    tmp_path: Path, device: str, level: str
) -> None:
    findings = by_name(diagnose(a_machine(tmp_path, device=device)))

    assert {findings[name].level for name in ("Triton", "C compiler")} == {level}


def test_a_libreoffice_that_does_not_run_is_not_found_good(tmp_path: Path) -> None:
    finding = by_name(diagnose(a_machine(tmp_path, programs=("soffice",))))["LibreOffice"]

    assert not finding.ok
    assert finding.found == "/bin/soffice: does not run"


def test_the_mac_application_is_found_off_the_path(tmp_path: Path) -> None:
    machine = a_machine(tmp_path, answers={"soffice": "LibreOffice 25.8"}, is_macos=True)
    in_applications = Machine(
        is_macos=True,
        which=machine.which,
        output=machine.output,
        version=machine.version,
        torch_device=machine.torch_device,
        is_file=lambda path: path.startswith("/Applications/LibreOffice.app"),
    )

    finding = by_name(diagnose(in_applications))["LibreOffice"]

    assert finding.ok
    assert finding.found.startswith("/Applications/LibreOffice.app")


def test_a_font_is_found_by_file_where_fontconfig_is_absent(tmp_path: Path) -> None:
    (tmp_path / "fonts/truetype").mkdir(parents=True)
    (tmp_path / "fonts/truetype/Carlito-Regular.ttf").touch()

    finding = by_name(diagnose(a_machine(tmp_path)))["fonts"]

    assert "Carlito" not in finding.found
    assert "Liberation Sans (for Arial)" in finding.found


@pytest.mark.parametrize(
    ("memory", "cpu", "ok"), [("max", "max 100000", True), ("1073741824", "50000 100000", False)]
)
def test_limits_of_a_container_count(tmp_path: Path, memory: str, cpu: str, ok: bool) -> None:
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "cgroup/memory.max").write_text(f"{memory}\n")
    (tmp_path / "cgroup/cpu.max").write_text(f"{cpu}\n")

    findings = by_name(diagnose(a_machine(tmp_path)))

    if not ok:
        assert findings["memory"].found == "1.0 GiB limit of this container"
        assert findings["CPUs"].found == "0.5"
        assert not findings["memory"].ok
        assert not findings["CPUs"].ok
    else:
        assert findings["memory"].found.endswith("of the machine")


def test_a_broken_gpu_is_not_a_gpu(tmp_path: Path) -> None:
    findings = by_name(diagnose(a_machine(tmp_path, device="broken: CUDA driver is too old")))

    assert findings["torch"].ok
    assert not findings["GPU"].ok
    assert "driver is too old" in findings["GPU"].found


@pytest.mark.parametrize(
    ("cuda", "driver", "why", "cure"),
    [
        ("13.0", "535.104.05", "built for CUDA 13.0, needs 580 or newer", "whl/cu126"),
        ("12.6", "470.57.02", "built for CUDA 12.6, needs 525 or newer", "a driver of 525"),
        (None, "580.65.06", "built without CUDA, and NVIDIA's driver 580.65.06", "pip uninstall"),
        ("13.0", "580.65.06", "though NVIDIA's driver 580.65.06 fits", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_gpu_that_torch_does_not_see_comes_with_the_reason_and_the_cure(
    tmp_path: Path, cuda: str | None, driver: str, why: str, cure: str
) -> None:
    machine = a_machine(
        tmp_path, modules={"torch": "2.13.0"}, cuda=cuda, answers={"nvidia-smi": driver}
    )

    findings = by_name(diagnose(machine))

    assert findings["NVIDIA driver"].found == driver
    assert not findings["GPU"].ok
    assert findings["GPU"].level == "useful"
    assert why in findings["GPU"].found
    assert cure in str(findings["GPU"].install.debian)
    assert why in shown(list(findings.values()))


def test_the_driver_of_several_gpus_is_told_once(tmp_path: Path) -> None:
    machine = a_machine(tmp_path, answers={"nvidia-smi": "580.65.06\n580.65.06"})

    assert by_name(diagnose(machine))["NVIDIA driver"].found == "580.65.06"


def test_what_torch_is_built_for_stands_beside_its_version(tmp_path: Path) -> None:
    found = [
        by_name(diagnose(a_machine(tmp_path, modules={"torch": "2.13.0"}, cuda=cuda)))["torch"]
        for cuda in ("13.0", None)
    ]

    assert [finding.found for finding in found] == [
        "2.13.0, built for CUDA 13.0",
        "2.13.0, built without CUDA",
    ]


@pytest.mark.parametrize(
    ("programs", "found"), [(("Python.h",), "not found"), (("gcc",), "/bin/gcc, no ")]
)
def test_beside_a_gpu_a_compiler_without_its_headers_is_missed(
    tmp_path: Path, programs: tuple[str, ...], found: str
) -> None:
    device = "cuda: 1 x NVIDIA H200, 139 GiB"
    machine = a_machine(tmp_path, device=device, cuda="13.0", programs=programs)

    finding = by_name(diagnose(machine))["C compiler"]

    assert (finding.ok, finding.level) == (False, "useful")
    assert finding.found.startswith(found)
    assert "libc6-dev" in str(finding.install.debian)
