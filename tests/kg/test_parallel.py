"""Mappers: every task's result once, errors that surface, workers that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from kg.errors import InputError, StorageError
from kg.parallel import in_processes, in_this_process


def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def refuse(number: int) -> int:
    if number == 3:
        raise InputError("3 is no number")
    return number


def count(folder_and_number: tuple[Path, int]) -> int:
    folder, number = folder_and_number
    (folder / str(number)).touch()
    if number == 2:
        raise InputError("2 is no number")
    time.sleep(0.02)
    return number


def die(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize(("workers", "tasks"), [(1, 5), (2, 0), (2, 1), (2, 9), (3, 2)])
def test_every_task_gives_its_result_once(workers: int, tasks: int) -> None:
    results = list(in_processes(workers)(square, range(tasks)))
    assert sorted(result for result, _ in results) == [number * number for number in range(tasks)]
    processes = {process for _, process in results}
    assert len(processes) <= workers
    assert (os.getpid() in processes) == (0 < min(workers, tasks) <= 1)


def test_results_come_one_by_one_in_this_process() -> None:
    begun: list[int] = []
    results = in_this_process(lambda number: begun.append(number) or number, [1, 2, 3])
    assert (next(results), begun) == (1, [1])


@pytest.mark.parametrize("workers", [1, 2])
def test_the_error_of_a_task_is_raised_as_it_is(workers: int) -> None:
    with pytest.raises(InputError, match=r"^3 is no number$"):
        list(in_processes(workers)(refuse, range(6)))


def test_after_an_error_no_queue_is_worked_through(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 is no number"):
        list(in_processes(2)(count, [(tmp_path, number) for number in range(100)]))
    assert len(list(tmp_path.iterdir())) < 20


def test_a_process_that_dies_is_a_clear_error() -> None:
    with pytest.raises(StorageError, match=r"killed, most likely for want of memory.*kg\.workers"):
        list(in_processes(2)(die, range(6)))


def test_a_caller_that_stops_early_leaves_no_process(tmp_path: Path) -> None:
    results = in_processes(2)(square, range(50))
    _, process = next(results)
    results.close()  # type: ignore[attr-defined]
    assert not Path(f"/proc/{process}").exists() or Path(f"/proc/{process}/stat").read_text().split()[2] == "Z"


def test_workers_take_arrow_s_memory_from_the_system() -> None:
    program = """
import sys
from kg.parallel import in_processes
assert "pyarrow" not in sys.modules
print(*in_processes(2)(eval, ["__import__('pyarrow').default_memory_pool().backend_name"] * 2))
"""
    environment = {name: value for name, value in os.environ.items() if name != "ARROW_DEFAULT_MEMORY_POOL"}
    for chosen, expected in (({}, "system"), ({"ARROW_DEFAULT_MEMORY_POOL": "mimalloc"}, "mimalloc")):
        backends = subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parents[2],
            env=environment | chosen,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        assert set(backends.split()) == {expected}


def test_workers_end_when_their_parent_is_killed() -> None:
    program = "import time; from kg.parallel import in_processes; list(in_processes(2)(time.sleep, [0, 600, 600, 600]))"
    with subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[2]) as parent:
        workers: list[psutil.Process] = []
        while len(workers) < 2:
            assert parent.poll() is None
            children = psutil.Process(parent.pid).children()
            workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
            time.sleep(0.01)
        time.sleep(0.5)  # so that most times they are at their tasks; at any other moment they have to end, too
        parent.kill()
    assert not psutil.wait_procs(workers, timeout=240)[1]
