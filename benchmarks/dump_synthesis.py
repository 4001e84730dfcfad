"""A Wikidata JSON dump of any size, made up, for benchmarks to read.

    python benchmarks/dump_synthesis.py [MEGABYTES] [FILE] [--compression gzip] [--seed 0]

The form is that of the official ``latest-all.json.gz``: one document a line in
an array, compact, non-ASCII escaped, keys in Wikibase's order, in several gzip
members of which each begins on a line. So are the proportions: about 13 KB and
14 statements a document, half of them external ids, references most of the
bytes; labels in some ten languages with a long tail; one document in eleven has
an English Wikipedia article and is five times as large. What it says is noise.

A pool of documents is composed once as templates; a copy fills the ids, names,
hashes and objects in, most of which exist in the same dump. The same arguments
give the same documents.
"""

from __future__ import annotations

import argparse
import bz2
import hashlib
import json
import math
import multiprocessing
import random
import re
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import zstandard

__all__ = ["COMPRESSIONS", "cached_dump", "write_dump"]

COMPRESSIONS = {"gzip": ".gz", "bzip2": ".bz2", "zstd": ".zst", "plain": ""}
MEGABYTE = 1_000_000

ARTICLE_SHARE = 0.075  # of the documents: entities with an article in English Wikipedia
REPEATED = 0.65  # of the references and qualifiers, by another statement of the same document
PHRASE_WORDS = 30  # descriptions are made of so many words a script
DROPPED_SHARE = 0.02  # disambiguation pages and categories, with an article too
PROPERTY_EVERY, LEXEME_EVERY = 10_000, 5_000  # documents
POOL = {"plain": 1500, "article": 500, "dropped": 60, "lexeme": 5}  # templates of each kind
HUBS = 2000  # the first items are what most statements point to
LARGEST_ID = 130_000_000
MEAN_BYTES = 13_000  # of a document, about
DROP_CLASSES = (4167410, 4167836)

# Scripts: the letters of made-up words, and the languages that write in them, the frequent ones first.
_LETTERS = {
    "latin": "a e i o u ba de fi go la me ni ro su ta ve zo lin mar son ter ville berg stan é ö ç",
    "cyrillic": "а е и о у ба де фи го ла ме ни ро су та ве зо лин мар сон тер вич ский",
    "greek": "α ε ι ο βα δε φι γο λα με νι ρο σου τα",
    "arabic": "ا ب ت ج د ر س ع ف ق ل م ن ه و ي",
    "hebrew": "א ב ג ד ה ו ל מ נ ר ש ת",
    "indic": "क ख ग च ज त द न प ब म र ल व स ह ा ि ी",
    "han": "山 川 田 中 大 小 北 南 東 西 京 海 林 木 水 火 金 土 日 月 人 学 文 史",
    "kana": "ア イ ウ エ オ カ キ ク ケ コ サ シ ス タ チ ト ナ ニ ノ ハ マ ラ リ ル ン",
    "hangul": "가 나 다 라 마 바 사 아 자 차 강 산 서 울 부 대 한 국",
}
_LANGUAGES = {
    "latin": "en nl de fr es it pt sv pl ast ca sq da nb ga cs sl hu fi en-gb tr ro eu vi id nn cy gl et hr sk lt lv "
    "en-ca de-ch de-at pt-br af an br bs ceb eo frp gd ia io is jv la lb lij lmo min ms mul nap nds oc pap pms "
    "rm sc scn sco sw tl uz vec vo wa war wo zu az cbk-zam co crh fo fur fy gn hif hsb ht ig ilo kab kl ku ln mg mi "
    "mt nah nov nrm pag pcd pfl qu rgn se sm so st stq sw szl tet tk to tpi tum ty ve vls vro xh yo zea",
    "cyrillic": "ru uk bg sr mk be be-tarask kk ky tg mn tt ba cv os sah udm myv kv ce av",
    "greek": "el",
    "arabic": "ar fa arz ur ckb ps azb sd ug pnb glk",
    "hebrew": "he yi",
    "indic": "hi bn ta te ml mr kn gu pa ne si or as sa new bho",
    "han": "zh zh-hans zh-hant zh-cn zh-tw zh-hk yue wuu gan lzh",
    "kana": "ja",
    "hangul": "ko",
}
LETTERS = {script: letters.split() for script, letters in _LETTERS.items()}
LANGUAGES = {script: codes.split() for script, codes in _LANGUAGES.items()}
SCRIPT_OF = {language: script for script, languages in LANGUAGES.items() for language in languages}

# Datatype of main snaks -> share of the statements, frequent properties, and how many rare ones there are besides.
DATATYPES: dict[str, tuple[float, list[int], int]] = {
    "external-id": (0.48, [214, 646, 227, 213, 244, 356, 698, 496, 1566, 2671, 345], 900),
    "wikibase-item": (0.30, [17, 131, 106, 27, 21, 19, 2860, 921, 50, 407, 1433, 136, 361, 735, 69, 20, 166], 250),
    "time": (0.07, [569, 570, 577, 571, 580, 582, 585, 1619], 20),
    "string": (0.045, [373, 304, 478, 433, 281, 528], 30),
    "quantity": (0.04, [1082, 2046, 2044, 2048, 2067, 1104, 2215], 60),
    "monolingualtext": (0.025, [1476, 1705, 1448, 1559], 6),
    "commonsMedia": (0.02, [18, 41, 94, 154, 242, 948], 10),
    "globe-coordinate": (0.012, [625, 1332, 1333], 0),
    "url": (0.008, [856, 973, 953], 6),
}
QUALIFIERS = [
    *((number, "time") for number in (580, 582, 585)),
    *((number, "wikibase-item") for number in (407, 642, 3831)),
    *((number, "string") for number in (1545, 1810)),
    (1352, "quantity"),
]
_RARE_PROPERTIES = 3000  # numbers of the rare properties start here
UNITS = 25  # the items from number _FIRST_UNIT on serve as units
_FIRST_UNIT = 40

_GAP = re.compile(rb'"@#(\d+)@"|@(\d+)@')  # the first form stands for a number, without quotation marks


@dataclass(frozen=True)
class Plan:
    """A dump to be made.

    Attributes:
        documents: how many; document k is item ``number(k)`` unless it is one of the few of another kind.
        members: parts that are made, and compressed, apart from one another.
        stride: distance between the numbers of two items that follow one another.
    """

    seed: int
    documents: int
    members: int
    stride: int

    def number(self, document: int) -> int:
        return 11 + document * self.stride

    def range(self, member: int) -> range:
        """The documents of a member."""
        return range(self.documents * member // self.members, self.documents * (member + 1) // self.members)


@dataclass(frozen=True)
class _Template:
    """A document with gaps: ``text % pick(values)``, with a value drawn for each of ``kinds``.

    Kinds: own (number of the item), object (number of another one), guid, hash, digits, year, degrees, or a script of
    `LETTERS` for a word.
    """

    text: bytes
    kinds: tuple[str, ...]
    pick: Callable[[Sequence[bytes]], tuple[bytes, ...]]

    @classmethod
    def of(cls, document: dict[str, Any], kinds: list[str]) -> _Template:
        text = json.dumps(document, separators=(",", ":")).replace("/", "\\/").encode().replace(b"%", b"%%")
        places = [int(match[1] or match[2]) for match in _GAP.finditer(text)]
        return cls(_GAP.sub(b"%b", text), tuple(kinds), itemgetter(*places))


_Pool = dict[str, list[_Template]]


class _Composer:
    """Writes the templates."""

    _kinds: list[str]  # of the gaps of the document at work
    _names: dict[str, str]  # script -> the name of the document's subject
    _references: list[dict[str, Any]]  # those that other statements may repeat
    _qualifiers: list[dict[str, Any]]

    def __init__(self, shape: Plan) -> None:
        self._draw = random.Random(f"templates of {shape.seed}")
        self._number = shape.number
        self._phrase_words = {
            script: [_word(self._draw, script).lower() for _ in range(PHRASE_WORDS)] for script in LETTERS
        }
        self._properties = {
            datatype: frequent + [_RARE_PROPERTIES + 10 * step + place for step in range(rare)]
            for place, (datatype, (_, frequent, rare)) in enumerate(DATATYPES.items())
        }

    def pool(self) -> _Pool:
        kinds: dict[str, Callable[[], dict[str, Any]]] = {
            "plain": lambda: self._item(statements=(7.5, 0.7), languages=(6, 0.9), articles=(0.25, 1.0)),
            "article": lambda: self._item(statements=(48, 0.65), languages=(22, 0.9), articles=(8, 1.1), english=True),
            "dropped": lambda: self._item(
                statements=(1, 0.3), languages=(12, 0.8), articles=(4, 1.0), english=True, cls=True
            ),
            "lexeme": self._lexeme,
        }
        pool = {kind: [self._template(compose) for _ in range(POOL[kind])] for kind, compose in kinds.items()}
        everything = [(number, datatype) for datatype, numbers in self._properties.items() for number in numbers[:8]]
        self._draw.shuffle(everything)
        pool["property"] = [self._template(partial(self._property, *entry)) for entry in everything]
        return pool

    def _template(self, compose: Callable[[], dict[str, Any]]) -> _Template:
        self._kinds, self._names, self._references, self._qualifiers = ["own"], {}, [], []
        return _Template.of(compose(), self._kinds)

    def _gap(self, kind: str) -> str:
        """A new gap to be filled; the text returned may be used several times."""
        self._kinds.append(kind)
        return f"@{len(self._kinds) - 1}@"

    def _number_gap(self, kind: str) -> str:
        """The same for a number, which stands without quotation marks."""
        return self._gap(kind).replace("@", "@#", 1)

    def _item(
        self,
        statements: tuple[float, float],
        languages: tuple[float, float],
        articles: tuple[float, float],
        english: bool = False,
        cls: bool = False,
    ) -> dict[str, Any]:
        """An item; the pairs are median and spread (sigma of a log-normal distribution) of the counts."""
        codes = self._languages(self._count(*languages), english or self._draw.random() < 0.85)
        sites = [code for code in self._languages(self._count(*articles), english) if english or code != "en"]
        return {
            "type": "item",
            "id": "Q@0@",
            **self._terms(codes),
            "claims": self._claims(self._count(*statements), cls),
            "sitelinks": {
                f"{code.replace('-', '_')}wiki": {
                    "site": f"{code.replace('-', '_')}wiki",
                    "title": self._name(code),
                    "badges": [],
                }
                for code in sites
            }
            or [],
            **self._revision(),
        }

    def _terms(self, codes: list[str]) -> dict[str, Any]:
        described = self._languages(self._count(len(codes), 0.5), True)
        aliased = self._languages(self._count(max(1.0, len(codes) / 5), 0.6), self._draw.random() < 0.3)
        return {
            "labels": {code: {"language": code, "value": self._name(code)} for code in codes},
            "descriptions": {code: {"language": code, "value": self._phrase(code)} for code in described},
            "aliases": {
                code: [{"language": code, "value": self._other_name(code)} for _ in range(self._count(1.2, 0.6))]
                for code in aliased
            },
        }

    def _property(self, number: int, datatype: str) -> dict[str, Any]:
        return {
            "type": "property",
            "datatype": datatype,
            "id": f"P{number}",
            **self._terms(self._languages(60, True)),
            "claims": self._claims(12),
            **self._revision(),
        }

    def _lexeme(self) -> dict[str, Any]:
        word = self._word("en")
        return {
            "type": "lexeme",
            "id": "L@0@",
            "lemmas": {"en": {"language": "en", "value": word}},
            "lexicalCategory": "Q1084",
            "language": "Q1860",
            "claims": self._claims(3),
            "forms": [
                {"id": f"L@0@-F{n}", "representations": {"en": {"language": "en", "value": word}}} for n in (1, 2)
            ],
            "senses": [],
            **self._revision(),
        }

    def _revision(self) -> dict[str, Any]:
        return {
            "lastrevid": self._draw.randrange(10**9, 2 * 10**9),
            "modified": f"2025-06-{self._draw.randint(10, 30)}T10:20:30Z",
        }

    def _claims(self, count: int, dropped: bool = False) -> dict[str, Any]:
        cls = self._draw.choice(DROP_CLASSES) if dropped else self._hub()
        snak = self._snak(31, "wikibase-item")
        snak["datavalue"]["value"] |= {"numeric-id": cls, "id": f"Q{cls}"}
        claims = {"P31": [self._statement(snak)]}
        datatypes = self._draw.choices(list(DATATYPES), [share for share, _, _ in DATATYPES.values()], k=count - 1)
        for datatype in datatypes:
            number = self._frequent(self._properties[datatype])
            snak = self._snak(number, datatype)
            if self._draw.random() < 0.004:
                snak = {"snaktype": self._draw.choice(["somevalue", "novalue"]), "property": f"P{number}"}
                snak["datatype"] = datatype
            claims.setdefault(f"P{number}", []).append(self._statement(snak))
        return claims

    def _statement(self, snak: dict[str, Any]) -> dict[str, Any]:
        statement: dict[str, Any] = {"mainsnak": snak, "type": "statement"}
        if self._draw.random() < 0.33:
            qualifiers = [self._qualifier() for _ in range(self._count(1.2, 0.5))]
            statement |= _grouped("qualifiers", "qualifiers-order", qualifiers)
        statement |= {
            "id": "Q@0@$" + self._gap("guid"),
            "rank": self._draw.choices(["normal", "preferred", "deprecated"], [0.968, 0.02, 0.012])[0],
        }
        if self._draw.random() < 0.7:
            statement["references"] = [self._reference() for _ in range(self._count(1, 0.35))]
        return statement

    def _qualifier(self) -> dict[str, Any]:
        if self._qualifiers and self._draw.random() < REPEATED:
            return self._draw.choice(self._qualifiers)
        number, datatype = self._draw.choice(QUALIFIERS)
        snak = self._snak(number, datatype)
        self._qualifiers.append({"snaktype": "value", "property": snak["property"], "hash": self._gap("hash"), **snak})
        return self._qualifiers[-1]

    def _reference(self) -> dict[str, Any]:
        if self._references and self._draw.random() < REPEATED:
            return self._draw.choice(self._references)
        form = self._draw.random()
        if form < 0.2:  # imported from a Wikipedia: the same few references everywhere
            wiki = self._hub()
            snak = self._snak(143, "wikibase-item")
            snak["datavalue"]["value"] |= {"numeric-id": wiki, "id": f"Q{wiki}"}
            content = hashlib.sha1(json.dumps(snak).encode()).hexdigest()
            return {"hash": content, **_grouped("snaks", "snaks-order", [snak])}
        snaks = [self._snak(248, "wikibase-item")]
        if form > 0.4:
            snaks.append(self._snak(self._frequent(self._properties["external-id"]), "external-id"))
        if form > 0.7:
            snaks += [self._snak(854, "url"), self._snak(1476, "monolingualtext")]
        snaks.append(self._snak(813, "time"))
        self._references.append({"hash": self._gap("hash"), **_grouped("snaks", "snaks-order", snaks)})
        return self._references[-1]

    def _snak(self, number: int, datatype: str) -> dict[str, Any]:
        kind, value = self._value(datatype)
        return {
            "snaktype": "value",
            "property": f"P{number}",
            "datavalue": {"value": value, "type": kind},
            "datatype": datatype,
        }

    def _value(self, datatype: str) -> tuple[str, Any]:
        draw = self._draw
        if datatype == "wikibase-item":
            gap = self._gap("object")
            return "wikibase-entityid", {
                "entity-type": "item",
                "numeric-id": gap.replace("@", "@#", 1),
                "id": f"Q{gap}",
            }
        if datatype == "time":
            precision = draw.choices([11, 9, 10, 7], [0.6, 0.32, 0.05, 0.03])[0]
            month, day = (draw.randint(1, 12) if precision > 9 else 0), (draw.randint(1, 28) if precision > 10 else 0)
            return "time", {
                "time": f"+{self._gap('year')}-{month:02}-{day:02}T00:00:00Z",
                "timezone": 0,
                "before": 0,
                "after": 0,
                "precision": precision,
                "calendarmodel": "http://www.wikidata.org/entity/Q1985727",
            }
        if datatype == "quantity":
            unit = f"http://www.wikidata.org/entity/Q{self._number(_FIRST_UNIT + draw.randrange(UNITS))}"
            fraction = draw.choice(["", "", ".5", ".25"])
            return "quantity", {"amount": f"+{self._gap('digits')}{fraction}", "unit": draw.choice(["1", unit])}
        if datatype == "globe-coordinate":
            return "globecoordinate", {
                "latitude": self._number_gap("degrees"),
                "longitude": self._number_gap("degrees"),
                "altitude": None,
                "precision": draw.choice([0.00027777777777778, 0.016666666666667, 1e-6]),
                "globe": "http://www.wikidata.org/entity/Q2",
            }
        if datatype == "monolingualtext":
            language = self._languages(1, False)[0]
            return "monolingualtext", {"text": f"{self._name(language)} {self._word(language)}", "language": language}
        if datatype == "commonsMedia":
            return "string", f"{self._word('en')} {self._gap('latin')} {self._gap('digits')}.jpg"
        if datatype == "url":
            return "string", f"https://www.{self._word('en').lower()}.org/{self._gap('latin')}/{self._gap('digits')}"
        if datatype == "string":
            return "string", f"{self._word('en')} {self._gap('latin')}"
        return "string", draw.choice(["", "n", "/m/0", "Q-", "0000 0001 "]) + self._gap("digits")

    def _count(self, median: float, spread: float) -> int:
        """A count of at least 1 from a log-normal distribution, or 0 where the median is below 1."""
        drawn = self._draw.lognormvariate(math.log(median), spread)
        return int(drawn) if median < 1 else max(1, round(drawn))

    def _frequent(self, items: list[int]) -> int:
        """One of the items, the first ones most often."""
        return items[int(len(items) ** self._draw.random()) - 1]

    def _hub(self) -> int:
        return self._number(int(400 ** self._draw.random()))

    def _languages(self, count: int, english: bool) -> list[str]:
        """Codes in no order, some far more often than others; English where asked for."""
        codes = {"en"} if english else set()
        all_codes = list(SCRIPT_OF)
        for _ in range(3 * count):
            if len(codes) >= count:
                break
            script = self._draw.choices(list(LANGUAGES), [60, 12, 1, 6, 2, 7, 6, 2, 2])[0]
            known = LANGUAGES[script]
            codes.add(known[int(len(known) ** self._draw.random()) - 1])
        while len(codes) < min(count, len(all_codes) // 2):
            codes.add(self._draw.choice(all_codes))
        return self._draw.sample(sorted(codes), len(codes))

    def _word(self, language: str) -> str:
        return _word(self._draw, SCRIPT_OF[language])

    def _phrase(self, language: str) -> str:
        return " ".join(self._draw.choices(self._phrase_words[SCRIPT_OF[language]], k=self._count(4, 0.4)))

    def _name(self, language: str) -> str:
        """A word that all copies share and one that they exchange; mostly the same in all languages of a script."""
        script = SCRIPT_OF[language]
        if script not in self._names or self._draw.random() < 0.15:
            self._names[script] = self._other_name(language)
        return self._names[script]

    def _other_name(self, language: str) -> str:
        return f"{self._word(language)} {self._gap(SCRIPT_OF[language])}"


def _word(draw: random.Random, script: str) -> str:
    return "".join(draw.choices(LETTERS[script], k=draw.randint(2, 4))).capitalize()


def _grouped(name: str, order: str, snaks: list[dict[str, Any]]) -> dict[str, Any]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for snak in snaks:
        groups.setdefault(snak["property"], []).append(snak)
    return {name: groups, order: list(groups)}


def plan(megabytes: float, seed: int = 0, mean_bytes: float = MEAN_BYTES) -> Plan:
    """Plan a dump of about that size, uncompressed."""
    count = max(20, round(megabytes * MEGABYTE / mean_bytes))
    stride = round(LARGEST_ID / max(20, megabytes * MEGABYTE / MEAN_BYTES))
    return Plan(seed, count, max(2, min(16, count // 400)), stride)


class _Filler:
    """Fills templates for the documents of a plan."""

    def __init__(self, shape: Plan, pool: _Pool) -> None:
        self.plan, self._pool = shape, pool
        draw = random.Random(f"words of {shape.seed}")
        self._words = {
            script: [json.dumps(_word(draw, script))[1:-1].encode() for _ in range(5000)] for script in LETTERS
        }

    def mean_bytes(self, kind: str) -> float:
        """Mean length of the lines that templates of a kind give."""
        draw, templates = random.Random(self.plan.seed), self._pool[kind]
        return sum(len(self._filled(template, 10**8, draw)) for template in templates) / len(templates)

    def lines(self, member: int) -> Iterator[bytes]:
        """The documents of a member, without commas."""
        draw = random.Random(f"member {member} of {self.plan.seed}")
        for document in self.plan.range(member):
            yield self._filled(self._template(document, draw), self.plan.number(document), draw)

    def _filled(self, template: _Template, number: int, draw: random.Random) -> bytes:
        return template.text % template.pick(list(self._values(template.kinds, number, draw)))

    def _template(self, document: int, draw: random.Random) -> _Template:
        if document % PROPERTY_EVERY == 17:
            return self._pool["property"][document // PROPERTY_EVERY % len(self._pool["property"])]
        if document % LEXEME_EVERY == 18:
            return draw.choice(self._pool["lexeme"])
        if document < min(HUBS, self.plan.documents // 20):
            return draw.choice(self._pool["article"])
        share = draw.random()
        hubs = min(HUBS, self.plan.documents // 20) / self.plan.documents
        if share < (ARTICLE_SHARE - hubs) / (1 - hubs):
            return draw.choice(self._pool["article"])
        return draw.choice(self._pool["plain" if share < 1 - DROPPED_SHARE else "dropped"])

    def _values(self, kinds: tuple[str, ...], number: int, draw: random.Random) -> Iterator[bytes]:
        chance = draw.random
        for kind in kinds:
            if kind == "object":
                yield b"%d" % self._object(chance())
            elif kind == "guid":
                digits = draw.randbytes(16).hex().encode()
                yield b"-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
            elif kind == "hash":
                yield draw.randbytes(20).hex().encode()
            elif kind == "digits":
                yield b"%d" % int(10 ** (2 + 6 * chance()))
            elif kind == "year":
                yield b"%d" % (2025 - int(500 * chance() ** 3))
            elif kind == "degrees":
                yield b"%.6f" % (160 * chance() - 80)
            elif kind == "own":
                yield b"%d" % number
            else:
                words = self._words[kind]
                yield words[int(len(words) * chance())]

    def _object(self, chance: float) -> int:
        """Number of an item to point to: mostly a hub, at times any other, at times none of the dump."""
        documents = self.plan.documents
        hubs = min(HUBS, documents // 2)
        if chance < 0.65:
            return self.plan.number(int(hubs ** (chance / 0.65)) - 1)
        if chance < 0.9:
            return self.plan.number(int((chance - 0.65) / 0.25 * documents))
        return self.plan.number(int((chance - 0.9) / 0.1 * documents)) + 1


def _prepared(megabytes: float, seed: int) -> _Filler:
    """A filler for a dump of that size, its number of documents found by trying each template once."""
    pool = _Composer(plan(megabytes, seed)).pool()
    trial = _Filler(plan(megabytes, seed), pool)
    plain = 1 - ARTICLE_SHARE - DROPPED_SHARE
    shares = {"article": ARTICLE_SHARE, "dropped": DROPPED_SHARE, "plain": plain}
    mean_bytes = sum(share * trial.mean_bytes(kind) for kind, share in shares.items())
    return _Filler(plan(megabytes, seed, mean_bytes), pool)


_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: (packer := zlib.compressobj(6, wbits=31)).compress(data) + packer.flush(),
    "bzip2": bz2.compress,
    "zstd": lambda data: zstandard.compress(data, 10),
    "plain": bytes,
}


def _member(member: int, filler: _Filler, compression: str) -> tuple[bytes, int]:
    """The stored bytes of a member, and how many they are uncompressed."""
    text = b",\n".join(filler.lines(member))
    start = b"[\n" if member == 0 else b""
    end = b"\n]\n" if member == filler.plan.members - 1 else b",\n"
    return _COMPRESS[compression](start + text + end), len(start) + len(text) + len(end)


def write_dump(
    path: Path, megabytes: float, *, compression: str = "gzip", seed: int = 0, processes: int = 2
) -> tuple[int, int]:
    """Write a dump of about that size.

    Returns:
        Its documents, and its bytes uncompressed.
    """
    filler = _prepared(megabytes, seed)
    make = partial(_member, filler=filler, compression=compression)
    raw_bytes = 0
    partial_file = path.with_name(path.name + ".partial")
    context = multiprocessing.get_context("fork")  # the templates are there without being sent
    with ProcessPoolExecutor(processes, mp_context=context) as executor, partial_file.open("wb") as file:
        for stored, length in executor.map(make, range(filler.plan.members)):
            file.write(stored)
            raw_bytes += length
    partial_file.replace(path)
    return filler.plan.documents, raw_bytes


def cached_dump(cache: Path, megabytes: float, *, compression: str = "gzip", seed: int = 0) -> Path:
    """A dump of about that size in a folder that keeps it for the next run."""
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"dump-{megabytes:g}mb-{seed}.json{COMPRESSIONS[compression]}"
    if not path.exists():
        write_dump(path, megabytes, compression=compression, seed=seed)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("megabytes", type=float, nargs="?", default=100, help="size uncompressed, in millions of bytes")
    parser.add_argument("file", type=Path, nargs="?", help="without it the dump is not kept, only described")
    parser.add_argument("--compression", choices=COMPRESSIONS, default="gzip")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        path = arguments.file or Path(temporary) / "dump"
        clock = time.perf_counter()
        count, size = write_dump(path, arguments.megabytes, compression=arguments.compression, seed=arguments.seed)
        seconds, stored = time.perf_counter() - clock, path.stat().st_size
    print(
        f"{count:,} documents, {size / MEGABYTE:,.0f} MB, stored {stored / MEGABYTE:,.0f} MB (1:{size / stored:.1f}), "
        f"in {seconds:.1f} s"
    )


if __name__ == "__main__":
    main()
