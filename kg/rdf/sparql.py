"""From a SPARQL endpoint to a file of N-Triples, page by page.

Without a query of the user's, a page is the next so many subjects: a SELECT asks
for the subjects behind the last one in the order of their IRIs, a CONSTRUCT for
all their statements. Paging by key instead of by OFFSET costs a store the same
for the last page as for the first, and data that change between two pages
neither shift nor repeat what follows. A CONSTRUCT query of the user's is paged
by LIMIT and OFFSET, since its order is the user's.

Pages are appended to one file; a small file beside it, replaced atomically,
tells how much of it is whole and what comes next. So no page is asked for
twice, whatever happens. Servers that are busy or fail are asked again, at the
pace that they name.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import http.client
import json
import logging
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from kg.config import GraphConfig
from kg.errors import ConfigError, InputError
from kg.rdf.config import SPARQL, RdfConfig
from kg.rdf.ntriples import BadTripleError, regular_line
from kg.rdf.turtle import parse_turtle
from kg.stage import Progress, no_progress, write_atomic

__all__ = ["fetch", "source_digest"]


log = logging.getLogger(__name__)
T = TypeVar("T")

_ATTEMPTS = 7
_LONGEST_WAIT = 600  # seconds, for what a server may ask us to wait
_TIMEOUT = 300
_NTRIPLES = "application/n-triples"
_TRIPLES = f"{_NTRIPLES}, text/turtle;q=0.5"
_RESULTS = "application/sparql-results+json"
_NOT_IN_IRIS = re.compile(r'[\x00-\x20<>"{}|^`\\]')
_QUOTED = re.compile(r"""<[^<>\s]*>|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'""")
_PROLOGUE = re.compile(r"\s*(?:(?:BASE|PREFIX\s+[\w.-]*:)\s*<>\s*)*", re.IGNORECASE)


class _State(msgspec.Struct):
    """How far the pages are: what they come from, whole bytes of the file, the last subject, pages and statements."""

    digest: str
    bytes: int = 0
    after: str = ""
    pages: int = 0
    statements: int = 0
    page_size: int = 0
    offset: int = 0
    finished: bool = False


class _Answer(NamedTuple):
    kind: str
    body: bytes
    headers: http.client.HTTPMessage


def source_digest(config: GraphConfig) -> str:
    """What identifies the data of ``config``'s endpoint as far as can be known: its address, graph and query."""
    asked = [config.dump, config.rdf.sparql_query, config.rdf.sparql_graph]
    return "sparql-sha256:" + hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def fetch(
    source: str,
    rdf: RdfConfig,
    target: Path,
    progress: Progress = no_progress,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Write what the endpoint has to ``target``, unless that exists; an interrupted call is continued.

    Args:
        source: the endpoint's address, with or without ``sparql+`` before it.
        rdf: its ``sparql_*`` fields and ``page_size``.
        target: where to; the pages grow in a file beside it.
        progress: called with the pages so far.
        sleep: waits so many seconds.

    Raises:
        ConfigError: the query is no CONSTRUCT query or has a LIMIT of its own.
        InputError: the endpoint cannot be reached, refuses the query, or does not answer with RDF.
    """
    if target.exists():
        return
    if rdf.sparql_query is not None:
        _check_query(rdf.sparql_query)
    endpoint = _Endpoint(source.removeprefix(SPARQL), rdf.sparql_graph, sleep)
    pages, marker = target.with_suffix(".pages"), target.with_suffix(".pages.json")
    digest = hashlib.sha256(json.dumps([source, rdf.sparql_query, rdf.sparql_graph]).encode()).hexdigest()
    state = _read_state(marker, pages, digest)
    if state.pages:
        log.info("%s: %d pages were fetched before", source, state.pages)
    with pages.open("r+b" if pages.exists() else "w+b") as file:
        file.truncate(state.bytes)
        file.seek(state.bytes)
        while not state.finished:
            page = _next_page(endpoint, rdf, state)
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
            state.bytes += len(page)
            state.statements += page.count(b"\n")
            state.pages += not state.finished
            write_atomic(marker, msgspec.json.encode(state))
            progress(state.pages, None, "pages", statements=state.statements)
    pages.rename(target)


def _read_state(marker: Path, pages: Path, digest: str) -> _State:
    with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
        state = msgspec.json.decode(marker.read_bytes(), type=_State)
        if state.digest == digest and pages.exists() and pages.stat().st_size >= state.bytes:
            return state
    return _State(digest)


def _next_page(endpoint: _Endpoint, rdf: RdfConfig, state: _State) -> bytes:
    """The next page as N-Triples; the state moves on, to finished if there is none."""
    if rdf.sparql_query is not None:
        page = endpoint.triples(f"{rdf.sparql_query.rstrip()}\nLIMIT {rdf.page_size} OFFSET {state.offset}")
        state.offset += rdf.page_size
        state.finished = not page
        return page
    subjects = endpoint.subjects(
        f"SELECT DISTINCT ?s WHERE {{ ?s ?p ?o FILTER(isIRI(?s) && STR(?s) > {_quoted(state.after)}) }} "
        f"ORDER BY STR(?s) LIMIT {rdf.page_size}"
    )
    if not subjects:
        state.finished = True
        return b""
    if subjects[-1] == state.after or len(set(subjects)) < len(subjects):
        raise InputError(
            f"{endpoint.url} does not sort subjects by their IRIs: after {state.after!r} it goes on with "
            f"{subjects[0]!r}. Set 'kg.rdf.sparql_query' to a CONSTRUCT query of your own, or read a dump of the data."
        )
    askable = [iri for iri in subjects if not _NOT_IN_IRIS.search(iri)]
    if len(askable) < len(subjects):
        log.warning("%s has %d subjects that are no valid IRIs", endpoint.url, len(subjects) - len(askable))
    values = " ".join(f"<{iri}>" for iri in askable)
    page = endpoint.triples(f"CONSTRUCT {{ ?s ?p ?o }} WHERE {{ VALUES ?s {{ {values} }} ?s ?p ?o }}")
    state.after = subjects[-1]
    return page


class _Endpoint:
    """Asks queries until they are answered, or it is clear that they will not be."""

    def __init__(self, url: str, graph: str | None, sleep: Callable[[float], None]) -> None:
        self.url = url
        self._graph = graph
        self._sleep = sleep

    def subjects(self, query: str) -> list[str]:
        """The values of ?s, in order."""

        def read(answer: _Answer) -> list[str]:
            return [row["s"]["value"] for row in json.loads(answer.body)["results"]["bindings"]]

        return self._ask(query, _RESULTS, read)

    def triples(self, query: str) -> bytes:
        """The result of a CONSTRUCT query as N-Triples, every line whole and valid."""
        return self._ask(query, _TRIPLES, self._checked)

    def _checked(self, answer: _Answer) -> bytes:
        if answer.kind in (_NTRIPLES, "text/plain"):
            page = b"".join(regular_line(line) for line in re.split(rb"[\r\n]+", answer.body))
        elif answer.kind in ("text/turtle", "application/x-turtle"):
            target = BytesIO()
            parse_turtle(answer.body, self.url, target)
            page = target.getvalue()
        else:
            raise ValueError(f"it sends {answer.kind}, not N-Triples or Turtle")
        most = answer.headers.get("X-SPARQL-MaxRows", "")  # Virtuoso says so when it cuts a result
        if most.isdigit() and page.count(b"\n") >= int(most):
            raise InputError(
                f"{self.url} cuts its results after {most} rows. Lower 'kg.rdf.page_size' so that a page has fewer."
            )
        return page

    def _ask(self, query: str, accept: str, read: Callable[[_Answer], T]) -> T:
        for attempt in range(_ATTEMPTS):
            wait = 2.0**attempt
            try:
                return read(self._answer(query, accept))
            except urllib.error.HTTPError as error:
                reason = f"status {error.code}: {_excerpt(error)}"
                if error.code < 500 and error.code not in (408, 429):
                    raise InputError(
                        f"{self.url} refuses the query ({reason}). Check 'kg.dump' and 'kg.rdf.sparql_query'; the "
                        f"query was: {_shortened(query)}"
                    ) from error
                wait = _retry_after(error.headers.get("Retry-After"), wait)
            except (OSError, http.client.HTTPException) as error:
                reason = str(getattr(error, "reason", "")) or " ".join(str(error).split()) or type(error).__name__
            except (BadTripleError, ValueError, KeyError, TypeError) as error:
                reason = f"its answer cannot be read: {' '.join(str(error).split())}"
            if attempt + 1 < _ATTEMPTS:
                log.warning("%s: %s; asking again in %.0f seconds", self.url, reason, wait)
                self._sleep(wait)
        raise InputError(
            f"{self.url} gives no usable answer after {_ATTEMPTS} attempts; the last time: {reason}. Check the address "
            "and that it is a SPARQL endpoint, or try later: pages fetched so far are kept. If it needs too long for "
            "a page, lower 'kg.rdf.page_size'."
        )

    def _answer(self, query: str, accept: str) -> _Answer:
        form = {"query": query} | ({"default-graph-uri": self._graph} if self._graph else {})
        request = urllib.request.Request(
            self.url,
            urllib.parse.urlencode(form).encode(),
            {"Accept": accept, "Content-Type": "application/x-www-form-urlencoded", "User-Agent": "synthie"},
        )
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            return _Answer(response.headers.get_content_type(), response.read(), response.headers)


def _check_query(query: str) -> None:
    bare = re.sub(r"#.*", "", _QUOTED.sub("<>", query))
    word = re.match(r"\w*", bare[_PROLOGUE.match(bare).end() :])  # type: ignore[union-attr]
    found = word[0].upper() if word else ""
    if found != "CONSTRUCT":
        raise ConfigError(
            f"'kg.rdf.sparql_query' is no CONSTRUCT query: it begins with {found or repr(query.strip()[:20])}. Write "
            "CONSTRUCT { ?s ?p ?o } WHERE { … } with the part that you want."
        )
    if re.search(r"\b(?:LIMIT|OFFSET)\s+\d+", bare.rpartition("}")[2], re.IGNORECASE):
        raise ConfigError(
            "'kg.rdf.sparql_query' ends with LIMIT or OFFSET, which are added for every page. Leave them out; "
            "'kg.rdf.page_size' is the LIMIT. To take a part only, put a subquery with a LIMIT into its WHERE."
        )


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _excerpt(error: urllib.error.HTTPError) -> str:
    try:
        body = error.read(2000).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        body = ""
    return _shortened(body) or error.reason


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:300] + " …"


def _retry_after(header: str | None, otherwise: float) -> float:
    """Seconds to wait: what a server asks for, as a number or a date, within bounds."""
    if not header:
        return otherwise
    try:
        wait = float(header)
    except ValueError:
        try:
            wait = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return otherwise
    return min(max(wait, 0.0), _LONGEST_WAIT)
