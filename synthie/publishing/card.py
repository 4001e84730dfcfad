"""The data set's card: ``README.md`` with the hub's metadata, told from the statistics and the stages' manifests."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import pyarrow.parquet as pq
import yaml

from kg.sampling.tables import report_table
from kg.stage import Manifest, write_atomic
from synthie.config import DatasetConfig
from synthie.errors import ConfigError
from synthie.llm.pricing import PICODOLLARS, price_of
from synthie.llm.prompts import Prompt, load_prompt
from synthie.llm.service import MODEL as BUILT_IN_MODEL
from synthie.money import usd
from synthie.records import WITHHELD

__all__ = ["Origin", "front_matter", "render", "write_card"]

_TOLD_ELSEWHERE = ("model", "models", "base_url", "prompt")  # of the settings of the texts
_RELATIONS = 100  # longest table of relations on the card
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_TAGS = ("information-extraction", "relation-extraction", "knowledge-graph", "synthie")


@dataclass(frozen=True)
class Origin:
    """Where the records come from.

    Attributes:
        graph, sets, texts: folders of the stages.
        manifests: theirs, by these names.
        judge: folder of the judge stage, which may not have run.
    """

    graph: Path
    sets: Path
    texts: Path
    manifests: Mapping[str, Manifest]
    judge: Path | None = None

    @cached_property
    def generation(self) -> dict[str, Any]:
        """The settings of the texts."""
        return self.manifests["texts"].config["generation"]

    @property
    def models(self) -> list[str]:
        """What wrote the texts."""
        return list(self.generation.get("models") or [self.generation["model"]])

    def spent_usd(self, usd_of_texts: float) -> float:
        """What the run has paid for all of its texts, rejected and repeated tries included, as far as it is known."""
        return _spent_usd(self.texts, usd_of_texts)

    @property
    def judged_usd(self) -> float:
        """What the run has paid for having texts judged."""
        return _spent_usd(self.judge, 0.0) if self.judge else 0.0


def _spent_usd(stage: Path, otherwise: float) -> float:
    try:
        return float(json.loads((stage / "cost.json").read_bytes())["spent_usd"])
    except FileNotFoundError:
        return otherwise


def write_card(config: DatasetConfig, origin: Origin, statistics: Mapping[str, Any], folder: Path) -> None:
    """Write ``README.md``."""
    write_atomic(folder / "README.md", _card(config, origin, statistics))


def render(template: str, **values: Any) -> str:
    """A card's text from a template of this package."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
        trim_blocks=True,
    )
    environment.filters |= {
        "amount": _amount,
        "percent": lambda share: f"{share:.1%}",
        "share": _share,
        "thousands": lambda value: f"{value:,g}",
        "cell": lambda text: str(text).replace("|", "\\|"),
        "usd": usd,
        "interval": _interval,
    }
    environment.globals["settings"] = _settings
    return environment.get_template(template).render(**values)


def front_matter(name: str, licence: str, splits: Mapping[str, Mapping[str, Any]], tags: list[str]) -> str:
    """The hub's metadata as YAML."""
    records = sum(split["records"] for split in splits.values())
    data = {
        "pretty_name": name,
        "license": licence,
        "language": ["en"],
        "task_categories": ["token-classification", "text-generation"],
        "size_categories": [next((size for bound, size in _SIZES if records < bound), "10M<n<100M")],
        "tags": [*_TAGS, *tags],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits],
            }
        ],
    }
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def _card(config: DatasetConfig, origin: Origin, statistics: Mapping[str, Any]) -> str:
    models = list(dict.fromkeys(model for version in statistics["versions"] for model in version["models"]))
    models = list(dict.fromkeys([*models, *origin.models]))
    rule_made = BUILT_IN_MODEL in models
    generation = origin.generation
    splits = [{"name": name, **figures} for name, figures in statistics["splits"].items()]
    labels = _relation_labels(origin.graph)
    relations = list(statistics["relations"].items())
    versions = statistics["versions"]
    totals = {name: sum(split[name] for split in splits) for name in _SUMMED}
    again = statistics["splits"].get(WITHHELD, {"records": 0})["records"]  # they are in test, too
    return render(
        "card.md.jinja",
        front_matter=front_matter(
            config.name,
            config.licence,
            statistics["splits"],
            ["wikidata", "synthetic", *(["rule-made"] if rule_made else [])],
        ),
        config=config,
        models=models,
        endpoint=generation.get("base_url") or ("several endpoints" if generation.get("endpoints") else "built-in"),
        rule_made=rule_made,
        prices=list(_prices(origin)),
        generation={key: value for key, value in generation.items() if key not in _TOLD_ELSEWHERE},
        splits=splits,
        totals=totals | {"records": totals["records"] - again},
        statistics=statistics,
        versions=versions,
        spent=statistics["spent_usd"],
        graph={
            "nodes": pq.read_metadata(origin.graph / "nodes.parquet").num_rows,
            "triples": pq.read_metadata(origin.graph / "triples.parquet").num_rows,
            "relations": len(labels),
            "dump": origin.manifests["graph"].inputs.get("dump", "unknown"),
            "config": origin.manifests["graph"].config,
        },
        sampling=origin.manifests["sets"],
        coverage=statistics["coverage"],
        coverage_tables=[table.markdown() for table in report_table(statistics["coverage"])],
        texts=origin.manifests["texts"],
        tokens=statistics["quality"]["tokens"],
        prompt=_prompt(generation["prompt"], origin.manifests["texts"].inputs),
        quality=statistics["quality"],
        quality_config=origin.manifests["texts"].config["quality"],
        judged=_judged(statistics["estimates"]),
        relations=[
            {"id": relation, "label": labels[relation], "counts": list(count.values())}
            for relation, count in relations[:_RELATIONS]
        ],
        relations_left=max(0, len(relations) - _RELATIONS),
        key="".join(character if character.isalnum() else "-" for character in config.name.lower()).strip("-"),
        year=origin.manifests["texts"].finished[:4],
    )


_SUMMED = ("records", "negatives", "withheld_records", "withheld_triplets", "flagged", "mentions", "mentions_not_found")


def _relation_labels(graph: Path) -> dict[str, str]:
    table = pq.read_table(graph / "relations.parquet", columns=["id", "label"])
    return dict(zip(table["id"].to_pylist(), table["label"].to_pylist(), strict=True))


def _prices(origin: Origin) -> Iterator[str]:
    """What the models take, as far as it is known."""
    told = [origin.generation, *(origin.generation.get("endpoints") or ())]
    for one in told if len(told) == 1 else told[1:]:
        model = one.get("model") or origin.generation["model"]
        names = ("input_usd_per_million", "output_usd_per_million", "cached_input_usd_per_million")
        given = [one.get(name) if one.get(name) is not None else origin.generation.get(name) for name in names]
        with contextlib.suppress(ConfigError):
            price = price_of(model, *given)
            if price.is_free:
                yield f"`{model}` costs nothing"
            else:
                fresh, cached, output = (
                    usd(picodollars * 1e6 / PICODOLLARS)
                    for picodollars in (price.input, price.cached_input, price.output)
                )
                yield f"`{model}` takes {fresh} a million tokens of input ({cached} if cached) and {output} of output"


def _judged(estimates: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """What the card tells of each judge's sample of the accepted texts."""
    if estimates is None:
        return []
    judges = []
    for name, judge in estimates["judges"].items():
        accepted = judge["gates"].get("accepted")
        if accepted and accepted["judged"]:
            judges.append(
                {"name": name, "models": judge["models"], "is_deciding": name in estimates["deciding"], **accepted}
            )
    return judges


def _prompt(name: str, used: Mapping[str, str]) -> dict[str, Any]:
    """Name, hash and, where the prompt's file still is the one that was used, full text.

    Args:
        name: of the prompt.
        used: hashes of its parts: ``prompt`` and, if there were negatives, ``negatives``.
    """
    parts: list[tuple[str, str]] = []
    with contextlib.suppress(ConfigError):  # the file, or its part for negatives, is no longer there
        prompt = load_prompt(name)
        if prompt.hash == used["prompt"]:
            parts += _prompt_parts(prompt)
        if "negatives" in used and prompt.negatives_hash == used["negatives"]:
            parts += _negative_parts(prompt)
    text = "\n\n".join(f"{title}:\n\n~~~text\n{text.strip()}\n~~~" for title, text in parts if text.strip())
    return {"name": name, "hash": used["prompt"], "text": text}


def _prompt_parts(prompt: Prompt) -> Iterator[tuple[str, str]]:
    """(title, text) of what asks for texts on triplets."""
    sampling = f"temperature {prompt.temperature}, at most {prompt.max_tokens} tokens, unless set otherwise above"
    yield "Sampling", sampling
    yield "System", prompt.system
    yield "User (Jinja2 template)", prompt.user
    yield (
        "Styles, one value of each drawn for a text",
        "\n\n".join(
            "\n".join([f"{axis}:", *(f"  {name} (weight {one.weight:g}): {one.text}" for name, one in values.items())])
            for axis, values in prompt.axes.items()
        ),
    )
    yield "Sending a text back (Jinja2 template)", prompt.repair
    if prompt.demonstrations_per_request:
        yield "Demonstrations in a request", f"{prompt.demonstrations_per_request} of those below, by relation"
    for number, demonstration in enumerate(prompt.demonstrations, start=1):
        lines = (" | ".join(triplet) for triplet in demonstration.triplets)
        yield f"Demonstration {number}", "\n".join((*lines, "", demonstration.text))


def _negative_parts(prompt: Prompt) -> Iterator[tuple[str, str]]:
    """The same for texts without triplets."""
    negatives = prompt.require_negatives()
    yield "Negatives: system", negatives.system
    yield "Negatives: user (Jinja2 template)", negatives.user
    for number, demonstration in enumerate(negatives.demonstrations, start=1):
        yield f"Negatives: demonstration {number}", f"{demonstration.topic}\n\n{demonstration.text}"


def _settings(config: Mapping[str, Any]) -> str:
    """Settings as one paragraph of code spans; empty ones say nothing."""
    spans = [f"`{key}: {json.dumps(value, ensure_ascii=False)}`" for key, value in config.items() if _is_set(value)]
    return f"Settings: {', '.join(spans)}." if spans else ""


def _is_set(value: Any) -> bool:
    return value is not None and value != [] and value != {} and value != ""


def _amount(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _interval(share: Mapping[str, float] | None) -> str:
    if share is None or share["value"] is None:
        return "–"
    return f"{share['value']:.1%} ({share['low']:.1%} to {share['high']:.1%})"
