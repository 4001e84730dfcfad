"""The command line as a user meets it: help that teaches, and one clear paragraph for whatever goes wrong."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from scripted_endpoint import Reply, ScriptedEndpoint
from typer.main import get_command

from synthie.cli import app, main
from synthie.llm.local import LocalServer

ROOT = Path(__file__).parents[2]
DUMP = ROOT / "data/sample/wikidata.json.gz"
SETS = 40
KEY = "sk-right-0123456789"
TINY = ["--set", f"sampling.n_sets={SETS}", "--set", f"sampling.round_size={SETS}"]
PRICED = ["--set", "generation.input_usd_per_million=1", "--set", "generation.output_usd_per_million=2"]
LONGEST_MESSAGE = 700
WAIT_S = 240


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


def synthie(*arguments: str | Path, stdin: str = "", **environment: str) -> Result:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["synthie", *map(str, arguments)]),
        patch.object(sys, "stdin", io.StringIO(stdin)),
        patch.dict(os.environ, environment),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
            code: Any = 0
        except SystemExit as ended:
            code = ended.code or 0
    return Result(code, out.getvalue(), err.getvalue())


def start(*arguments: str | Path, largest_file: int | None = None) -> subprocess.Popen[str]:
    """Run the command line as a process, which may not write files of more than ``largest_file`` bytes."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored in what a script runs in the background
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    command = [sys.executable, "-m", "synthie.cli", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=prepare
    )


def finish(process: subprocess.Popen[str]) -> Result:
    out, err = process.communicate(timeout=WAIT_S)
    return Result(process.returncode, out, err)


def assert_refused(result: Result, *words: str) -> None:
    """The command has failed with one paragraph that holds all the words."""
    message = result.err.strip()
    assert result.code not in (0, None)
    assert message.startswith("Error: "), result.err
    assert "\n" not in message
    assert len(message) <= LONGEST_MESSAGE
    assert [word for word in words if word not in message] == [], message


def content(folder: Path) -> dict[str, str]:
    """Path of each visible file -> digest."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with graph, sets and texts; not to be written."""
    run = tmp_path_factory.mktemp("finished")
    for command in (["kg", "build"], ["sample"], ["generate"]):
        result = synthie(*command, "--run", run, "--set", f"kg.dump={DUMP}", *TINY)
        assert result.code == 0, result.err
    return run


def test_sampling_shows_how_well_the_sets_cover_the_graph(finished: Path) -> None:
    result = synthie("sample", "--run", finished, "--set", f"kg.dump={DUMP}", *TINY)
    assert "sample triplet sets: already done" in result.out
    assert f"{SETS} sets of" in result.out
    report = json.loads((finished / "sets/coverage.json").read_text())
    entities = report["coverage"]["entities"]
    line = next(line for line in result.out.splitlines() if line.startswith("entities"))
    assert line.split()[1:3] == [f"{entities['covered']:,}", f"{entities['reachable']:,}"]
    assert all(split in result.out for split in report["splits"])


def test_a_reader_that_stops_reading_ends_the_command_without_a_word(finished: Path) -> None:
    process = start("sample", "--run", finished, "--set", f"kg.dump={DUMP}", *TINY)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(WAIT_S) == 141


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A run with graph and sets."""
    for stage in ("kg", "sets"):
        shutil.copytree(finished / stage, tmp_path / stage)
    return tmp_path


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer(api_key=KEY) as endpoint:
        yield endpoint


# --- Help -----------------------------------------------------------------------------------------------------------


def commands() -> dict[str, object]:
    """Words of each command -> the command."""
    found = {}
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        found[name] = command
        found |= {f"{name} {inner}": child for inner, child in getattr(command, "commands", {}).items()}
    return found


@pytest.mark.parametrize("command", commands())
def test_help_names_the_purpose_and_every_option(command: str) -> None:
    result = synthie(*command.split(), "--help", COLUMNS="200")
    assert result.code == 0
    described = commands()[command]
    assert len(described.help or "") > 20  # type: ignore[attr-defined]
    for parameter in described.params:  # type: ignore[attr-defined]
        assert parameter.help, parameter.name
        assert parameter.param_type_name == "argument" or parameter.opts[0] in result.out


def test_the_help_of_the_whole_names_every_command() -> None:
    result = synthie("--help", COLUMNS="200")
    assert result.code == 0
    assert all(name.split()[-1] in result.out for name in commands() if " " not in name)
    assert "synthie demo" in result.out
    stages = [result.out.index(f"│ {name} ") for name in ("demo", "sample", "generate", "judge", "train", "score")]
    assert stages == sorted(stages)


def test_the_installed_command_answers() -> None:
    script = Path(sys.executable).with_name("synthie")
    if not script.exists():
        pytest.skip("the package is not installed in this environment")
    done = subprocess.run([script, "kg", "--help"], capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0
    assert "build" in done.stdout


def test_an_unknown_command_is_a_usage_error() -> None:
    result = synthie("smaple")
    assert result.code == 2
    assert "smaple" in result.err
    assert "Traceback" not in result.err


def test_a_reader_that_stops_reading_gets_no_traceback() -> None:
    process = start("config")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait(WAIT_S)


# --- Configuration --------------------------------------------------------------------------------------------------


def test_a_typo_in_the_configuration_names_file_field_and_the_right_spelling(tmp_path: Path) -> None:
    config = tmp_path / "my.yaml"
    config.write_text("sampling:\n  n_set: 5\n")
    result = synthie("sample", "--config", config, "--run", tmp_path / "run")
    assert_refused(result, str(config), "sampling.n_set", "did you mean 'n_sets'?")
    assert result.code == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("kg.relations=[p17]", ["kg.relations", "'p17' is not a Wikidata property id such as P17"]),
        ("kg.relations=[p017]", ["did you mean P17?"]),
        ("sampling.n_sets=many", ["sampling.n_sets", "'many'"]),
        ("sampling.n_sets", ["section.field=value"]),
        ("kgs.language=de", ["'kgs'", "'kg'"]),
    ],
)
def test_a_wrong_override_names_field_and_mend(tmp_path: Path, override: str, words: list[str]) -> None:
    result = synthie("kg", "build", "--run", tmp_path / "run", "--set", override)
    assert_refused(result, *words)
    assert "Value error" not in result.err
    assert result.code == 2


# --- Dump -----------------------------------------------------------------------------------------------------------


def build(folder: Path, dump: Path | str, *options: str) -> Result:
    settings = [part for option in (f"kg.dump={dump}", *options) for part in ("--set", option)]
    return synthie("kg", "build", "--run", folder / "run", *settings)


def test_a_missing_dump_is_named(tmp_path: Path) -> None:
    assert_refused(build(tmp_path, tmp_path / "no.json.gz"), "no.json.gz", "No such file", "kg.dump")
    assert not (tmp_path / "run").exists()


def test_a_cut_gzip_dump_is_recognised(tmp_path: Path) -> None:
    dump = tmp_path / "cut.json.gz"
    dump.write_bytes(DUMP.read_bytes()[:200_000])
    assert_refused(build(tmp_path, dump), str(dump), "truncated", "byte 200000", "Fetch the file again")
    assert not (tmp_path / "run/kg/manifest.json").exists()


def test_a_cut_plain_dump_is_recognised(tmp_path: Path) -> None:
    dump = tmp_path / "cut.json"
    dump.write_bytes(gzip.decompress(DUMP.read_bytes())[:100_000])
    assert_refused(build(tmp_path, dump), str(dump), "truncated", "Fetch the file again")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<!doctype html><title>404</title>", ["an HTML or XML page", "fetch the JSON dump again"]),
        ("subject,relation,object\nQ1,P31,Q2\n", ["not a Wikidata JSON dump", "subject,relation", "kg.dump"]),
        ("", ["is empty (0 bytes)"]),
    ],
)
def test_what_is_no_dump_is_called_what_it_is(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "dump.json").write_text(text)
    assert_refused(build(tmp_path, tmp_path / "dump.json"), str(tmp_path / "dump.json"), *words)


def test_filters_that_leave_nothing_are_explained(tmp_path: Path) -> None:
    result = build(tmp_path, DUMP, "kg.language=xx")
    assert_refused(result, "passes the filters", "no article", "'kg.entities' to 'labelled'", "kg.language")


def test_a_relation_that_the_dump_lacks_is_named(tmp_path: Path) -> None:
    result = build(tmp_path, DUMP, "kg.relations=[P17, P9999]")
    assert result.code == 0
    assert "has the selected relation P9999" in result.err
    nothing = build(tmp_path / "nothing", DUMP, "kg.relations=[P9999]")
    assert_refused(nothing, "has the selected relation P9999", "relation not selected")


# --- Folders --------------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = Path("/sys/kernel/synthie") if os.geteuid() == 0 else tmp_path / "locked"
    if os.geteuid() != 0:
        folder.mkdir(mode=0o500)
    elif not folder.parent.is_dir():
        pytest.skip("root may write everywhere here")
    result = synthie("kg", "build", "--run", folder, "--set", f"kg.dump={DUMP}")
    assert_refused(result, str(folder), "Choose another run folder" if os.geteuid() else "choose another run folder")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc, where no folder can be made")
def test_a_place_where_no_folder_can_be_made_is_named() -> None:
    result = synthie("kg", "build", "--run", "/proc/self/synthie", "--set", f"kg.dump={DUMP}")
    assert_refused(result, "/proc/self/synthie", "Choose another run folder")


def test_a_file_in_place_of_the_run_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    result = synthie("kg", "build", "--run", tmp_path / "file", "--set", f"kg.dump={DUMP}")
    assert_refused(result, str(tmp_path / "file"), "not a folder")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("command", "lacking"),
    [
        ("kg info", "kg"),
        ("kg show Q64", "kg"),
        ("sample", "kg"),
        ("estimate", "kg"),
        ("generate", "kg"),
        ("dataset", "kg"),
        ("train", "kg"),
        ("predict", "dataset"),
        ("evaluate", "dataset"),
    ],
)
def test_a_stage_without_its_input_names_the_folder_and_the_order(tmp_path: Path, command: str, lacking: str) -> None:
    result = synthie(*command.split(), "--run", tmp_path / "run")
    assert_refused(result, str(tmp_path / "run" / lacking), "Run the stage that makes it first")
    assert not (tmp_path / "run").exists()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [cut, Path.unlink])
@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("sample", "kg/csr/nodes.arrow"),
        ("generate", "sets/sets.parquet"),
        ("dataset", "sets/sets.parquet"),
        ("dataset", "kg/relations.parquet"),
        ("dataset", "texts/samples/part-00000.parquet"),
    ],
)
def test_a_damaged_or_lost_file_is_named_with_the_way_to_mend_it(
    run: Path, finished: Path, damage: Callable[[Path], None], command: str, file: str
) -> None:
    shutil.copytree(finished / "texts", run / "texts")
    if command != "dataset":
        shutil.rmtree(run / {"sample": "sets", "generate": "texts"}[command])
    damage(run / file)
    before = content(run)
    result = synthie(command, "--run", run, "--set", f"kg.dump={DUMP}", *TINY)
    assert_refused(result, str(run / file), "the stage that makes it again")
    assert before.items() <= content(run).items()


def test_following_the_advice_mends_a_damaged_file(run: Path) -> None:
    file = run / "sets/sets.parquet"
    sound = file.read_bytes()
    cut(file)
    assert_refused(synthie("generate", "--run", run, *TINY), str(file), "Delete the file")
    file.unlink()
    assert synthie("sample", "--run", run, *TINY).code == 0
    assert file.read_bytes() == sound


def test_a_damaged_manifest_is_one_paragraph(run: Path) -> None:
    (run / "kg/manifest.json").write_text("{}")
    assert_refused(synthie("sample", "--run", run, *TINY), str(run / "kg/manifest.json"), "damaged")


# --- Disk -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "stage", "largest_file"),
    [
        ("kg build", "kg", 50_000),
        ("sample", "sets", 100),
        ("sample", "sets", 1_500),
        ("generate", "texts", 5_000),
        ("dataset", "dataset", 1_000),
    ],
)
def test_a_full_disk_is_told_and_the_same_command_goes_on_afterwards(
    run: Path, finished: Path, command: str, stage: str, largest_file: int
) -> None:
    """A limit on the size of files stands for the disk: it strikes in the same calls."""
    if stage == "dataset":
        shutil.copytree(finished / "texts", run / "texts")
    elif stage != "texts":
        shutil.rmtree(run / stage)
    arguments = [*command.split(), "--run", run, "--set", f"kg.dump={DUMP}", *TINY]
    before = {name for name in content(run) if not name.startswith(stage)}
    assert_refused(finish(start(*arguments, largest_file=largest_file)), str(run / stage), "ulimit -f", "kept")
    assert not (run / stage / "manifest.json").exists()
    assert before <= content(run).keys()
    stored = run / "texts/journal/000001.journal"
    if stage == "texts":
        assert stored.stat().st_size > 0
    assert synthie(*arguments).code == 0
    if stage == "texts":
        assert json.loads((run / "texts/cost.json").read_bytes())["this_run"]["answered_before"] > 0


# --- Endpoint -------------------------------------------------------------------------------------------------------


def generate(run: Path, base_url: str, *options: str, key: str = KEY) -> Result:
    settings = [part for option in (f"generation.base_url={base_url}", *options) for part in ("--set", option)]
    return synthie("generate", "--run", run, *TINY, *PRICED, *settings, OPENAI_API_KEY=key)


def test_a_wrong_key_is_refused_and_written_nowhere(run: Path, server: LocalServer) -> None:
    wrong = "sk-wrong-9876543210"
    result = generate(run, server.base_url, key=wrong)
    assert_refused(result, "401", "OPENAI_API_KEY", server.base_url)
    assert wrong not in result.err + result.out
    assert not [path for path in run.rglob("*") if path.is_file() and wrong.encode() in path.read_bytes()]


def test_a_missing_key_is_told_from_a_wrong_one(run: Path, server: LocalServer) -> None:
    assert_refused(generate(run, server.base_url, key=""), "No key was sent", "OPENAI_API_KEY")


def test_the_key_of_a_good_run_is_written_nowhere(run: Path, server: LocalServer) -> None:
    assert generate(run, server.base_url).code == 0
    assert not [path for path in run.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_an_unknown_model_is_refused_with_those_that_exist(run: Path, server: LocalServer) -> None:
    assert_refused(generate(run, server.base_url, "generation.model=gpt-nope"), "'gpt-nope'", "synthie-rules")


def test_a_budget_below_one_call_is_refused_with_the_price_of_one(run: Path, server: LocalServer) -> None:
    result = generate(run, server.base_url, "max_usd=0.00001")
    assert_refused(result, "0.000000 of 0.000010 USD", "higher max_usd")


def test_an_endpoint_that_does_not_answer_is_named(run: Path) -> None:
    result = generate(run, "http://127.0.0.1:9/v1", "generation.max_attempts=1")
    assert_refused(result, "http://127.0.0.1:9/v1", "Start the server there or correct generation.base_url")


def test_a_pilot_asks_for_a_few_texts_and_says_what_all_will_cost(run: Path) -> None:
    with ScriptedEndpoint() as endpoint:
        settings = ["--set", f"generation.base_url={endpoint.base_url}", "--set", "generation.model=gpt-4o-mini"]
        before = synthie("estimate", "--run", run, *TINY, *settings)
        assert f"{SETS} texts by gpt-4o-mini: " in before.out
        assert endpoint.seen == []
        told = synthie("estimate", "--run", run, *TINY, *settings, "--pilot", "20")
        assert "about 20 of them stored already" in told.out
        assert "The run's limit is $5.00" in told.out
        assert len(endpoint.seen) == 20
        assert synthie("generate", "--run", run, *TINY, *settings).code == 0
        assert len(endpoint.seen) == SETS


def test_what_was_refused_for_good_is_asked_for_again_when_told(run: Path) -> None:
    with ScriptedEndpoint() as endpoint:
        endpoint.script.append(Reply.error(400, "The content filter objects.", code="content_filter"))
        short = generate(run, endpoint.base_url)
        assert_refused(short, f"1 of {SETS} texts could not be had", "failures.jsonl", "--retry-failed")
        assert generate(run, endpoint.base_url).code == short.code
        assert len(endpoint.seen) == SETS
        settings = [*PRICED, "--set", f"generation.base_url={endpoint.base_url}"]
        assert synthie("generate", "--run", run, *TINY, *settings, "--retry-failed").code == 0
        assert len(endpoint.seen) == SETS + 1


@pytest.mark.parametrize("lost", [0, 1])
def test_a_damaged_journal_tail_costs_only_the_records_in_it(run: Path, lost: int) -> None:
    with ScriptedEndpoint() as endpoint:
        assert generate(run, endpoint.base_url).code == 0
        asked = len(endpoint.seen)
        first = content(run / "texts")
        journal = run / "texts/journal/000001.journal"
        if lost:
            os.truncate(journal, journal.stat().st_size - 10)
        else:
            journal.write_bytes(journal.read_bytes() + b"\xf5SJ1 garbage " * 20)
        (run / "texts/manifest.json").unlink()  # as if killed before the end
        assert generate(run, endpoint.base_url).code == 0
        assert len(endpoint.seen) - asked == lost
    bill = json.loads((run / "texts/cost.json").read_bytes())
    assert bill["this_run"]["answered_before"] == asked - lost
    if not lost:  # an answer that is asked for again has another latency
        made = [name for name in first if name.startswith(("samples", "rejected"))]
        assert {name: content(run / "texts")[name] for name in made} == {name: first[name] for name in made}


def test_an_interrupt_ends_promptly_and_says_what_is_kept(run: Path) -> None:
    journal = run / "texts/journal/000001.journal"
    slow = ["--set", "generation.local.latency_s=1", "--set", "generation.concurrency=2"]
    process = start("generate", "--run", run, *TINY, *slow)
    while process.poll() is None and not (journal.exists() and journal.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    result = finish(process)
    assert result.code == 130
    assert "Interrupted: generate and check texts." in result.err
    assert str(run) in result.err
    assert "Traceback" not in result.err
    assert synthie("generate", "--run", run, *TINY).code == 0
    assert json.loads((run / "texts/cost.json").read_bytes())["this_run"]["answered_before"] > 0


# --- Extraction -----------------------------------------------------------------------------------------------------


def test_extraction_without_an_extractor_names_the_folder(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    result = synthie("extract", "Albert Einstein was born in Ulm.", "--run", tmp_path)
    assert_refused(result, str(tmp_path / "extractor"), "Run the training stage first")


@pytest.mark.parametrize(("arguments", "stdin"), [([], ""), ([], " \n\n"), (["  "], "")])
def test_extraction_without_a_text_says_where_to_give_one(tmp_path: Path, arguments: list[str], stdin: str) -> None:
    result = synthie("extract", *arguments, "--run", tmp_path, stdin=stdin)
    assert_refused(result, "no text", "argument or on standard input")


def test_a_key_variable_without_a_key_is_named() -> None:
    assert_refused(synthie("llm-server", "--api-key-env", "SYNTHIE_NO_SUCH_KEY"), "SYNTHIE_NO_SUCH_KEY", "empty")
