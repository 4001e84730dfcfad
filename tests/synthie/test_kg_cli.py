"""`synthie kg …` as a person meets it: what it prints, what it says when something is wrong."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shlex
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest

from kg.build import build_graph
from kg.config import GraphConfig
from synthie.cli import main

ROOT = Path(__file__).parents[2]
DUMP = ROOT / "data/sample/wikidata.json.gz"


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


class Output(io.StringIO):
    """Standard output with bytes under it, as an exported file needs."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = io.BytesIO()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the sample's graph; not to be written."""
    folder = tmp_path_factory.mktemp("run")
    build_graph(GraphConfig(dump=str(DUMP), workers=1), folder / "kg")
    return folder


def kg(command: str, run: Path) -> Result:
    """Run ``synthie kg`` with the words of a command line."""
    out, err = Output(), io.StringIO()
    with (
        patch.object(sys, "argv", ["synthie", "kg", *shlex.split(command), "--run", str(run)]),
        patch.dict(os.environ, COLUMNS="200"),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Result(code, out.getvalue() + out.buffer.getvalue().decode(), err.getvalue())


def assert_refused(result: Result, *words: str) -> None:
    message = result.err.strip()
    assert result.code not in (0, None)
    assert message.startswith("Error: ")
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message


# --- info -----------------------------------------------------------------------------------------------------------


def test_info_prints_tables_for_people(run: Path) -> None:
    result = kg("info", run)
    assert result.code == 0
    for words in ("2,244 nodes, 7,097 triples of 74 relations", "P31", "instance of", "human", "coordinate", "Germany"):
        assert words in result.out
    assert "weakly connected" in result.out
    assert all(line == line.rstrip() or len(line) < 120 for line in result.out.splitlines())


def test_info_prints_json_for_machines_and_draws(run: Path, tmp_path: Path) -> None:
    result = kg(f"info --json --plot {tmp_path / 'graph.png'}", run)
    assert json.loads(result.out)["triples"] == 7097
    assert (tmp_path / "graph.png").read_bytes()[1:4] == b"PNG"
    assert "graph.png" in result.err
    assert_refused(kg("info --plot graph.docx", run), "graph.docx", ".png")
    assert_refused(kg("info --plot /nonexistent/graph.png", run), "/nonexistent/graph.png", "another place")


# --- show -----------------------------------------------------------------------------------------------------------


def test_a_node_is_shown_with_its_triples_by_relation(run: Path) -> None:
    result = kg("show Q64", run)
    for words in ("Q64  Berlin", "capital and largest city", "is a: ", "country (P17) →", "Germany (Q183)",
                  "capital (P36) ←", "preferred"):  # fmt: skip
        assert words in result.out
    assert "more" not in result.out
    assert "more" in kg("show Q183 --limit 5", run).out


@pytest.mark.parametrize("name", ["berlin", "BERLIN", "wd:Q64", "http://www.wikidata.org/entity/Q64", "q64"])
def test_a_node_is_found_by_whatever_it_is_called(run: Path, name: str) -> None:
    assert kg(f"show {name}", run).out.startswith("Q64  Berlin")


def test_a_literal_is_shown_by_its_id_and_a_relation_by_id_and_label(run: Path) -> None:
    assert "(date)" in kg("show 'date:1237'", run).out
    for name in ("P36", "wdt:P36"):
        assert kg(f"show {name} --limit 2", run).out.startswith("P36  capital  (relation)")
    assert kg("show 'date of birth'", run).out.startswith("P569")


def test_what_is_shown_is_also_given_as_json(run: Path) -> None:
    shown = json.loads(kg("show Q64 --json", run).out)
    assert (shown["id"], shown["label"], shown["kind"]) == ("Q64", "Berlin", "entity")
    country = next(group for group in shown["out"] if group["relation"] == "P17")
    assert country["nodes"] == [{"id": "Q183", "label": "Germany", "rank": "normal"}]
    assert json.loads(kg("show P36 --json", run).out)["label"] == "capital"


def test_an_unknown_name_is_answered_with_near_ones(run: Path) -> None:
    assert_refused(kg("show Berln", run), "'Berln'", "Q64 (Berlin)")
    assert_refused(kg("show Q999999999", run), "'Q999999999'")


# --- query ----------------------------------------------------------------------------------------------------------


def test_patterns_are_answered_as_a_table_as_tsv_and_as_json(run: Path) -> None:
    patterns = "'?x \"place of birth\" Berlin'"
    table = kg(f"query {patterns}", run)
    assert "Walter Gropius (Q61071)" in table.out
    tsv = kg(f"query {patterns} --tsv", run).out.splitlines()
    assert tsv == ["x\tx_label", "Q6694\tAlexander von Humboldt", "Q61071\tWalter Gropius"]
    rows = [json.loads(line) for line in kg(f"query {patterns} --json", run).out.splitlines()]
    assert rows[1] == {"x": {"id": "Q61071", "label": "Walter Gropius"}}
    assert kg(f"query {patterns} --count", run).out == "2\n"


def test_a_table_says_that_there_is_more(run: Path) -> None:
    result = kg("query '?x P17 ?y' --limit 3", run)
    assert len(result.out.splitlines()) == 4
    assert "more than 3" in result.err
    assert len(kg("query '?x P17 ?y'", run).out.splitlines()) == 21
    assert len(kg("query '?x P17 ?y' --tsv", run).out.splitlines()) == 317
    assert kg("query '?x P36 Q5'", run).err == "Nothing fits.\n"


def test_sparql_is_answered_with_ids_and_labels(run: Path) -> None:
    result = kg("query --json --sparql 'SELECT ?c ?label { wd:Q64 wdt:P17 ?c . ?c rdfs:label ?label }'", run)
    assert json.loads(result.out) == {"c": {"id": "Q183", "label": "Germany"}, "label": "Germany"}
    assert "yes" in kg("query --sparql 'ASK { wd:Q64 wdt:P17 wd:Q183 }'", run).out
    construct = "query --json --sparql 'CONSTRUCT { ?y wdt:P1376 ?x } WHERE { ?x wdt:P36 ?y . ?y rdfs:label \"Oslo\" }'"
    assert json.loads(kg(construct, run).out)["object"] == {"id": "Q20", "label": "Norway"}
    assert "Not in this graph: wdt:P9999" in kg("query --sparql 'SELECT ?x { wd:Q64 wdt:P9999 ?x }'", run).err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("query", ["triple patterns", "--sparql"]),
        ("query '?x P17 ?y' --sparql 'ASK {}'", ["triple patterns", "--sparql"]),
        ("query '?x P17'", ["'?x P17'", "three"]),
        ("query '?x captal ?y'", ["'captal'", "P36 (capital)"]),
        ("query '?x P17 Germny'", ["'Germny'", "Q183 (Germany)"]),
        ("query '?x P17 ?y' --json --tsv", ["--json", "--tsv"]),
        ("query --sparql 'SELECT ?x {'", ["SPARQL", "not understood"]),
        ("query --sparql 'SELECT ?x { ?x foo:bar ?y }'", ["SPARQL", "foo", "PREFIX"]),
    ],
)
def test_what_cannot_be_asked_is_explained(run: Path, command: str, words: list[str]) -> None:
    assert_refused(kg(command, run), *words)


# --- export ---------------------------------------------------------------------------------------------------------


def test_the_format_follows_the_name_and_the_counts_are_told(run: Path, tmp_path: Path) -> None:
    for name in ("g.graphml", "g.nt", "g.tsv.gz", "g.csv", "g.parquet"):
        result = kg(f"export {tmp_path / name}", run)
        assert result.code == 0, result.err
        assert "7,097 triples" in result.out
    assert (tmp_path / "g.tsv.gz").read_bytes()[:2] == b"\x1f\x8b"
    assert_refused(kg("export g.xlsx", run), "g.xlsx", "--format")


def test_a_part_is_exported_to_standard_output(run: Path) -> None:
    result = kg("export - --format tsv --around berlin --hops 1 --relations country,P36 --entities-only", run)
    assert result.out.splitlines()[1] == "Q64\tP17\tQ183\tBerlin\tcountry\tGermany\tnormal"
    assert "triples" in result.err
    assert_refused(kg("export - -f tsv --relations captal", run), "P36 (capital)")


# --- the guide ------------------------------------------------------------------------------------------------------

GUIDE = (ROOT / "docs/graph.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", re.findall(r"^\.venv/bin/synthie kg (.+)$", GUIDE, re.MULTILINE))
def test_the_commands_of_the_guide_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = kg(command, run)
    assert result.code == 0, result.err
    assert "Nothing fits" not in result.err


def test_the_python_of_the_guide_runs(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kg("export berlin.graphml --around Berlin --hops 2 --entities-only", run)
    [program] = re.findall(r"```python\n(.+?)```", GUIDE, re.DOTALL)
    exec(program.replace("data/runs/demo/kg", str(run / "kg")), {})


# --- what goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["info", "show Q64", "query '?x P17 ?y'", "export g.nt"])
def test_a_run_without_a_graph_is_named(tmp_path: Path, command: str) -> None:
    assert_refused(kg(command, tmp_path / "run"), str(tmp_path / "run/kg"), "Run the stage that makes it first")


@pytest.mark.parametrize("file_format", ["graphml", "ntriples", "tsv", "csv", "parquet"])
def test_a_full_disk_is_told_and_leaves_nothing(run: Path, tmp_path: Path, file_format: str) -> None:
    """A limit on the size of files stands for the disk: it strikes in the same calls."""
    command = [sys.executable, "-m", "synthie.cli", "kg", "export", tmp_path / "out", "-f", file_format, "--run", run]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # noqa: E731
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=limit, timeout=240)
    assert_refused(Result(done.returncode, done.stdout, done.stderr), str(tmp_path / "out"), "ulimit -f")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["info", "show Q183", "query '?x ?r ?y' --tsv", "export - -f ntriples"])
def test_a_reader_that_stops_reading_ends_the_command_quietly(run: Path, command: str) -> None:
    line = f"{shlex.quote(sys.executable)} -m synthie.cli kg {command} --run {shlex.quote(str(run))} | true"
    done = subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode in (0, 141)
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr
