"""Sentences that mention a topic and state nothing about it: the rule-made model's texts without triplets.

What it says is in ``remarks.yaml``; here a mention of the topic and an addition
are put together. All choices come from one random stream.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from random import Random

import yaml

from synthie.llm.lexicon import sentence, undisambiguated, with_article

__all__ = ["remark"]


def remark(topic: str, random: Random) -> str:
    """One or two sentences that name the topic, mostly without its trailing parentheses, and state no fact about it.

    >>> remark("Mercury (planet)", Random(1))
    'Have you ever wondered why people care so much about Mercury? Opinions differ, and that is fine.'
    """
    name = undisambiguated(topic) if random.random() < 0.85 else topic
    mention = sentence(random.choice(_remarks()["mentions"]).replace("{topic}", with_article(name)))
    return f"{mention} {random.choice(_remarks()['additions'])}" if random.random() < 0.75 else mention


@cache
def _remarks() -> dict[str, list[str]]:
    return yaml.safe_load(Path(__file__).with_name("remarks.yaml").read_text(encoding="utf-8"))
