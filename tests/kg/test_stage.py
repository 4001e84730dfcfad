"""The stage contract: idempotence, the manifest, the lock, and errors of the storage."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import textwrap
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from kg.errors import BusyError, InputError, StorageError
from kg.stage import file_digest, find_damage, lock_owner, read_manifest, run_stage, write_atomic


def stage(folder: Path, text: str = "result", config: dict[str, Any] | None = None, **options: Any) -> Any:
    def work(place: Path) -> dict[str, int]:
        (place / "out.txt").write_text(text)
        return {"characters": len(text)}

    return run_stage("test", folder, config=config or {}, inputs={"in": "1"}, seed=0, work=work, **options)


def test_a_finished_stage_is_recognised_and_not_repeated(tmp_path: Path) -> None:
    first = stage(tmp_path / "a", "first")
    second = stage(tmp_path / "a", "second")
    assert (first.reused, second.reused) == (False, True)
    assert (tmp_path / "a/out.txt").read_text() == "first"
    assert second.output_hash == first.output_hash


def test_the_manifest_describes_the_result(tmp_path: Path) -> None:
    stage(tmp_path, config={"n": 3})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["config"] == {"n": 3}
    assert manifest["counts"] == {"characters": 6}
    assert list(manifest["outputs"]) == ["out.txt"]
    assert manifest["outputs"]["out.txt"] == file_digest(tmp_path / "out.txt")
    assert "reused" not in manifest
    assert read_manifest(tmp_path).seconds >= 0


def test_another_configuration_clears_old_results_but_keeps_what_was_paid_for(tmp_path: Path) -> None:
    stage(tmp_path, config={"n": 1})
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal/paid").write_text("gold")
    (tmp_path / "leftover.txt").write_text("old")
    manifest = stage(tmp_path, config={"n": 2}, keep=("journal",))
    assert not manifest.reused
    assert (tmp_path / "journal/paid").read_text() == "gold"
    assert not (tmp_path / "leftover.txt").exists()
    assert list(manifest.outputs) == ["out.txt"]


def test_results_of_an_older_configuration_are_destroyed_only_when_the_new_ones_are_complete(tmp_path: Path) -> None:
    def fail(place: Path) -> dict[str, int]:
        (place / "part.txt").write_text("half")
        raise InputError("a typing error in the configuration")

    first = stage(tmp_path, "first", config={"n": 1})
    with pytest.raises(InputError, match="typing error"):
        run_stage("test", tmp_path, config={"n": 2}, inputs={"in": "1"}, seed=0, work=fail)
    with pytest.raises(InputError, match="typing error"):
        run_stage("test", tmp_path, config={"n": 3}, inputs={"in": "1"}, seed=0, work=fail)
    again = stage(tmp_path, "never computed", config={"n": 1})
    assert again.reused
    assert again.output_hash == first.output_hash
    assert (tmp_path / "out.txt").read_text() == "first"
    assert not (tmp_path / "part.txt").exists()

    assert not stage(tmp_path, "second", config={"n": 2}).reused
    assert {path.name for path in tmp_path.iterdir()} == {"out.txt", "manifest.json", ".lock"}


def test_a_missing_output_makes_the_stage_run_again(tmp_path: Path) -> None:
    stage(tmp_path)
    (tmp_path / "out.txt").unlink()
    assert not stage(tmp_path).reused


def test_interrupted_work_with_the_same_configuration_is_left_to_the_stage(tmp_path: Path) -> None:
    def fail(place: Path) -> dict[str, int]:
        (place / "part.txt").write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        run_stage("test", tmp_path, config={}, inputs={"in": "1"}, seed=0, work=fail)
    with pytest.raises(InputError, match="no finished stage"):
        read_manifest(tmp_path)
    stage(tmp_path)
    assert (tmp_path / "part.txt").exists()


def test_who_locked_a_folder_last_is_known_without_locking_it(tmp_path: Path) -> None:
    assert lock_owner(tmp_path) is None
    stage(tmp_path)
    owner = lock_owner(tmp_path)
    assert owner is not None
    assert (owner.pid, owner.host, owner.lock) == (os.getpid(), socket.gethostname(), tmp_path / ".lock")
    assert datetime.fromisoformat(owner.since).tzinfo is not None
    (tmp_path / ".lock").write_text("")  # a kill in the moment of writing
    owner = lock_owner(tmp_path)
    assert owner is not None
    assert (owner.pid, owner.host, owner.since) == (0, "", "")


def test_a_second_process_is_refused_and_the_lock_dies_with_its_owner(tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        from kg.stage import run_stage
        def work(place):
            print("working", flush=True)
            time.sleep(60)
        run_stage("test", Path({str(tmp_path)!r}), config={{}}, inputs={{}}, seed=0, work=work)
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "working\n"
        with pytest.raises(BusyError, match=f"pid {owner.pid} "):
            stage(tmp_path)
        owner.kill()
    assert not stage(tmp_path).reused


def test_a_file_in_place_of_the_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("I am a file")
    with pytest.raises(StorageError, match="Choose another run folder"):
        stage(tmp_path / "run" / "kg")


def test_an_unwritable_folder_is_a_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    # Root may write to any ordinary folder, but not to sysfs.
    folder = tmp_path if os.geteuid() else Path("/sys/kernel")
    with pytest.raises(StorageError, match=r"cannot be written|read-only"):
        stage(folder / "kg")


def test_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    def work(place: Path) -> dict[str, int]:
        with Path("/dev/full").open("w") as file:
            file.write("x" * 100_000)
        return {}

    with pytest.raises(StorageError, match="disk is full"):
        run_stage("test", tmp_path, config={}, inputs={}, seed=0, work=work)


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"stage": ')
    with pytest.raises(InputError, match=r"manifest\.json is damaged"):
        read_manifest(tmp_path)
    assert not stage(tmp_path).reused


def test_a_lost_output_is_named_to_the_next_stage(tmp_path: Path) -> None:
    stage(tmp_path)
    lost = next(name for name in read_manifest(tmp_path).outputs)
    (tmp_path / lost).unlink()
    with pytest.raises(InputError, match=rf"{lost} is missing.* Run the stage that makes it again"):
        read_manifest(tmp_path)


def test_damage_is_found_by_the_content_of_the_files(tmp_path: Path) -> None:
    stage(tmp_path)
    assert find_damage(tmp_path) is None
    changed = tmp_path / next(name for name in read_manifest(tmp_path).outputs)
    changed.write_bytes(changed.read_bytes() + b"?")
    assert f"{changed} is damaged" in str(find_damage(tmp_path))
    assert "Run the stage that makes it first" in str(find_damage(tmp_path / "nothing"))


def test_readers_never_see_half_of_an_atomic_write(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, "a" * 1_000_000)
    writer = multiprocessing.get_context("spawn").Process(target=_rewrite, args=(path,))
    writer.start()
    lengths = set()
    while writer.is_alive():
        content = path.read_text()
        lengths.add((len(content), len(set(content))))
    writer.join()
    assert lengths <= {(1_000_000, 1), (2_000_000, 1)}
    assert sorted(tmp_path.iterdir()) == [path]


def _rewrite(path: Path) -> None:
    for turn in range(20):
        write_atomic(path, "ab"[turn % 2] * (1_000_000 * (1 + turn % 2)))
