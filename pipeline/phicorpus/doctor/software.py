"""Programs, fonts and packages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from phicorpus.doctor.finding import Finding, Install
from phicorpus.doctor.machine import Machine

_MAC_LIBREOFFICE = "/Applications/LibreOffice.app/Contents/MacOS/soffice"
_FONTS = {"Carlito": "Calibri", "Liberation Sans": "Arial", "Caladea": "Cambria"}
_EXTRAS = (
    ("s3fs", "s3", "s3:// manifests, assets and outputs"),
    ("gcsfs", "gcs", "gs:// manifests, assets and outputs"),
    ("adlfs", "azure", "abfs:// and az:// manifests, assets and outputs"),
    ("pillow_heif", "heif", "HEIC images, such as iPhone photos: they become error rows"),
    ("reportlab", "demo", "phicorpus demo-corpus: it makes PDF decks with it"),
)


def libreoffice(machine: Machine) -> Finding:
    """Look for a LibreOffice that runs."""
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


def fonts(machine: Machine) -> Finding:
    """Look for fonts as wide as those of Office."""
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


def isolation(machine: Machine) -> Finding:
    """Look for a way to run a program without a network."""
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


def extras(machine: Machine) -> Iterator[Finding]:
    """Look for the packages of this project's extras."""
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
