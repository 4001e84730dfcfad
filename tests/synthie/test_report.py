"""The report: complete, self-contained, honest about the data, safe with any text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from evaluation_run import Key, write_dataset, write_extractor, write_predictions

from synthie.config import EvaluationConfig
from synthie.evaluate import evaluate_predictions
from synthie.report import PUBLISHED

GOLD: dict[int, list[Key]] = {i: [("Q1", f"P{1 + i % 3}", f"Q{i}")] for i in range(10, 22)}
PREDICTED: dict[int, list[Key]] = {
    i: (keys if i % 4 else [("Q1", "P9", "?<b>| odd\nname</b>")]) for i, keys in GOLD.items()
}


def report(folder: Path, *, model: str = "some-model", training: bool = False) -> Path:
    dataset = write_dataset(folder / "dataset", {"train": {0: [("Q1", "P1", "Q2")]}, "test": GOLD}, model=model)
    predictions = write_predictions(folder / "predictions", PREDICTED)
    extractor = write_extractor(folder / "extractor") if training else None
    evaluate_predictions(
        EvaluationConfig(bootstrap=5), dataset, predictions, folder / "report", seed=0, extractor=extractor
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
        self.references += [value for name in ("src", "href") if (value := values.get(name))]
        if tag == "img":
            self.alternatives.append(values.get("alt") or "")
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_nothing_but_itself(tmp_path: Path) -> None:
    page = Page((report(tmp_path, training=True) / "report.html").read_text())
    assert page.open == []
    assert len(page.references) == 5
    assert all(reference.startswith("data:image/png;base64,iVBOR") for reference in page.references)
    assert all(page.alternatives)


def test_the_markdown_refers_to_figures_that_exist(tmp_path: Path) -> None:
    folder = report(tmp_path, training=True)
    figures = re.findall(r"\]\((figures/.*?)\)", (folder / "report.md").read_text())
    assert len(figures) == 5
    for figure in figures:
        assert (folder / figure).read_bytes().startswith(b"\x89PNG")


def test_tables_of_the_markdown_have_as_many_cells_in_each_row(tmp_path: Path) -> None:
    lines = (report(tmp_path, training=True) / "report.md").read_text().splitlines()
    widths = [len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0 for line in lines]
    tables = 0
    for above, below in pairwise([*widths, 0]):
        assert not above or not below or above == below
        tables += bool(above and not below)
    assert tables == 8


def test_without_a_training_curve_there_is_no_section_for_it(tmp_path: Path) -> None:
    folder = report(tmp_path)
    assert "## Training" not in (folder / "report.md").read_text()
    assert not (folder / "figures" / "training.png").exists()


@pytest.mark.parametrize("name", ["report.md", "report.html"])
def test_rule_made_text_is_called_by_its_name(tmp_path: Path, name: str) -> None:
    assert "Rule-made text" in (report(tmp_path / "rules", model="synthie-rules") / name).read_text()
    assert "Rule-made text" not in (report(tmp_path / "llm") / name).read_text()


@pytest.mark.parametrize("name", ["report.md", "report.html"])
def test_published_results_are_marked_as_measured_on_other_data(tmp_path: Path, name: str) -> None:
    text = (report(tmp_path) / name).read_text()
    section = text[text.index("Published results, on other data") :]
    assert "not comparable" in section
    for _, model, micro, macro in PUBLISHED:
        assert model in section
        assert all(f"{value:.2f}" in section for value in micro + macro)


def test_names_and_texts_cannot_break_the_page(tmp_path: Path) -> None:
    folder = report(tmp_path)
    page = (folder / "report.html").read_text()
    assert "<b>| odd" not in page
    assert "&lt;b&gt;| odd" in page
    assert "&lt;b>\\| odd name" in (folder / "report.md").read_text()
