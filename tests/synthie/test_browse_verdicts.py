"""Verdicts given by hand: kept for good, one at a time, whatever happens meanwhile."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from synthie.browse.verdicts import FILE, HandVerdicts, StaleVerdictError, hand_verdicts
from synthie.errors import InputError, StorageError


def add(folder: Path, key: str, verdict: str | None, **fields: object) -> None:
    HandVerdicts(folder / FILE).add(key, verdict, **({"id": 1, "gate": "accepted"} | fields))  # type: ignore[arg-type]


def test_without_a_file_there_are_no_verdicts(tmp_path: Path) -> None:
    assert hand_verdicts(tmp_path) == {}


def test_the_last_verdict_on_a_text_holds_and_a_withdrawn_one_is_gone(tmp_path: Path) -> None:
    add(tmp_path, "a", "accept")
    add(tmp_path, "b", "reject")
    add(tmp_path, "a", "reject", note="on second thoughts")
    add(tmp_path, "b", None)
    assert hand_verdicts(tmp_path) == {"a": "reject"}


def test_the_file_keeps_every_line_with_time_old_verdict_and_what_the_checks_said(tmp_path: Path) -> None:
    add(tmp_path, "a", "accept", gate="rejected", id=7)
    add(tmp_path, "a", None, gate="rejected", id=7)
    first, second = map(json.loads, (tmp_path / FILE).read_text().splitlines())
    assert first.pop("time") <= second.pop("time")
    assert first == {"request_key": "a", "id": 7, "verdict": "accept", "was": None, "gate": "rejected", "note": ""}
    assert (second["verdict"], second["was"]) == (None, "accept")


def test_half_a_line_of_a_crash_is_passed_over_and_then_cut_off(tmp_path: Path) -> None:
    add(tmp_path, "a", "accept")
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"time":"2026')
    assert hand_verdicts(tmp_path) == {"a": "accept"}
    add(tmp_path, "b", "reject")
    assert hand_verdicts(tmp_path) == {"a": "accept", "b": "reject"}
    assert len((tmp_path / FILE).read_text().splitlines()) == 2


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    add(tmp_path, "a", "accept")
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"verdict":"maybe"}\n')
    with pytest.raises(InputError, match=r"Line 2 of .*hand_verdicts\.jsonl"):
        hand_verdicts(tmp_path)


def test_a_reader_sees_what_others_add_and_notices_that_the_file_was_replaced(tmp_path: Path) -> None:
    reader = HandVerdicts(tmp_path / FILE)
    add(tmp_path, "a", "accept")
    assert set(reader.current()) == {"a"}
    add(tmp_path, "b", "accept")
    assert set(reader.current()) == {"a", "b"}
    (tmp_path / FILE).unlink()
    assert reader.current() == {}
    add(tmp_path, "c", "reject")
    assert set(reader.current()) == {"c"}


def test_a_verdict_that_expects_another_one_to_hold_is_refused(tmp_path: Path) -> None:
    add(tmp_path, "a", "accept")
    with pytest.raises(StaleVerdictError):
        add(tmp_path, "a", None, expected="reject")
    with pytest.raises(StaleVerdictError):
        add(tmp_path, "a", "reject", expected=None)
    assert hand_verdicts(tmp_path) == {"a": "accept"}


def test_a_verdict_that_the_disk_refuses_is_an_error_and_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path, "a", "accept")

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="disk is full"):
            add(tmp_path, "a", "reject")
    assert hand_verdicts(tmp_path) == {"a": "accept"}
    add(tmp_path, "b", "reject")
    assert hand_verdicts(tmp_path) == {"a": "accept", "b": "reject"}


_WRITER = """
import sys
from pathlib import Path
from synthie.browse.verdicts import HandVerdicts
for number in range(40):
    key = f"{sys.argv[2]}-{number}"
    HandVerdicts(Path(sys.argv[1])).add(key, "accept", id=number, gate="accepted", note="x" * 500)
"""


def test_processes_that_write_at_the_same_time_lose_and_mix_nothing(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, tmp_path / FILE, str(writer)], stderr=subprocess.PIPE)
        for writer in range(3)
    ]
    assert [writer.communicate(timeout=240)[1] for writer in writers] == [b"", b"", b""]
    assert len(hand_verdicts(tmp_path)) == 120
