"""What this machine has, what stops working without the rest, and how to install it.

Probes only look: nothing is installed, changed or sent, and no probe raises.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.markup import escape
from rich.table import Table

Level = Literal["required", "useful", "optional"]

_GIB = 1024**3
_PROBE_TIMEOUT_S = 30
_MIN_MEMORY_BYTES = 4 * _GIB
_MIN_SHARED_BYTES = 1 * _GIB
_MIN_DISK_BYTES = 5 * _GIB
_MIN_CPUS = 2
_MAC_LIBREOFFICE = "/Applications/LibreOffice.app/Contents/MacOS/soffice"
_FONTS = {"Carlito": "Calibri", "Liberation Sans": "Arial", "Caladea": "Cambria"}
_FONT_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    "/Applications/LibreOffice.app/Contents/Resources/fonts/truetype",
)
_EXTRAS = (
    ("s3fs", "s3", "s3:// manifests, assets and outputs"),
    ("gcsfs", "gcs", "gs:// manifests, assets and outputs"),
    ("adlfs", "azure", "abfs:// and az:// manifests, assets and outputs"),
    ("pillow_heif", "heif", "HEIC images, such as iPhone photos: they become error rows"),
    ("reportlab", "demo", "phicorpus demo-corpus: it makes PDF decks with it"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Install:
    """What to type, per system; None where there is nothing to install."""

    debian: str | None = None
    macos: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked for.

    Attributes:
        level: required: nothing runs well without it. useful: some assets become error rows, or
            are done less well. optional: only needed if you use it.
        found: What there is, in words: a version, a path, a size.
        stops_working: What one loses without it.
    """

    name: str
    level: Level
    ok: bool
    found: str
    stops_working: str
    install: Install = Install()


def _output(command: Sequence[str]) -> str | None:
    """Run a program; its output, or None where it is absent, fails or hangs."""
    try:
        done = subprocess.run(  # noqa: S603 - commands of this file only, no shell
            command,
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(module: str) -> str | None:
    """Give an installed module's version without importing it; None where it is absent."""
    try:
        if importlib.util.find_spec(module) is None:
            return None
    except (ImportError, ValueError):
        return None
    try:
        return importlib.metadata.version(module.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return "present"


def _torch_device() -> str | None:
    """Name the accelerator that torch sees; "" for none, None where torch does not load."""
    try:
        import torch  # noqa: PLC0415 - heavy
    except (ImportError, OSError):
        return None
    try:
        if torch.cuda.is_available():
            num, memory_bytes = torch.cuda.device_count(), torch.cuda.mem_get_info(0)[1]
            name = torch.cuda.get_device_name(0)
            return f"cuda: {num} x {name}, {memory_bytes / _GIB:.0f} GiB"
        if torch.backends.mps.is_available():
            return "mps: Apple GPU"
    except RuntimeError as error:
        return f"broken: {error}"
    return "npu: torch_npu is installed" if _version("torch_npu") else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The questions that probes ask; a test answers them by its own functions."""

    is_macos: bool = sys.platform == "darwin"
    which: Callable[[str], str | None] = shutil.which
    output: Callable[[Sequence[str]], str | None] = _output
    version: Callable[[str], str | None] = _version
    torch_device: Callable[[], str | None] = _torch_device
    is_file: Callable[[str], bool] = os.path.isfile
    font_folders: Sequence[str] = _FONT_FOLDERS
    temporary_folder: str = field(default_factory=tempfile.gettempdir)
    shared_folder: str = "/dev/shm"  # noqa: S108 - looked at, not written
    control_group: str = "/sys/fs/cgroup"


def diagnose(machine: Machine | None = None) -> list[Finding]:
    """Look at this machine (or the given one). Takes some seconds, most of them to load torch."""
    machine = machine or Machine()
    return [
        _libreoffice(machine),
        _fonts(machine),
        _isolation(machine),
        *_accelerators(machine),
        *_extras(machine),
        _memory(machine),
        _cpus(machine),
        _shared_memory(machine),
        _disk(machine),
    ]


def render_findings(findings: Sequence[Finding]) -> Table:
    """Show findings as a table, with the install lines of both systems where something lacks."""
    table = Table(title="phicorpus doctor", title_justify="left", show_lines=True, expand=False)
    for heading in ("", "what", "found", "without it", "install"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        missing = {"required": "[red]x[/red]", "useful": "[yellow]![/yellow]", "optional": "-"}
        lines = _install_lines(finding.install) if not finding.ok else ""
        table.add_row(
            "[green]ok[/green]" if finding.ok else missing[finding.level],
            finding.name,
            escape(finding.found),
            "" if finding.ok else finding.stops_working,
            escape(lines),
        )
    return table


def _install_lines(install: Install) -> str:
    if install.debian == install.macos:
        return install.debian or ""
    named = (("Debian/Ubuntu", install.debian), ("macOS", install.macos))
    return "\n".join(f"{system}: {line}" for system, line in named if line)


def _libreoffice(machine: Machine) -> Finding:
    paths = (machine.which("soffice"), machine.which("libreoffice"), _MAC_LIBREOFFICE)
    path = next((path for path in paths if path and machine.is_file(path)), None)
    version = machine.output([path, "--version"]) if path else None
    found = "not found" if path is None else f"{path}: {version or 'does not run'}"
    return Finding(
        name="LibreOffice",
        level="useful",
        ok=version is not None,
        found=found,
        stops_working="pictures of PPTX, PPT and ODP slides; decks.render: native still reads the "
        "text, notes, tables and charts of PPTX. PDF, images and audio do not need it",
        install=Install(
            debian="apt-get install --no-install-recommends libreoffice-impress",
            macos="brew install --cask libreoffice",
        ),
    )


def _fonts(machine: Machine) -> Finding:
    present = {name for name in _FONTS if _has_font(machine, name)}
    lacking = [f"{name} (for {_FONTS[name]})" for name in _FONTS if name not in present]
    return Finding(
        name="fonts",
        level="useful",
        ok=not lacking,
        found=f"lacking: {', '.join(lacking)}" if lacking else ", ".join(sorted(present)),
        stops_working="the true widths of Office fonts: slides are drawn with others, and text "
        "may wrap differently or be cut",
        install=Install(
            debian="apt-get install fonts-crosextra-carlito fonts-crosextra-caladea "
            "fonts-liberation",
            macos="brew install --cask font-carlito font-caladea font-liberation",
        ),
    )


def _has_font(machine: Machine, name: str) -> bool:
    if machine.which("fc-match"):
        matched = machine.output(["fc-match", "--format=%{family}", name])
        if matched is not None and name in matched:
            return True
    stem = name.replace(" ", "")
    folders = [Path(folder).expanduser() for folder in machine.font_folders]
    return any(
        next(folder.rglob(f"{stem}*.ttf"), None) is not None
        for folder in folders
        if folder.is_dir()
    )


def _isolation(machine: Machine) -> Finding:
    ways = {
        "bwrap": ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "true"],
        "unshare": ["unshare", "--net", "true"],
        "unshare (user namespace)": ["unshare", "--map-root-user", "--net", "true"],
    }
    working = [
        name
        for name, command in ways.items()
        if machine.which(command[0]) and machine.output(command) is not None
    ]
    return Finding(
        name="network isolation",
        level="useful",
        ok=bool(working),
        found=", ".join(working) or "none that works here",
        stops_working="the second wall around LibreOffice: that a hostile deck cannot reach the "
        "network then rests on its locked profile alone",
        install=Install(
            debian="apt-get install bubblewrap (a container must also allow user namespaces)",
            macos=None,
        ),
    )


def _accelerators(machine: Machine) -> Iterator[Finding]:
    version, device = machine.version("torch"), machine.torch_device()
    yield Finding(
        name="torch",
        level="required",
        ok=device is not None,
        found=version or "not found" if device is not None else "not found, or does not load",
        stops_working="every model",
        install=Install(debian="pip install phicorpus", macos="pip install phicorpus"),
    )
    has_device = bool(device) and not str(device).startswith("broken")
    yield Finding(
        name="GPU",
        level="optional",
        ok=has_device,
        found=device or "none that torch sees: models run on the CPU",
        stops_working="speed: the full Phi-4-multimodal wants a GPU of 24 GB or more; the small "
        "demonstration model runs anywhere",
        install=Install(
            debian="an NVIDIA driver, and torch built for CUDA (pytorch.org/get-started)"
        ),
    )
    flash = machine.version("flash_attn")
    yield Finding(
        name="flash-attn",
        level="optional",
        ok=flash is not None,
        found=flash or "not found",
        stops_working="model.attention: flash. The default, auto, uses torch's own kernels",
        install=Install(debian="pip install 'phicorpus[gpu]' (needs an NVIDIA GPU and nvcc)"),
    )


def _extras(machine: Machine) -> Iterator[Finding]:
    for module, extra, purpose in _EXTRAS:
        version = machine.version(module)
        line = f"pip install 'phicorpus[{extra}]'"
        yield Finding(
            name=module.replace("_", "-"),
            level="optional",
            ok=version is not None,
            found=version or "not found",
            stops_working=purpose,
            install=Install(debian=line, macos=line),
        )


def _memory(machine: Machine) -> Finding:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        total = 0
    limit = _number(Path(machine.control_group) / "memory.max")
    allowed = min(total, limit) if limit else total
    source = "limit of this container" if limit and limit < total else "of the machine"
    return Finding(
        name="memory",
        level="required",
        ok=allowed >= _MIN_MEMORY_BYTES,
        found=f"{allowed / _GIB:.1f} GiB {source}" if allowed else "unknown",
        stops_working=f"runs: Ray, a decoder and a model want {_MIN_MEMORY_BYTES // _GIB} GiB; "
        "with less the system kills one of them",
    )


def _cpus(machine: Machine) -> Finding:
    try:
        num = float(len(os.sched_getaffinity(0)))
    except AttributeError:  # macOS
        num = float(os.cpu_count() or 1)
    quota, _, period = _text(Path(machine.control_group) / "cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        num = min(num, int(quota) / int(period))
    return Finding(
        name="CPUs",
        level="useful",
        ok=num >= _MIN_CPUS,
        found=f"{num:g}",
        stops_working="speed: decoding waits for the model, and the model for decoding",
    )


def _shared_memory(machine: Machine) -> Finding:
    size = 0 if machine.is_macos else _free_bytes(machine.shared_folder)
    return Finding(
        name="shared memory",
        level="useful",
        ok=machine.is_macos or size >= _MIN_SHARED_BYTES,
        found="not used on macOS"
        if machine.is_macos
        else f"{size / _GIB:.1f} GiB free in {machine.shared_folder}",
        stops_working="speed: Ray then keeps its objects on disk",
        install=Install(
            debian="docker run --shm-size=8g ...; Kubernetes: an emptyDir with medium: Memory"
        ),
    )


def _disk(machine: Machine) -> Finding:
    size = _free_bytes(machine.temporary_folder)
    return Finding(
        name="free disk",
        level="required",
        ok=size >= _MIN_DISK_BYTES,
        found=f"{size / _GIB:.1f} GiB in {machine.temporary_folder}",
        stops_working=f"runs: Ray spills here, renders are made here; keep "
        f"{_MIN_DISK_BYTES // _GIB} GiB (and 12 GiB for the full model's weights, where "
        "huggingface_hub keeps them)",
    )


def _free_bytes(folder: str) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None
