"""Flow runs whose process is gone are marked as crashed, their sub-flows with them, and no others."""

import subprocess
import sys

from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.states import Running

from flows.recovery import mark_dead_runs


@flow
def parent() -> None:
    """Stands for a run."""


@flow
def child() -> None:
    """Stands for a stage of it."""


@task
def call() -> None:
    """Stands for the parent's call of the child."""


def running(client: SyncPrefectClient, pid: int) -> tuple[FlowRun, FlowRun]:
    """A run and its sub-flow that the server takes to be running in a process."""
    run = client.create_flow_run(parent, state=Running())
    client.update_flow_run(run.id, infrastructure_pid=str(pid))
    called = client.create_task_run(call, run.id, dynamic_key="0")
    return run, client.create_flow_run(child, state=Running(), parent_task_run_id=called.id)


def test_runs_without_a_process_are_marked_with_their_sub_flows(prefect_server: None) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with (
        get_client(sync_client=True) as client,
        subprocess.Popen([sys.executable, "-c", "input()", "prefect.engine"], stdin=subprocess.PIPE) as alive,
    ):
        dead, living = running(client, ended.pid), running(client, alive.pid)
        assert mark_dead_runs() == 2
        names = [[client.read_flow_run(run.id).state_name for run in runs] for runs in (dead, living)]
        assert names == [["Crashed", "Crashed"], ["Running", "Running"]]
        assert mark_dead_runs() == 0
