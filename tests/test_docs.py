"""The documentation says what the code does."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from synthie.cli import app
from synthie.config import describe_options, load_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_table_of_options_is_current() -> None:
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert page.split("\n\n", 2)[2].strip() == describe_options().strip(), "write it anew: docs/configuration.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_shown_exist_and_their_options_are_known(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^\.venv/bin/synthie (.+)$", text, re.MULTILINE):
        words = shlex.split(line, comments=True)
        is_group = words[0] in ("dataset", "journal", "kg", "prompt") and not "".join(words[1:2]).startswith("-")
        command = words[:2] if is_group else words[:1]
        assert CliRunner().invoke(app, [*command, "--help"]).exit_code == 0, line
        configs = [ROOT / words[i + 1] for i, word in enumerate(words) if word == "--config"]
        settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
        load_config(configs[0] if configs else None, settings)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_shown_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake (?:PYTHON=\S+ )?([a-z]+)\b(?=`|\s*$|\s*#)", page.read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
