"""The commands ``synthie extract`` and ``synthie serve-extractor``: texts in, triplets out, by a trained extractor."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from synthie.commands.command import DEFAULT_RUN, RunFolder, progress_bar
from synthie.config import DecodingRules
from synthie.errors import ConfigError, InputError

if TYPE_CHECKING:
    from synthie.extractor.predict import Extractor
    from synthie.extractor.streaming import TextRecord
    from synthie.extractor.world import Meant
    from synthie.records import Prediction

__all__ = ["extract", "serve_extractor"]

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

_PORT = 8030

_Beams = Annotated[
    int | None, typer.Option(min=1, max=100, help="Beams of the search; 1 is greedy. Default: what it was trained for.")
]
_BatchSize = Annotated[int, typer.Option(min=1, help="Texts decoded together.")]
_World = Annotated[
    Path | None,
    typer.Option(help="Write names of this world instead (synthie world build FOLDER --extractor …)."),
]
_Device = Annotated[str, typer.Option(help="auto, cpu or cuda; auto is the GPU if there is one.")]
_Meant = Annotated[
    Literal["lowest", "most_linked"],
    typer.Option(help="Of several entities of one name: the lowest id, or the one with the most triples in the graph."),
]
_MaxTriplets = Annotated[int | None, typer.Option(min=1, help="Most triplets of an output.")]
_NoRepeats = Annotated[bool, typer.Option("--no-repeats", help="State no triplet twice.")]
_FittingTypes = Annotated[
    bool, typer.Option("--fitting-types", help="Join only relations and entities whose classes the graph has together.")
]


def extract(
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; none: from --file or standard input.", show_default=False)
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help="Text, one a line, or .jsonl with 'text' and perhaps 'id'; .gz is unpacked.",
        ),
    ] = None,
    run: RunFolder = DEFAULT_RUN,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Standard input is JSON Lines.")] = False,
    json_lines: Annotated[bool, typer.Option("--json", help="Print one JSON object a text.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write JSON Lines there; interrupted, it can go on."),
    ] = None,
    beams: _Beams = None,
    candidates: Annotated[
        int, typer.Option(min=1, max=100, help="Outputs a text; in JSON, all but the best are 'alternatives'.")
    ] = 1,
    batch_size: _BatchSize = 32,
    device: _Device = "auto",
    world: _World = None,
    meant: _Meant = "lowest",
    max_triplets: _MaxTriplets = None,
    no_repeats: _NoRepeats = False,
    fitting_types: _FittingTypes = False,
    constrained: Annotated[
        bool, typer.Option(help="Allow only the graph's entities and relations in the output.")
    ] = True,
) -> None:
    """Find the triplets that texts state, with the trained extractor of a run.

    Example: synthie extract "Albert Einstein was born in Ulm."

    Example: synthie extract --file articles.jsonl.gz --output triplets.jsonl
    """
    from synthie.extractor.streaming import extract_all, line_of

    records = _records(texts, file, is_json=jsonl)
    rules = DecodingRules(max_triplets=max_triplets, no_repeats=no_repeats, fitting_types=fitting_types)
    if not constrained and (rules.any or world):
        raise ConfigError(
            "--no-constrained lets the model write what it likes, so no world or rule holds. Leave out one."
        )
    extractor = _open(run, device, world, meant, rules)
    options: dict[str, Any] = {"beams": beams, "candidates": candidates, "constrained": constrained}

    def predict(records: Iterable[TextRecord]) -> Iterator[tuple[TextRecord, Prediction]]:
        return extract_all(extractor, records, batch_size=batch_size, **options)

    if output is None:
        for record, prediction in predict(records):
            typer.echo(line_of(record, prediction) if json_lines else _for_reading(record.text, prediction))
    else:
        _write(output, records, predict, run / "extractor", world, options | rules.model_dump() | {"meant": meant})


def serve_extractor(
    run: RunFolder = DEFAULT_RUN,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 chooses a free one.")] = _PORT,
    beams: _Beams = None,
    batch_size: _BatchSize = 32,
    device: _Device = "auto",
    world: _World = None,
    meant: _Meant = "lowest",
    max_triplets: _MaxTriplets = None,
    no_repeats: _NoRepeats = False,
    fitting_types: _FittingTypes = False,
    max_texts: Annotated[int, typer.Option(min=1, help="Most texts in a request.")] = 64,
    max_characters: Annotated[int, typer.Option(min=1, help="Longest text.")] = 20_000,
    queue: Annotated[int, typer.Option(min=1, help="Most texts that may wait, of all requests.")] = 1_024,
    api_key_env: Annotated[
        str | None, typer.Option(help="Environment variable with the key that clients must send.")
    ] = None,
) -> None:
    """Serve the trained extractor of a run to programs on this machine, as JSON over HTTP.

    Example: synthie serve-extractor --port 8030

    Then: curl http://127.0.0.1:8030/extract -d '{"texts": ["Albert Einstein was born in Ulm."]}'
    """
    from synthie.extractor.serving.batching import Options
    from synthie.extractor.serving.server import ExtractorServer, Limits, listen

    if queue < max_texts:
        raise ConfigError(f"--queue {queue} has no room for one request of --max-texts {max_texts}. Raise the one.")
    key = _key(api_key_env)
    listener = listen(port)
    rules = DecodingRules(max_triplets=max_triplets, no_repeats=no_repeats, fitting_types=fitting_types)
    extractor = _open(run, device, world, meant, rules)
    beams = beams or extractor.beams
    limits = Limits(max_texts, max_characters, beams=max(beams, Limits().beams), queued_texts=queue)

    def answer(texts: list[str], options: Options) -> list[Prediction]:
        return extractor.extract(texts, batch_size=batch_size, **options._asdict())

    server = ExtractorServer(answer, listener, batch_texts=batch_size, beams=beams, limits=limits, api_key=key)
    typer.echo(f"Serve the extractor of {run} at {server.url} (Ctrl-C stops)")
    sys.stdout.flush()
    server.run()


def _open(run: Path, device: str, world: Path | None, meant: Meant, rules: DecodingRules) -> Extractor:
    from synthie.extractor.predict import Extractor

    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device {device} is none of auto, cpu and cuda.")
    return Extractor.open(run / "extractor", device=device, world=world, meant=meant, rules=rules)


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not (key := os.environ.get(variable)):
        raise InputError(f"The environment variable {variable} is empty. Set it to the key that clients must send.")
    return key


def _records(texts: list[str] | None, file: Path | None, *, is_json: bool) -> Iterator[TextRecord]:
    """The records from wherever they are.

    Raises:
        ConfigError: texts and file are both given.
        InputError: there is no text.
    """
    from synthie.extractor.streaming import read_lines, read_text_file

    if texts and file:
        raise ConfigError("Texts are given as arguments and with --file. Give one of the two.")
    if file is not None:
        records = read_text_file(file)
    elif texts:
        records = read_lines(texts, "the arguments", is_json=False)
    else:
        records = read_lines(getattr(sys.stdin, "buffer", sys.stdin), "standard input", is_json=is_json)
    first = next(records, None)
    if first is None:
        where = f"{file} is empty" if file else "Give one as an argument or on standard input"
        raise InputError(f"There is no text to extract from. {where}.")
    return chain([first], records)


def _write(
    output: Path,
    records: Iterator[TextRecord],
    predict: Any,
    folder: Path,
    world: Path | None,
    options: dict[str, Any],
) -> None:
    from kg.stage import file_digest, read_manifest
    from synthie.extractor.streaming import write_file

    files = sorted(path for path in world.rglob("*") if path.is_file()) if world else []
    identity = {"extractor": read_manifest(folder).output_hash, "world": [*map(file_digest, files)], **options}
    try:
        with progress_bar("extract") as progress:
            kept = write_file(
                output, records, predict, identity=identity, told=lambda done: progress(done, None, "texts")
            )
    except KeyboardInterrupt:
        typer.secho(
            f"Interrupted. What is done is kept beside {output}; run the same command again to go on.", err=True
        )
        raise typer.Exit(_INTERRUPTED) from None
    before = f" ({kept.before:,} of them before)" if kept.before else ""
    typer.echo(f"{output}: {kept.texts:,} texts{before}, {kept.triplets:,} triplets", err=True)


def _for_reading(text: str, prediction: Prediction) -> str:
    lines = [text]
    for triplet in prediction.triplets:
        parts = (triplet.subject, triplet.predicate, triplet.object)
        lines.append("  " + " | ".join(f"{part.surfaceform} ({part.uri or 'not in the graph'})" for part in parts))
    if not prediction.triplets:
        lines.append("  (no triplets)")
    return "\n".join(lines)
