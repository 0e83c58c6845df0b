"""The JSON that commands print with --json, for scripts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from phicorpus.errors import ConfigError

if TYPE_CHECKING:
    from phicorpus.commands.annotate import RunReport
    from phicorpus.commands.prepare import Prepared
    from phicorpus.commands.status import OutputStatus
    from phicorpus.commands.verify import Verification


def report_json(*reports: RunReport) -> str:
    """Return the last report as JSON, with its rates; those before it are under `before`."""
    *before, last = (report.fields() for report in reports)
    return json.dumps({**last, "before": before} if before else last)


def night_json(reports: Sequence[RunReport], standing: OutputStatus, verified: Verification) -> str:
    """Return all of a night as JSON: what was run, how the output stands, what `verify` found."""
    annotated, retried = (report.fields() for report in reports)
    return json.dumps(
        {
            "annotate": annotated,
            "retry": retried,
            "status": json.loads(status_json(standing)),
            "verify": {**asdict(verified), "is_right": verified.is_right},
        }
    )


def plan_json(job: Prepared) -> str:
    """Return a plan as JSON."""
    try:
        memory: Any = {modality: plan.fields for modality, plan in job.memory().items()}
    except ConfigError as error:
        memory = str(error)
    return json.dumps(
        {
            "model": job.backend.label,
            "fingerprints": {f"{t}/{k}": f for (t, k), f in job.plan.fingerprints.items()},
            "memory": memory,
            "num_uris_refused": job.places.num_refused,
            "first_uri_refused": job.places.example,
            **asdict(job.pending),
        },
    )


def status_json(found: OutputStatus) -> str:
    """Return an output's status as JSON, with the numbers that alerts are made of."""
    ratio = round(found.error_ratio, 6)
    alerts = {"num_pending_units": found.num_pending_units, "error_ratio": ratio}
    return json.dumps({**asdict(found), **alerts})
