from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from dataset_world import BORN, BORN_IN, SPOUSE, Folders
from fake_hub import FakeHub, fake_hub
from typer.testing import CliRunner

from synthie.cli import app
from synthie.errors import ConfigError, EndpointError, InputError
from synthie.exchange.hub import push

constants = pytest.importorskip("huggingface_hub.constants")
TOKEN = "hf_averysecrettoken"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub(TOKEN) as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        # Large files go through LFS, which is a protocol of its own, and not through the chunk store.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield hub


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    folders = Folders(tmp_path / "monday")
    folders.add("train", [BORN, SPOUSE])
    folders.add("test", [SPOUSE])
    folders.build()
    return folders


def published(folder: Path) -> dict[str, bytes]:
    names = ("README.md", "statistics.json", "coverage.png", "data/*.parquet", "*.jsonl.gz")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for name in names for path in folder.glob(name)}


def test_a_push_creates_a_private_repository_with_the_files_and_a_tag(hub: FakeHub, folders: Folders) -> None:
    pushed = push(folders.dataset, "me/data")
    assert hub.repositories == {"me/data": True}
    assert hub.files == published(folders.dataset)
    assert not any("manifest" in name or "lock" in name for name in hub.files)
    assert hub.commits == ["Version 1.0"]
    assert hub.tags == {"v1.0": 1}
    assert (pushed.url, pushed.version) == (f"{hub.url}/datasets/me/data", "1.0")
    assert (pushed.files, pushed.uploaded) == (7, 7)


def test_a_folder_of_another_stage_is_not_pushed(hub: FakeHub, folders: Folders) -> None:
    with pytest.raises(InputError, match="is no data set"):
        push(folders.texts, "me/data")
    assert hub.repositories == {}


def test_what_a_build_that_was_killed_has_left_is_not_uploaded(hub: FakeHub, folders: Folders) -> None:
    (folders.dataset / ".previous").mkdir()
    (folders.dataset / ".previous" / "train.jsonl.gz").write_bytes(b"old")
    push(folders.dataset, "me/data")
    assert hub.files == published(folders.dataset)


def test_the_hub_checks_the_metadata_of_the_card(hub: FakeHub, folders: Folders) -> None:
    push(folders.dataset, "me/data")
    assert "POST /api/validate-yaml" in hub.requests


def test_a_public_repository_is_made_when_asked_for(hub: FakeHub, folders: Folders) -> None:
    push(folders.dataset, "me/data", private=False)
    assert hub.repositories == {"me/data": False}


def test_the_next_version_uploads_only_its_new_files(hub: FakeHub, folders: Folders, tmp_path: Path) -> None:
    push(folders.dataset, "me/data")
    before = len(hub.uploads)
    tuesday = Folders(tmp_path / "tuesday", first=2)
    tuesday.add("train", [BORN_IN])
    tuesday.build(continue_from=str(folders.dataset))
    pushed = push(tuesday.dataset, "me/data")
    assert hub.files == published(tuesday.dataset)
    assert len(hub.uploads) - before == 2  # the new shard, and train.jsonl.gz that grew
    assert (pushed.version, pushed.files, pushed.uploaded) == ("1.1", 8, 4)  # and card and statistics
    assert hub.tags == {"v1.0": 1, "v1.1": 2}


def test_files_that_a_new_major_version_lacks_are_deleted_on_the_hub(
    hub: FakeHub, folders: Folders, tmp_path: Path
) -> None:
    tuesday = Folders(tmp_path / "tuesday", first=2)
    tuesday.add("train", [BORN_IN])
    tuesday.build(continue_from=str(folders.dataset))
    push(tuesday.dataset, "me/data")
    push(folders.dataset, "me/data")
    assert hub.files == published(folders.dataset)


def test_pushing_again_uploads_nothing(hub: FakeHub, folders: Folders) -> None:
    push(folders.dataset, "me/data")
    uploads = list(hub.uploads)
    assert push(folders.dataset, "me/data").uploaded == 0
    assert hub.uploads == uploads


def test_without_a_token_nothing_is_asked(hub: FakeHub, folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match="Set the environment variable HF_TOKEN"):
        push(folders.dataset, "me/data")
    assert hub.requests == []


def test_a_refused_token_is_an_error_that_does_not_tell_it(
    hub: FakeHub, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrongtoken")
    with pytest.raises(EndpointError, match="does not accept the token in HF_TOKEN") as caught:
        push(folders.dataset, "me/data")
    assert "hf_wrongtoken" not in str(caught.value)
    assert hub.files == {}


def test_an_unreachable_hub_is_an_error(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(EndpointError, match=r"Cannot push to the hub at http://127\.0\.0\.1:9"):
        push(folders.dataset, "me/data")


def test_a_name_that_is_none_is_an_error(hub: FakeHub, folders: Folders) -> None:
    with pytest.raises(ConfigError, match="'my data/x' is no name of a repository"):
        push(folders.dataset, "my data/x")


def test_an_unfinished_data_set_is_not_pushed(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no finished stage"):
        push(tmp_path, "me/data")


def test_the_command_never_prints_or_logs_the_token(
    hub: FakeHub, folders: Folders, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        done = CliRunner().invoke(app, ["-v", "dataset", "push", "me/data", "--dataset", str(folders.dataset)])
    assert done.exit_code == 0, done.output
    assert "version 1.0, 7 files, 7 of them new" in done.output
    assert TOKEN not in done.output + caplog.text
