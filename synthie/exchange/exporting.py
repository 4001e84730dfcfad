"""A data set in a form of others: one JSONL file a split."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
from isal import igzip

from kg.stage import read_manifest
from synthie.errors import ConfigError, InputError, StorageError, storage_error
from synthie.exchange.forms import Form, Target, as_chat, as_rebel, as_synthie
from synthie.publishing.shards import Shard, read_shards, shards_of

__all__ = ["export", "shards_in"]


def export(
    dataset: Path,
    folder: Path,
    form: Form,
    *,
    target: Target = "json",
    system: str | None = None,
    splits: Iterable[str] = (),
    compress: bool = False,
) -> dict[str, int]:
    """Write ``<split>.jsonl`` (``<split>.jsonl.gz`` if ``compress``) for each split.

    Records stream. A file of the same name is replaced, at the end.

    Args:
        dataset: folder of a finished data set.
        folder: where the files go; made if absent.
        form: see `synthie.exchange.forms`.
        target, system: of the chat form.
        splits: which; none for all.

    Returns:
        file name -> records.

    Raises:
        ConfigError: ``folder`` is the data set itself.
        InputError: the data set is not finished or lacks a split.
        StorageError: ``folder`` cannot be written.
    """
    forms: dict[Form, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "chat": as_chat(target, system),
        "synthie": as_synthie,
        "rebel": as_rebel,
    }
    shards = shards_in(dataset)
    known = list(dict.fromkeys(shard.split for shard in shards))
    if folder.resolve() == dataset.resolve():
        raise ConfigError(f"{folder} is the data set itself, whose files would be replaced. Choose another --out.")
    missing = [split for split in splits if split not in known]
    if missing:
        raise InputError(f"{dataset} has no split {missing[0]!r}; it has {', '.join(known)}.")
    counts = {}
    _make_folder(folder)
    try:
        for split in list(splits) or known:
            path = folder / f"{split}.jsonl{'.gz' if compress else ''}"
            of_split = [shard for shard in shards if shard.split == split]
            counts[path.name] = _write(path, dataset, of_split, forms[form], compress=compress)
    except OSError as error:
        raise storage_error(error, folder) or error from error
    return counts


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, folder) or StorageError(
            f"Cannot make the folder {folder}: {error.strerror}. Choose another one."
        ) from error


def shards_in(dataset: Path) -> list[Shard]:
    """The shards of a finished data set.

    Raises:
        InputError: it is not finished.
    """
    manifest = read_manifest(dataset)
    try:
        return shards_of(json.loads((dataset / "statistics.json").read_bytes()))
    except (FileNotFoundError, KeyError):
        # Made before data sets listed their shards.
        paths = sorted(name for name in manifest.outputs if name.startswith("data/") and name.endswith(".parquet"))
        if not paths:
            raise InputError(f"{dataset} is no data set: it has no data/*.parquet. Run the dataset stage.") from None
        return [Shard(path, pq.read_metadata(dataset / path).num_rows, "") for path in paths]
    except ValueError as error:
        raise InputError(f"{dataset / 'statistics.json'} is damaged ({error}). Build the data set again.") from error


def _write(
    path: Path,
    dataset: Path,
    shards: list[Shard],
    form: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    compress: bool,
) -> int:
    encoder, count = msgspec.json.Encoder(), 0
    columns = ["id", "text", "triplets", "entities", "relations"]
    with _replacing(path, compress=compress) as file:
        for batch in read_shards(dataset, shards, columns):
            for record in batch.to_pylist():
                file.write(encoder.encode(form(record)) + b"\n")
                count += 1
    return count


@contextmanager
def _replacing(path: Path, *, compress: bool) -> Iterator[Any]:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as raw:
            if compress:
                with igzip.IGzipFile("", "wb", fileobj=raw, mtime=0) as file:
                    yield file
            else:
                yield raw
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
