"""Switches that keep libraries from reporting their use."""

from __future__ import annotations

import os

_SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime: an id and a queue of events in HOME, and a host
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
}


def turn_off_telemetry() -> None:
    """Keep libraries from reporting their use to their makers: corpora are private.

    Call it before such a library is imported; importing this project does. What the environment
    says otherwise is overridden, but for Ray's, which its cluster's owner decides.
    """
    for name, value in _SWITCHES.items():
        if name == "RAY_USAGE_STATS_ENABLED":
            os.environ.setdefault(name, value)
        else:
            os.environ[name] = value
