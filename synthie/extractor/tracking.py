"""Trackers, by accelerate: TensorBoard if it is installed, others by name."""

from __future__ import annotations

import logging
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from synthie.errors import ConfigError
from synthie.extractor.presets import Preset

__all__ = ["choose_trackers", "start_trackers"]

log = logging.getLogger(__name__)

_PROJECT = "synthie"


def choose_trackers(asked: list[str] | None) -> list[str]:
    """The trackers to use; None asks for TensorBoard where it is installed, else for none.

    Raises:
        ConfigError: a tracker is unknown or not installed.
    """
    installed = {str(tracker) for tracker in get_available_trackers()}
    if asked is None:
        return ["tensorboard"] if "tensorboard" in installed else []
    for name in asked:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ConfigError(
                f"extractor.trackers names {name!r}, which accelerate does not know. "
                f"Known are: {', '.join(LOGGER_TYPE_TO_CLASS)}."
            )
        if name not in installed:
            raise ConfigError(
                f"extractor.trackers names {name!r}, whose package is not installed. Install it, or leave it out."
            )
    return asked


def start_trackers(accelerator: Accelerator, settings: Preset, asked: list[str] | None) -> None:
    """Begin a run with each tracker, under the settings; the log tells where TensorBoard was hoped for in vain."""
    if asked is None and not accelerator.log_with and accelerator.is_main_process:
        log.info(
            "no tracker follows this training, for TensorBoard is not installed (pip install 'synthie[tensorboard]'); "
            "the curve will be in training.json and training_curve.png. extractor.trackers=[] asks for none"
        )
    flat: dict[str, Any] = {}
    for name, value in settings.model_dump(mode="json").items():
        flat |= {f"{name}/{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    accelerator.init_trackers(_PROJECT, config={name: str(v) if v is None else v for name, v in flat.items()})
