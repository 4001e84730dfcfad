"""Flow runs of this machine whose process has died without a word, marked as crashed, so that nobody waits for them.

A worker marks the runs of its own that die. This is for what it cannot see: runs that died together with their
worker, and sub-flows of runs that have ended. Where workers are on several machines, the automation of
``automations.yaml`` does the same by heartbeats; on SQLite its counting locks the database for whole minutes.
"""

from __future__ import annotations

from collections.abc import Iterator

import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Crashed

__all__ = ["mark_dead_runs"]

_MESSAGE = "The run's process has died. Start it again with the same parameters to go on."


def mark_dead_runs() -> int:
    """Mark those that died; returns their number. All workers of the server must be on this machine."""
    number = 0
    with get_client(sync_client=True) as client:
        while dead := list(_dead(client)):  # sub-flows of sub-flows die in turn
            for run in dead:
                client.set_flow_run_state(run.id, Crashed(message=_MESSAGE), force=True)
            number += len(dead)
    return number


def _dead(client: SyncPrefectClient) -> Iterator[FlowRun]:
    unfinished = FlowRunFilter.model_validate({"state": {"type": {"any_": [StateType.RUNNING, StateType.CANCELLING]}}})
    for run in client.read_flow_runs(flow_run_filter=unfinished):
        if run.parent_task_run_id is not None:
            parent = client.read_task_run(run.parent_task_run_id).flow_run_id
            if parent is not None and _is_over(client.read_flow_run(parent)):
                yield run
        elif run.infrastructure_pid is not None and not _lives(run.infrastructure_pid):
            yield run


def _is_over(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_final()


def _lives(infrastructure: str) -> bool:
    """Whether the process that Prefect names, as ``pid`` or ``host:pid``, runs a flow."""
    try:
        process = psutil.Process(int(infrastructure.rpartition(":")[2]))
        return process.status() != psutil.STATUS_ZOMBIE and any("prefect" in word for word in process.cmdline())
    except psutil.NoSuchProcess:
        return False
