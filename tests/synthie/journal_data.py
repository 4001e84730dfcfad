"""Journals for tests: numbered records, what a folder holds as others see it, damage."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hypothesis import strategies as st

from synthie.llm.journal import KEY_BYTES, Journal, Record

RECORDS = st.builds(
    Record,
    key=st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES),
    cost=st.integers(0, 10**13),
    text=st.text(max_size=60),
    finish_reason=st.none() | st.text(max_size=10),
    model=st.text(max_size=10),
    input_tokens=st.integers(0, 10**9),
    cached_input_tokens=st.integers(0, 10**9),
    output_tokens=st.integers(0, 10**9),
    latency_s=st.floats(0, 1e6),
    attempts=st.integers(1, 1_000),
    time=st.floats(0, 1e10),
    endpoint=st.text(max_size=20),
)


def key_of(number: int) -> bytes:
    return hashlib.blake2b(str(number).encode(), digest_size=KEY_BYTES).digest()


def record_of(number: int, text: str = "") -> Record:
    return Record(
        key=key_of(number),
        cost=1_000 + number,
        text=text or f"Text {number} — Zürich.",
        finish_reason="stop",
        model="m",
        input_tokens=number,
        output_tokens=2,
        latency_s=0.25,
        attempts=3,
        time=1.5,
        endpoint="http://127.0.0.1:1/v1",
    )


def segment(folder: Path, number: int = 1) -> Path:
    return folder / f"{number:06d}.journal"


def fill(folder: Path, count: int, first: int = 0) -> list[int]:
    """Append ``count`` records to the first segment; returns its size after each."""
    sizes = []
    with Journal(folder) as journal:
        for number in range(first, first + count):
            journal.append(record_of(number))
            sizes.append(segment(folder).stat().st_size if segment(folder).exists() else 0)
    return sizes


def content(folder: Path) -> tuple[dict[bytes, Record | None], int]:
    """Every record by its key, and the total spent, as a run that opens the journal finds them."""
    with Journal(folder) as journal:
        return {key: journal.get(key) for key in journal.keys()}, journal.spent  # noqa: SIM118


def flip(path: Path, position: int, flipped: int = 0xFF) -> None:
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= flipped
    path.write_bytes(data)
