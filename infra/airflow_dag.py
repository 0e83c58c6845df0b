"""A night on Airflow 3: annotate, retry, status, verify, as the README's "Running it every night".

Change: JOB, OUTPUT, the hour; put your pager into `alert`. Airflow's workers need
`phicorpus[run]`, the rights to read the assets and to write the output, and a job whose
`cluster.address` names a Ray cluster that they are nodes of, or room for the models themselves.
Where they have neither, cronjob.yaml runs the night on Kubernetes.

What reads the rows is scheduled on the asset and so starts after a night that was verified, and
after no other:

    with DAG("readers", schedule=[Asset(OUTPUT)]): ...
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import DAG, Asset, BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

log = logging.getLogger(__name__)

JOB = "/etc/phicorpus/job.yaml"
OUTPUT = "s3://example-bucket/annotations"

COMMANDS = {
    "annotate": f"phicorpus --log-json annotate {JOB} --json",
    "retry": f"phicorpus --log-json retry {JOB} --json",
    "status": f"phicorpus status {OUTPUT} --json",
    "verify": f"phicorpus verify {OUTPUT} --json",
}
AGAIN = (5, 6, 130, 143)
"""The same command goes on where it was: a busy store, lost workers, Ctrl-C, SIGTERM."""
TOO_MANY_ERRORS = 3
"""The run is finished and its rows are right, but more of them are errors than the job allows."""


class Phicorpus(BaseOperator):
    """Run one command; its exit code says whether to go on, to try again, or to give up.

    0 is success; 3 is skipped, which holds up nothing; `AGAIN`, and a command that a
    signal killed, are retried; anything else fails at once, as it would each time: 4 is an output
    that is not right, 2 a wrong config. The last line printed, `--json`'s document, is the XCom.
    """

    template_fields = ("command",)

    def __init__(self, *, command: str, **kwargs: Any) -> None:  # noqa: ANN401 - Airflow's own
        super().__init__(**kwargs)
        self.command = command
        self._hook = SubprocessHook()

    def execute(self, context: Any) -> str:  # noqa: ANN401, ARG002 - Airflow's own
        ended = self._hook.run_command(["bash", "-c", self.command])
        if ended.exit_code == 0:
            return ended.output
        said = f"exit code {ended.exit_code}: {self.command}"
        if ended.exit_code == TOO_MANY_ERRORS:
            raise AirflowSkipException(said)
        if ended.exit_code in AGAIN or ended.exit_code < 0:
            raise AirflowException(said)
        raise AirflowFailException(said)

    def on_kill(self) -> None:
        """Let the unit that is being published finish: the command's answer to SIGTERM."""
        self._hook.send_sigterm()


def alert(context: Any) -> None:  # noqa: ANN401 - Airflow's own
    """Report that a task failed, or a night had more errors than the job allows."""
    why = context.get("exception") or "more of the rows are errors than the job allows"
    log.error("phicorpus: %s: %s", context["task_instance"].task_id, why)


with DAG(
    "phicorpus",
    schedule="30 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,  # two at once are right, and waste GPUs
    default_args={
        "retries": 3,
        "retry_delay": timedelta(minutes=5),
        "retry_exponential_backoff": True,
        "execution_timeout": timedelta(days=2),  # above the longest run you expect
        "trigger_rule": "none_failed",  # a night with too many errors is verified all the same
        "on_failure_callback": alert,
    },
) as dag:
    annotate = Phicorpus(task_id="annotate", command=COMMANDS["annotate"])
    # Its exit code judges all rows, what this night's annotate made included.
    retry = Phicorpus(task_id="retry", command=COMMANDS["retry"], on_skipped_callback=alert)
    status = Phicorpus(task_id="status", command=COMMANDS["status"])
    verify = Phicorpus(task_id="verify", command=COMMANDS["verify"], outlets=[Asset(OUTPUT)])
    annotate >> retry >> status >> verify
