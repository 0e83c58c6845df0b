"""Findings about this machine: what it has, what stops working without the rest, what installs it.

Probes only look: nothing is installed, changed or sent, and no probe raises.
"""

from __future__ import annotations

from phicorpus.doctor import hardware, software
from phicorpus.doctor.accelerators import accelerators
from phicorpus.doctor.finding import Finding, Install, Level, render_findings
from phicorpus.doctor.machine import Machine

__all__ = ["Finding", "Install", "Level", "Machine", "diagnose", "render_findings"]


def diagnose(machine: Machine | None = None) -> list[Finding]:
    """Look at this machine (or the given one). Takes some seconds, most of them to load torch."""
    machine = machine or Machine()
    return [
        software.libreoffice(machine),
        software.fonts(machine),
        software.isolation(machine),
        *accelerators(machine),
        *software.extras(machine),
        hardware.memory(machine),
        hardware.cpus(machine),
        hardware.shared_memory(machine),
        hardware.disk(machine),
    ]
