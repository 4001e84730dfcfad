"""Facts changed on purpose, so that the text that words them is unfaithful: work for the quality checks.

The four ways are those in which a language model errs: it leaves a fact out,
mixes up an object, adds a fact of its own, or gets a number wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from synthie.llm.facts import LITERAL_KINDS, Fact, entity_classes, object_kind
from synthie.llm.lexicon import lexicon

__all__ = ["corrupt", "invent"]


def corrupt(facts: Sequence[Fact], others: Sequence[Fact], random: Random) -> tuple[list[Fact], str]:
    """Change the facts so that a text that words them is unfaithful.

    Args:
        facts: the facts to state.
        others: further facts of the same request (its demonstrations), whose objects may be mixed up with these.
        random: source of all choices.

    Returns:
        The changed facts, and what was done: ``dropped`` (one fact left out), ``swapped`` (another object),
        ``invented`` (a fact too many) or ``changed`` (another number).
    """
    facts = list(dict.fromkeys(facts))
    ways = ["swapped", "invented"]
    if len(facts) > 1:
        ways.append("dropped")
    numbered = [index for index, fact in enumerate(facts) if object_kind(fact) in LITERAL_KINDS]
    if numbered:
        ways.append("changed")
    way = random.choice(ways)
    if way == "dropped":
        del facts[random.randrange(len(facts))]
    elif way == "changed":
        index = random.choice(numbered)
        facts[index] = facts[index]._replace(object=_other_number(facts[index].object, random))
    elif way == "invented":
        facts.append(_invention(facts, random))
    else:
        index = random.randrange(len(facts))
        facts[index] = facts[index]._replace(object=_other_object(facts[index], facts, others, random))
    return facts, way


def invent(topic: str, random: Random) -> Fact:
    """A fact about the topic of a text that should state none."""
    return random.choice(
        [Fact(topic, *fact) for facts in lexicon().inventions.values() for fact in facts if fact[1] != topic]
    )


def _other_number(name: str, random: Random) -> str:
    """The same literal with one digit of its longest number changed (never into a leading zero)."""
    longest = max(re.finditer(r"\d+", name), key=lambda match: len(match[0]), default=None)
    if longest is None:
        return name
    place = random.randrange(longest.start(), longest.end())
    digits = [digit for digit in "123456789" if digit != name[place]]
    return f"{name[:place]}{random.choice(digits)}{name[place + 1 :]}"


def _invention(facts: Sequence[Fact], random: Random) -> Fact:
    subject = random.choice(facts).subject
    kind = "person" if entity_classes(facts).get(subject) == "person" else "thing"
    stated = {(fact.subject, fact.relation) for fact in facts}
    named = {name for fact in facts for name in (fact.subject, fact.object)}
    choices = [
        Fact(subject, relation, name)
        for relation, name in lexicon().inventions[kind]
        if (subject, relation) not in stated and name not in named
    ]
    return random.choice(choices or [Fact(subject, "different from", random.choice(lexicon().strangers["thing"]))])


def _other_object(fact: Fact, facts: Sequence[Fact], others: Sequence[Fact], random: Random) -> str:
    """An object of the same class that the fact does not have: of another fact, a demonstration, or a stranger."""
    kind = object_kind(fact)
    if kind in LITERAL_KINDS:
        return _other_number(fact.object, random)
    true = {other.object for other in facts if other[:2] == fact[:2]} | {fact.subject}
    pools = [
        [other.object for other in facts if object_kind(other) == kind],
        [other.object for other in others if other.relation == fact.relation],
        list(lexicon().strangers.get(kind, lexicon().strangers["thing"])),
    ]
    candidates = [[name for name in pool if name not in true] for pool in pools]
    return random.choice(random.choice([pool for pool in candidates if pool]))
