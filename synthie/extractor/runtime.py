"""What training and prediction share about the machine: libraries, cores, device, a quiet console."""

from __future__ import annotations

import os
from importlib import import_module
from logging import ERROR, getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthie.errors import ConfigError

if TYPE_CHECKING:
    import torch

__all__ = ["from_pretrained", "pick_device", "prepare_runtime", "require_libraries"]


def require_libraries() -> None:
    """Import what the extra ``train`` installs.

    Raises:
        ConfigError: a library is missing.
    """
    try:
        for library in ("torch", "tokenizers", "transformers", "accelerate"):
            import_module(library)
    except ImportError as error:
        raise ConfigError(
            f"The extractor needs the library {error.name}, which is not installed. "
            "Install the training extra: pip install 'synthie[train]'."
        ) from error


def prepare_runtime() -> None:
    """Use the cores that this process may run on, and keep its libraries from chatting on the console."""
    import torch
    from transformers.utils import logging

    for library in ("accelerate", "huggingface_hub"):
        getLogger(library).setLevel(ERROR)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)))


def pick_device(device: str) -> torch.device:
    """``auto`` is the GPU if there is one.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda is configured, but torch sees no GPU. Use device=auto or device=cpu.")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def from_pretrained(kind: Any, source: str, **options: Any) -> Any:
    """``kind.from_pretrained`` with one clear error; a local folder never asks the hub.

    Args:
        kind: a class of transformers with ``from_pretrained``.
        source: hub name or folder.
        options: passed on.

    Raises:
        ConfigError: nothing can be loaded from ``source``.
    """
    local = Path(source).is_dir()
    try:
        return kind.from_pretrained(source, local_files_only=local, **options)
    except Exception as error:  # transformers, hub and network raise dozens of unrelated classes here
        reason = " ".join(str(error).split())[:300]
        if local:
            mend = "The folder must hold a transformers encoder-decoder model with its tokenizer."
        else:
            mend = (
                "If it is a name on the Hugging Face hub, check its spelling and the network; without network, "
                "give the folder of a downloaded model as extractor.base_model, or use extractor.preset=demo, "
                "which needs none."
            )
        raise ConfigError(f"The base model {source!r} cannot be loaded. {mend} Reason: {reason}") from error
