"""Keys of LLM endpoints in Prefect's Secret blocks, so that they need not be on every worker.

``python -m flows.keys NAME`` stores one: it asks for the key without showing it, or reads it from a pipe. A flow
run loads it when it first asks the endpoint and keeps it in memory only.
"""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence

from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr

from synthie.errors import ConfigError

__all__ = ["load_secret", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Store a key under the name that is given; returns the exit code."""
    names = list(sys.argv[1:] if arguments is None else arguments)
    if len(names) != 1 or names[0].startswith("-"):
        print("usage: python -m flows.keys NAME", file=sys.stderr)
        return 2
    key = (getpass.getpass("Key: ") if sys.stdin.isatty() else sys.stdin.readline()).strip()
    if not key:
        print("Error: The key is empty.", file=sys.stderr)
        return 1
    try:
        Secret(value=SecretStr(key)).save(names[0], overwrite=True)
    except ValueError:
        print(f"Error: {names[0]!r}: lower-case letters, digits and dashes make the name of a block.", file=sys.stderr)
        return 1
    print(f"Stored. Use it with generation.api_key_block={names[0]}")
    return 0


def load_secret(name: str) -> str:
    """The key in a Secret block: a `synthie.llm.endpoint.Secrets`.

    Raises:
        ConfigError: there is no such block, or it holds something else than a key.
    """
    try:
        # Also called where an event loop runs: `Secret.load` would hand out an awaitable there.
        with get_client(sync_client=True) as client:
            block = client.read_block_document_by_name(name, "secret", include_secrets=True)
    except ObjectNotFound as error:
        raise ConfigError(
            f"There is no Prefect Secret block {name!r} (generation.api_key_block). "
            f"Store the key: .venv/bin/python -m flows.keys {name}"
        ) from error
    key = block.data.get("value")
    if not isinstance(key, str) or not key.strip():
        raise ConfigError(
            f"The Prefect Secret block {name!r} (generation.api_key_block) holds no key but an empty text or JSON "
            f"data. Store the key: .venv/bin/python -m flows.keys {name}"
        )
    return key.strip()


if __name__ == "__main__":
    sys.exit(main())
