"""A data set on the Hugging Face hub: one repository, one tag a version, only new files uploaded."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthie.errors import ConfigError, EndpointError
from synthie.exchange.exporting import shards_in

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["TOKEN", "Pushed", "push"]

TOKEN = "HF_TOKEN"
_ENDPOINT = "HF_ENDPOINT"
_FILES = ("README.md", "statistics.json", "coverage.png", "data/*.parquet", "*.jsonl.gz")
_KIND = "dataset"


@dataclass(frozen=True, slots=True)
class Pushed:
    """What has been pushed.

    Attributes:
        url: of the repository.
        version: of the data set, "" where it has none (imported data).
        files: how many files make it up.
        uploaded: how many of them the hub did not have in this form.
    """

    url: str
    version: str
    files: int
    uploaded: int


def push(dataset: Path, repository: str, *, private: bool = True) -> Pushed:
    """Upload a data set's card, statistics, plot and records, and tag the version.

    What the hub has of an earlier version and this one lacks is deleted there. The token is that of the environment
    variable ``HF_TOKEN``; it is never told to anybody but the hub (``HF_ENDPOINT``, else huggingface.co).

    Args:
        dataset: folder of a finished data set.
        repository: NAME/DATASET; created if absent.
        private: whether a repository that is created is private; one that exists stays as it is.

    Raises:
        ConfigError: there is no token, or the library ``huggingface_hub`` is missing.
        EndpointError: the hub cannot be reached, or refuses.
        InputError: the data set is not finished, or the folder holds none.
    """
    shards_in(dataset)
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise ConfigError(
            f"Set the environment variable {TOKEN} to a token with write access (huggingface.co/settings/tokens) to "
            "push a data set to the hub."
        )
    statistics = dataset / "statistics.json"
    version = json.loads(statistics.read_bytes()).get("version", "") if statistics.exists() else ""
    paths = sorted({path for pattern in _FILES for path in dataset.glob(pattern)})
    with _explained(repository, token) as api:
        url = api.create_repo(repository, repo_type=_KIND, private=private, exist_ok=True)
        known = {file.path: file for file in api.list_repo_tree(repository, repo_type=_KIND, recursive=True)}
        new = [path for path in paths if not _is_same(path, known.get(path.relative_to(dataset).as_posix()))]
        api.upload_folder(
            repo_id=repository,
            repo_type=_KIND,
            folder_path=dataset,
            allow_patterns=[path.relative_to(dataset).as_posix() for path in paths],
            delete_patterns=list(_FILES),
            commit_message=f"Version {version}" if version else "Imported data",
        )
        if version:
            api.create_tag(repository, repo_type=_KIND, tag=f"v{version}", exist_ok=True)
    return Pushed(str(url), version, len(paths), len(new))


def _is_same(path: Path, there: Any) -> bool:
    """Whether the hub has the file in this form: large files are known by SHA-256, small ones by git's digest."""
    if there is None or there.size != path.stat().st_size:
        return False
    if there.lfs is not None:
        with path.open("rb") as file:
            return there.lfs.sha256 == hashlib.file_digest(file, "sha256").hexdigest()
    content = path.read_bytes()
    return there.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def _explained(repository: str, token: str) -> Iterator[HfApi]:
    """The hub's API; its errors as ours, without the token."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        raise ConfigError(
            "Pushing to the hub needs the library huggingface_hub. Install it: pip install 'synthie[hub]'."
        ) from None
    # Which library it asks through depends on its version; its own error is derived from that library's.
    http_errors: tuple[Any, ...] = (*HfHubHTTPError.__bases__, OSError)
    endpoint = os.environ.get(_ENDPOINT, "").rstrip("/") or None
    api = HfApi(endpoint=endpoint, token=token)
    try:
        yield api
    except HFValidationError as error:
        raise ConfigError(f"{repository!r} is no name of a repository on the hub: {_without(token, error)}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        raise EndpointError(_refusal(status, api.endpoint, repository, _without(token, error))) from None
    except http_errors as error:
        raise EndpointError(
            f"Cannot push to the hub at {api.endpoint}: {_without(token, error) or type(error).__name__}. Run again to "
            "go on: what is uploaded already is not uploaded again."
        ) from None
    except ValueError as error:
        raise EndpointError(f"The hub at {api.endpoint} does not take the data: {_without(token, error)}") from None


def _refusal(status: int, endpoint: str, repository: str, told: str) -> str:
    meanings: Mapping[int, str] = {
        401: f"does not accept the token in {TOKEN}. Make one with write access, and set the variable to it.",
        403: f"does not let the token in {TOKEN} write to {repository}. Make one with write access to it.",
        404: f"has no {repository} that the token in {TOKEN} may see. Check the name before the slash.",
    }
    return f"The hub at {endpoint} {meanings.get(status, f'refused: {told}')}"


def _without(token: str, error: Exception) -> str:
    return " ".join(str(error).split()).replace(token, "…")
