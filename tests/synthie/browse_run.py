"""A small run to browse, written without generating anything, and the page served for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

from synthie.browse.desk import Desk
from synthie.browse.server import BrowseServer, listen
from synthie.browse.sources import open_source
from synthie.records import SAMPLE_SCHEMA

TEXTS = 60
PEOPLE = ("Ada Weiss", "Bruno Rossi", "Clara Moreau")
TOWNS = ("Ulm", "Bern")
BORN, DIED = {"surfaceform": "place of birth", "uri": "P19"}, {"surfaceform": "place of death", "uri": "P20"}
HOSTILE = "<script>document.title = 'broken'</script><img src=x onerror=\"document.title='broken'\"> & Ada Weiss 𝔘lm"


def record(number: int, **changes: Any) -> dict[str, Any]:
    """Set ``number``: every third one is rejected, every second one has two triplets, the first has a hostile text."""
    person = {"surfaceform": f"{PEOPLE[number % 3]}_{number}".replace(" ", "_"), "uri": f"Q{1_000 + number}"}
    town = {"surfaceform": TOWNS[number % 2], "uri": f"Q{100 + number % 2}"}
    name = person["surfaceform"].replace("_", " ")
    is_accepted = number % 3 > 0
    text = f"{name} was born in {town['surfaceform']}." + (f" {name} died there." if number % 2 else "")
    reasons = []
    if not is_accepted:
        text = f"{name} was born in Paris. {text}"
        start = text.index("Paris")
        reasons = [
            {
                "check": "extra_name",
                "detail": f"'Paris' (characters {start}–{start + 5}) is a name that no triplet gives.",
            },
            {
                "check": "unlinked",
                "detail": f"Triplet 9 ({name} | place of birth | {town['surfaceform']}): no sentence tells of both.",
            },
        ]
    if number == 0:
        text, reasons = HOSTILE, []
    triplets = [{"subject": person, "predicate": relation, "object": town} for relation in (BORN, DIED)]
    return {
        "id": number,
        "split": "test" if number % 10 == 9 else "train",
        "text": text,
        "triplets": triplets[: 1 + number % 2],
        "entities": [
            {**node, "mention_start_index": text.find(node["surfaceform"].replace("_", " "))} for node in (person, town)
        ],
        "relations": [BORN, DIED][: 1 + number % 2],
        "model": f"model-{number % 2}",
        "endpoint": "here",
        "prompt": "few-shot/1",
        "prompt_hash": "0" * 64,
        "style": f"genre: {('news', 'tale')[number % 2]}, voice: active",
        "request_key": f"{number:032x}",
        "input_tokens": 100,
        "cached_input_tokens": 0,
        "output_tokens": 10 + number,
        "usd": 0.001,
        "latency_s": 0.5,
        "attempts": 1,
        "finish_reason": "stop",
        "verdict": "accepted" if is_accepted else "rejected",
        "reasons": reasons,
    } | changes


def write_texts(run: Path, records: list[dict[str, Any]], part: int = 0) -> Path:
    """Write records as the texts stage does; returns the run's folder."""
    for verdict, name in (("accepted", "samples"), ("rejected", "rejected")):
        folder = run / "texts" / name
        folder.mkdir(parents=True, exist_ok=True)
        chosen = [row for row in records if row["verdict"] == verdict]
        table = pa.Table.from_pylist(chosen, SAMPLE_SCHEMA)
        pq.write_table(table, folder / f"part-{part:05d}.parquet", row_group_size=16)
    return run


def make_run(run: Path) -> Path:
    return write_texts(run, [record(number) for number in range(TEXTS)])


@contextmanager
def served(*paths: Path) -> Iterator[httpx.Client]:
    """A client of the page for one run or two; a request that changes something carries the page's token."""
    desk = Desk(*map(open_source, paths))
    with BrowseServer(desk, listen(0)) as server, httpx.Client(base_url=server.url, timeout=240) as client:
        page = client.get("/").text
        client.headers["x-browse-token"] = page.split('name="browse-token" content="')[1].split('"')[0]
        yield client


def ids(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    return [row["id"] for row in answer.json()["records"]]
