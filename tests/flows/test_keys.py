"""Keys in Secret blocks: stored by one command, used by a flow run, found nowhere afterwards."""

import io
import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prefect.blocks.system import Secret
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogHandler
from prefect.settings import get_current_settings
from pydantic import SecretStr
from scripted_endpoint import Reply, ScriptedEndpoint, Seen, faithful
from texts_world import make_world

from flows.keys import load_secret, main
from flows.stages import texts_flow
from synthie.config import GenerationConfig, RunConfig
from synthie.errors import AuthenticationError, ConfigError

KEY = "sk-flow-5f1d0c77b3e94a28"


def store(name: str, key: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(key + "\n"))
    return main([name])


@pytest.mark.parametrize("key", [KEY, "1234567890", '{"not": "data"}'])
def test_a_key_is_stored_from_a_pipe_and_loaded_as_it_was(
    prefect_server: None, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    assert store("stored", "another", monkeypatch) == 0
    assert store("stored", f"  {key}", monkeypatch) == 0
    assert load_secret("stored") == key


def test_a_name_or_key_that_cannot_be_stored_is_refused(
    prefect_server: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert store("My Key", KEY, monkeypatch) == 1
    assert "lower-case" in capsys.readouterr().err
    assert store("empty", " ", monkeypatch) == 1
    assert main([]) == 2


def test_a_missing_block_is_named_with_the_command_that_makes_it(prefect_server: None) -> None:
    with pytest.raises(ConfigError, match=r"no Prefect Secret block 'absent'.*python -m flows\.keys absent"):
        load_secret("absent")


@pytest.mark.parametrize("value", ["", " "])
def test_a_block_without_a_key_is_refused(prefect_server: None, value: str) -> None:
    Secret(value=SecretStr(value)).save("blank", overwrite=True)
    with pytest.raises(ConfigError, match="holds no key"):
        load_secret("blank")


def left_behind(run: Path) -> dict[str, bytes]:
    """Every file that a flow run leaves: the run's folder, Prefect's database and its other files."""
    APILogHandler().flush()
    EventsWorker.drain_all()
    settings = get_current_settings()
    database = Path(urlsplit(str(settings.server.database.connection_url.get_secret_value())).path)  # type: ignore[union-attr]
    roots = [run, Path(os.environ["PREFECT_HOME"]), database.parent]
    return {str(path): path.read_bytes() for root in roots for path in root.rglob("*") if path.is_file()}


def test_the_key_reaches_the_endpoint_and_nothing_that_a_run_leaves(
    prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert store("used", KEY, monkeypatch) == 0
    make_world(tmp_path)

    def respond(seen: Seen) -> Reply:
        """The key in use, repeated to who is refused."""
        if len(server.seen) > 100:
            return Reply.error(401, f"Incorrect API key provided: {seen.headers['Authorization']}")
        return faithful(seen)

    with ScriptedEndpoint(respond) as server:
        generation = GenerationConfig(base_url=server.base_url, model="gpt-4o-mini", api_key_block="used")
        config = RunConfig(run=str(tmp_path), generation=generation)
        texts_flow(config)
        assert {seen.headers["Authorization"] for seen in server.seen} == {f"Bearer {KEY}"}
        with pytest.raises(AuthenticationError):
            texts_flow(config.model_copy(update={"seed": 1}))

    files = left_behind(tmp_path)
    database = b"".join(content for name, content in files.items() if "prefect-test.db" in name)
    assert b"Incorrect API key provided" in database
    assert [name for name, content in files.items() if KEY.encode() in content] == []
    assert KEY not in "".join(capfd.readouterr())
