"""What the store of paid responses costs: storing, opening, memory, reading back, compaction.

    python benchmarks/journal.py [--rows 1000000]

CPU seconds, each beside a plain way to the same end that is measured in the same run: a row committed to SQLite
(write-ahead log, ``synchronous=NORMAL``), which survives a killed process as the journal does; JSON lines read into a
dictionary of key -> byte offset. Memory is what opening adds to a process at its peak, in a process of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import resource
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec

from synthie.llm.compaction import compact
from synthie.llm.journal import KEY_BYTES, Journal, Record, read_journal

TEXT = "Albert Einstein was born in Ulm, a city on the Danube in Germany, and died in Princeton, New Jersey. " * 4
SQLITE_ROWS = 20_000  # a row costs the same however many there are
READ_ROWS = 20_000


def records(rows: int) -> Iterator[Record]:
    for number in range(rows):
        yield Record(
            key=hashlib.blake2b(number.to_bytes(8, "little"), digest_size=KEY_BYTES).digest(),
            cost=100_000 + number % 977,
            text=f"{number} {TEXT[number % 97 :]}",
            finish_reason="stop",
            model="gpt-4o-mini-2024-07-18",
            input_tokens=600 + number % 89,
            output_tokens=90 + number % 53,
            latency_s=1.234567,
            time=1_732_377_600.123 + number / 40,
            endpoint="https://api.openai.com/v1",
        )


def cpu_seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def store(folder: Path, rows: int) -> dict[str, float]:
    made = cpu_seconds(lambda: sum(1 for _ in records(rows)))
    with Journal(folder / "journal") as journal:
        stored = cpu_seconds(lambda: [journal.append(record) for record in records(rows)].clear()) - made
        index = journal.index_bytes / rows
    few = min(rows, SQLITE_ROWS)
    database = sqlite3.connect(folder / "rows.sqlite", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    database.execute("CREATE TABLE rows (key BLOB PRIMARY KEY, cost INTEGER, record BLOB) WITHOUT ROWID")

    def insert() -> None:
        for record in records(few):
            database.execute(
                "INSERT INTO rows VALUES (?, ?, ?)", (record.key, record.cost, msgspec.json.encode(record))
            )

    inserted = cpu_seconds(insert) - made * few / rows
    database.close()
    return {"append_us": stored / rows * 1e6, "sqlite_us": inserted / few * 1e6, "index_bytes": index}


def write_lines(folder: Path, rows: int) -> None:
    with (folder / "rows.jsonl").open("w") as file:
        for record in records(rows):
            file.write(json.dumps(msgspec.to_builtins(record)) + "\n")


def read_lines(folder: Path) -> float:
    def read() -> None:
        offset, found = 0, {}
        with (folder / "rows.jsonl").open("rb") as file:
            for line in file:
                found[json.loads(line)["key"]] = offset
                offset += len(line)

    return cpu_seconds(read)


def open_journal(folder: Path, rows: int) -> dict[str, float]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    journal = Journal(folder / "journal")
    opened = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    keys = [record.key for record in records(min(rows, READ_ROWS))]
    got = cpu_seconds(lambda: [journal.get(key) for key in keys])
    journal.close()
    return {"open_s": opened, "bytes_a_row": (peak - before) * 1024 / rows, "get_us": got / len(keys) * 1e6}


def look(folder: Path, rows: int) -> dict[str, float]:
    summary = read_journal(folder / "journal")
    return {"again_ms": cpu_seconds(lambda: read_journal(folder / "journal", summary)) * 1e3}


def pack(folder: Path, rows: int) -> dict[str, float]:
    started = time.process_time()
    done = compact(folder / "journal")
    assert done.rows == rows
    return {"compact_us": (time.process_time() - started) / rows * 1e6}


def lines(folder: Path, rows: int) -> dict[str, float]:
    write_lines(folder, rows)
    return {"lines_s": read_lines(folder)}


def _send(work: Callable[[Path, int], dict[str, float]], folder: Path, rows: int, sender: Connection) -> None:
    sender.send(work(folder, rows))


def alone(work: Callable[[Path, int], dict[str, float]], folder: Path, rows: int) -> dict[str, float]:
    """The figures of ``work`` in a fresh process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(work, folder, rows, sender))
    process.start()
    sender.close()
    figures = receiver.recv()
    process.join()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stored, opened = alone(store, folder, rows), alone(open_journal, folder, rows)
        plain, looked = alone(lines, folder, rows), alone(look, folder, rows)
        packed = alone(pack, folder, rows)
        reopened = alone(open_journal, folder, rows)
    ratio = stored["append_us"] / stored["sqlite_us"]
    print(f"{rows:,} responses of about 500 bytes; CPU time\n")
    print(
        f"append             {stored['append_us']:8.1f} µs a row; SQLite {stored['sqlite_us']:.1f} µs (× {ratio:.2f})"
    )
    for label, figures in (("open", opened), ("open, compacted", reopened)):
        share = figures["open_s"] / plain["lines_s"]
        print(f"{label:<18} {figures['open_s']:8.2f} s; JSON lines {plain['lines_s']:.2f} s (× {share:.2f})")
        print(f"  memory at peak   {figures['bytes_a_row']:8.0f} bytes a row")
        print(f"  get, in order    {figures['get_us']:8.1f} µs a row")
    print(f"index              {stored['index_bytes']:8.0f} bytes a row")
    print(f"look again         {looked['again_ms']:8.2f} ms")
    print(f"compact            {packed['compact_us']:8.1f} µs a row")


if __name__ == "__main__":
    main()
