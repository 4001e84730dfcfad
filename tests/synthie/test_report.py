"""The report: complete, self-contained, honest about the data, safe with any text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from evaluation_run import Key, write_dataset, write_extractor, write_predictions

from synthie.config import EvaluationConfig
from synthie.evaluate import evaluate_predictions
from synthie.evaluation.figures import FIGURES
from synthie.evaluation.report import PUBLISHED

GOLD: dict[int, list[Key]] = {i: [("Q1", f"P{1 + i % 3}", f"Q{i}")] for i in range(10, 22)}
PREDICTED: dict[int, list[Key]] = {
    i: (keys if i % 4 else [("Q1", "P9", "?<b>| odd\nname</b>")]) for i, keys in GOLD.items()
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with everything in it; drawing is slow, so it is made once."""
    return report(tmp_path_factory.mktemp("trained"), training=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report without a training curve, of texts that rules have made."""
    return report(tmp_path_factory.mktemp("plain"), model="synthie-rules")


def report(folder: Path, *, model: str = "some-model", training: bool = False) -> Path:
    dataset = write_dataset(folder / "dataset", {"train": {0: [("Q1", "P1", "Q2")]}, "test": GOLD}, model=model)
    predictions = write_predictions(folder / "predictions", PREDICTED)
    extractor = write_extractor(folder / "extractor") if training else None
    evaluate_predictions(
        EvaluationConfig(bootstrap=5, significance=20),
        dataset,
        predictions,
        folder / "report",
        seed=0,
        extractor=extractor,
        run=folder,
    )
    return folder / "report"


class Page(HTMLParser):
    """Collects references and checks that elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.alternatives: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.references += [value for name in ("src", "srcset", "href") if (value := values.get(name))]
        if tag == "img":
            self.alternatives.append(values.get("alt") or "")
        if tag not in ("img", "meta", "br", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_nothing_but_itself(trained: Path) -> None:
    page = Page((trained / "report.html").read_text())
    assert page.open == []
    assert len(page.references) == 2 * len(FIGURES)  # for light and for dark pages
    assert all(reference.startswith("data:image/png;base64,iVBOR") for reference in page.references)
    assert len(set(page.references)) == len(page.references)
    assert len(page.alternatives) == len(FIGURES)
    assert all(page.alternatives)


def test_the_markdown_refers_to_figures_that_exist(trained: Path) -> None:
    figures = re.findall(r"\]\((figures/.*?)\)", (trained / "report.md").read_text())
    assert sorted(figures) == sorted(f"figures/{name}.png" for name in FIGURES)
    for figure in figures:
        assert (trained / figure).read_bytes().startswith(b"\x89PNG")


def test_tables_of_the_markdown_have_as_many_cells_in_each_row(trained: Path) -> None:
    lines = (trained / "report.md").read_text().splitlines()
    widths = [len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0 for line in lines]
    tables = 0
    for above, below in pairwise([*widths, 0]):
        assert not above or not below or above == below
        tables += bool(above and not below)
    assert tables == 14


def test_without_a_training_curve_there_is_no_section_for_it(plain: Path) -> None:
    assert "## Training" not in (plain / "report.md").read_text()
    assert not (plain / "figures" / "training.png").exists()


@pytest.mark.parametrize("name", ["report.md", "report.html"])
def test_rule_made_text_is_called_by_its_name(plain: Path, trained: Path, name: str) -> None:
    assert "Rule-made text" in (plain / name).read_text()
    assert "Rule-made text" not in (trained / name).read_text()


@pytest.mark.parametrize("name", ["report.md", "report.html"])
def test_published_results_are_marked_as_measured_on_other_data(trained: Path, name: str) -> None:
    text = (trained / name).read_text()
    section = text[text.index("Published results, on other data") :]
    assert "not comparable" in section
    assert section.count("published<" if name.endswith("html") else "| published |") == len(PUBLISHED)
    for _, model, micro, macro in PUBLISHED:
        assert model in section
        assert all(f"{value:.2f}" in section for value in micro + macro)


@pytest.mark.parametrize("name", ["report.md", "report.html"])
def test_what_the_json_says_is_told(trained: Path, name: str) -> None:
    metrics, text = json.loads((trained / "metrics.json").read_text()), (trained / name).read_text()
    for heading in ("Do the systems differ?", "Confidence", "What to draw more of", "Throughput and cost", "Training"):
        assert heading in text
    main = metrics["modes"]["constrained"]
    for figure in (main["micro"], main["macro"], main["pairs"], *main["by_triplet"], *main["by_entities"]):
        assert f"{100 * figure['f1']['value']:.1f}" in text
    assert {row["stage"] for row in metrics["throughput"]} == {"dataset", "extractor", "predictions"}


def test_names_and_texts_cannot_break_the_page(trained: Path) -> None:
    page = (trained / "report.html").read_text()
    assert "<b>| odd" not in page
    assert "&lt;b&gt;| odd" in page
    assert "&lt;b>\\| odd name" in (trained / "report.md").read_text()
