"""Whether a text states the triplets of its set, as the set has them: each, in connection, not denied, not mixed up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from synthie.checks.reading import Reading, Reason, triplet_name
from synthie.surface.english import NEGATION_SOFTENERS
from synthie.surface.relations import RelationCues
from synthie.surface.tokens import COMMON_KEYS, NEGATION_KEYS, POSSESSIVE, REFERRING_KEYS, Tokens

__all__ = ["missing", "mistold", "negated", "overlinked", "unlinked"]


def missing(reading: Reading) -> Iterator[Reason]:
    """Nodes of the set, or the topic, that no form states."""
    told = set()
    for number, triplet in reading.numbered():
        for role, mention in (("subject", triplet.subject), ("object", triplet.object)):
            if not reading.places[mention.uri] and mention.uri not in told:
                told.add(mention.uri)
                where = f"the {role} '{mention.surfaceform}' ({mention.uri})"
                yield Reason("missing", f"{triplet_name(number, triplet)}: {where} is not stated.")
    topic = reading.topic
    if topic and not reading.places[topic.uri]:
        yield Reason("missing", f"The topic '{topic.surfaceform}' ({topic.uri}) is not named.")


def unlinked(reading: Reading) -> Iterator[Reason]:
    """Triplets whose subject and object the text names, but never in one sentence, nor with words that refer back."""
    tokens = reading.tokens
    if not tokens.sentences or not tokens.sentences[-1]:
        return
    referring: set[int] | None = None
    for number, triplet in reading.numbered():
        subjects, objects = reading.sentences_of(triplet.subject.uri), reading.sentences_of(triplet.object.uri)
        if not subjects or not objects or not subjects.isdisjoint(objects):
            continue
        if referring is None:
            referring = {sentence for i, sentence in enumerate(tokens.sentences) if _refers(tokens, i, reading.covered)}
        # The later one of the two speaks of the earlier one.
        later = {one for one in subjects if one > min(objects)} | {one for one in objects if one > min(subjects)}
        if referring.isdisjoint(later):
            yield Reason("unlinked", f"{triplet_name(number, triplet)}: no sentence tells of both.")


def negated(reading: Reading) -> Iterator[Reason]:
    """Triplets that a sentence denies: "was not born in"."""
    tokens = reading.tokens
    if NEGATION_KEYS.isdisjoint(tokens.keys):
        return
    for i, key in enumerate(tokens.keys):
        if key not in NEGATION_KEYS or reading.covered[i] or not tokens.is_lower(i):
            continue
        if key == "not" and i + 1 < len(tokens.keys) and tokens.keys[i + 1] in NEGATION_SOFTENERS:
            continue
        for number, triplet in reading.numbered():
            if tokens.sentences[i] in reading.sentences_of(triplet.object.uri):
                span = tokens.span(i, i + 1)
                yield Reason("negated", f"{triplet_name(number, triplet)}: {span} denies what its sentence tells.")
                break


def mistold(reading: Reading, cues: RelationCues) -> Iterator[Reason]:
    """Triplets of which the text tells another relation: "directed by" where the set has a screenwriter."""
    relations = frozenset([triplet.predicate.uri for triplet in reading.triplets])
    rivalled = [(number, triplet) for number, triplet in reading.numbered() if cues.may_rival(triplet.predicate.uri)]
    if not rivalled:
        return
    tokens = reading.tokens
    free = ["" if covered else key for key, covered in zip(tokens.keys, reading.covered, strict=True)]
    for number, triplet in rivalled:
        if cues.tells(tokens.keys, triplet.predicate.uri):
            continue
        told = reading.sentences_of(triplet.object.uri)
        for i, label in cues.rivals(free, triplet.predicate.uri, relations):
            if tokens.sentences[i] in told:
                detail = f"{tokens.span(i, i + 1)} tells of '{label}', and no word of the triplet's relation."
                yield Reason("relation", f"{triplet_name(number, triplet)}: {detail}")
                break


def overlinked(reading: Reading) -> Iterator[Reason]:
    """Nodes that one sentence tells of together though no chain of triplets connects them: a fact beyond the set.

    A set whose triplets all hang together, as sampled ones do, has none.
    """
    triplets = reading.triplets
    if len(triplets) < 2:
        return
    parts = _parts([(triplet.subject.uri, triplet.object.uri) for triplet in triplets])
    if len(set(parts.values())) < 2:
        return
    at: dict[int, str] = {}  # the same words may name several nodes
    same = [(uri, at.setdefault(place, uri)) for uri, places in reading.places.items() for place in places]
    parts = _parts([*same, *parts.items()])
    told: dict[int, str] = {}  # sentence -> the first node that it tells of
    names = {mention.uri: mention for triplet in triplets for mention in (triplet.subject, triplet.object)}
    reported = set()
    for place, uri in sorted((place, uri) for uri, places in reading.places.items() for place in places):
        other = told.setdefault(reading.tokens.sentences[place], uri)
        pair = frozenset((parts.get(uri, uri), parts.get(other, other)))
        if len(pair) > 1 and pair not in reported:
            reported.add(pair)
            both = " and ".join(f"'{names[node].surfaceform}' ({node})" for node in (other, uri))
            span = reading.tokens.span(place, place + 1)
            yield Reason("extra_link", f"One sentence tells of {both}, at {span}, which no triplets connect.")


def _parts(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Node id -> id of a node that stands for all those connected with it."""
    root: dict[str, str] = {}

    def find(uri: str) -> str:
        while (parent := root.setdefault(uri, uri)) != uri:
            uri = parent
        return uri

    for one, other in pairs:
        root[find(one)] = find(other)
    return {uri: find(uri) for uri in root}


def _refers(tokens: Tokens, i: int, covered: bytearray) -> bool:
    """Whether a word may stand for something named elsewhere: a pronoun, "the city", a part of a name."""
    key = tokens.keys[i]
    if key in REFERRING_KEYS:
        return True
    if key == "the":
        return tokens.is_lower(i + 1) and (
            "of" not in tokens.keys[i + 2 : i + 4] or POSSESSIVE.search(tokens.words[i + 1]) is not None
        )
    if covered[i]:
        return False
    return tokens.words[i][0].isupper() and key not in COMMON_KEYS
