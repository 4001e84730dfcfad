"""SPARQL endpoints: a real one, and scripted ones that fail."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kg.errors import ConfigError, InputError
from kg.rdf.config import RdfConfig
from kg.rdf.sparql import fetch, source_digest
from tests.kg.rdf_documents import build, config, content, truthy

Script = Callable[[int, str, BaseHTTPRequestHandler], None]
OXIGRAPH = shutil.which("oxigraph", path=str(Path(sys.executable).parent)) or shutil.which("oxigraph")
SUBJECTS = [f"http://e/{number:02}" for number in range(5)]
STORED = [line.replace('"+', '"') for line in truthy()]  # oxigraph stores numbers without a plus sign
WHOLE = "".join(f"<{subject}> <http://e/p> <http://e/o> .\n" for subject in SUBJECTS)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture(scope="module")
def oxigraph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real SPARQL server with `truthy` in its default graph and one statement in a named one."""
    if OXIGRAPH is None:
        pytest.skip("the oxigraph server is not installed; pip install oxigraph")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = tmp_path_factory.mktemp("store")
    command = [OXIGRAPH, "serve", "--location", str(place), "--bind", f"127.0.0.1:{port}"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        _load(port, "default", "\n".join(STORED))
        _load(port, "graph=http://e/g", "<http://e/a> <http://e/p> <http://e/b> .")
        yield f"sparql+http://127.0.0.1:{port}/query"
    finally:
        server.kill()
        server.wait()


def _wait_for(port: int) -> None:
    for _ in range(4_800):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    pytest.fail("the oxigraph server does not start")


def _load(port: int, graph: str, text: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=240)
    connection.request("POST", f"/store?{graph}", text.encode(), {"Content-Type": "application/n-triples"})
    assert connection.getresponse().status < 300
    connection.close()


def statements(path: Path) -> list[str]:
    return sorted(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("page_size", [1, 3, 1000])
def test_a_real_endpoint_is_read_whole_whatever_the_size_of_the_pages(
    oxigraph: str, tmp_path: Path, page_size: int
) -> None:
    fetch(oxigraph, RdfConfig(page_size=page_size), tmp_path / "all.nt")
    assert statements(tmp_path / "all.nt") == sorted(STORED)


def test_a_real_endpoint_gives_the_same_graph_as_its_dump(oxigraph: str, tmp_path: Path) -> None:
    (tmp_path / "dump.nt").write_text("\n".join(STORED))
    build(config(tmp_path / "dump.nt"), tmp_path / "expected")
    build(config(oxigraph, rdf=RdfConfig(page_size=4)), tmp_path / "kg", "sparql")
    assert content(tmp_path / "kg") == content(tmp_path / "expected")


def test_a_query_and_a_graph_choose_a_part(oxigraph: str, tmp_path: Path) -> None:
    query = """# a comment with LIMIT 5
        PREFIX wdt: <http://www.wikidata.org/prop/direct/>
        CONSTRUCT { ?s wdt:P17 ?o } WHERE { ?s wdt:P17 ?o } ORDER BY ?s ?o"""
    fetch(oxigraph, RdfConfig(sparql_query=query, page_size=2), tmp_path / "part.nt")
    assert statements(tmp_path / "part.nt") == sorted(line for line in STORED if "direct/P17>" in line)
    fetch(oxigraph, RdfConfig(sparql_graph="http://e/g"), tmp_path / "graph.nt")
    assert statements(tmp_path / "graph.nt") == ["<http://e/a> <http://e/p> <http://e/b> ."]


def test_a_query_that_the_endpoint_refuses_is_told_with_its_words(oxigraph: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"refuses the query \(status 400: .*the query was: CONSTRUCT"):
        fetch(oxigraph, RdfConfig(sparql_query="CONSTRUCT { ?s } WHERE"), tmp_path / "part.nt")


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("SELECT ?s WHERE { ?s ?p ?o }", "it begins with SELECT"),
        ("PREFIX a: <http://a/#b> # CONSTRUCT\nDESCRIBE a:x", "it begins with DESCRIBE"),
        ("CONSTRUCT { ?s ?p ?o } WHERE { ?s ?p ?o } LIMIT 10", "Leave them out"),
        ("", "no CONSTRUCT query"),
    ],
)
def test_what_is_no_query_for_pages_is_refused_before_anything_is_asked(
    tmp_path: Path, query: str, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        fetch("sparql+http://127.0.0.1:9/", RdfConfig(sparql_query=query), tmp_path / "part.nt")


def test_the_digest_tells_addresses_and_queries_apart() -> None:
    asked = [
        config("sparql+http://e/a"),
        config("sparql+http://e/b"),
        config("sparql+http://e/a", rdf=RdfConfig(sparql_query="CONSTRUCT {} WHERE {}")),
        config("sparql+http://e/a", rdf=RdfConfig(sparql_graph="http://e/g")),
    ]
    assert len({source_digest(options) for options in asked}) == 4
    assert source_digest(asked[0]) == source_digest(config("sparql+http://e/a", rdf=RdfConfig(page_size=7)))


class Endpoint:
    """A server that does what a script says for each request, else answers as an endpoint with `WHOLE` does."""

    def __init__(self, script: Script | None = None, port: int = 0) -> None:
        self.queries: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = self.rfile.read(int(self.headers["Content-Length"])).decode()
                query = urllib.parse.parse_qs(form)["query"][0]
                outer.queries.append(query)
                if script is not None:
                    script(len(outer.queries), query, self)
                if not self.wfile.closed and not getattr(self, "answered", False):
                    answer(self, *respond(query))

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"sparql+http://127.0.0.1:{self.port}/query"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def respond(query: str) -> tuple[str, bytes]:
    if query.startswith("SELECT"):
        after = re.search(r'STR\(\?s\) > "(.*?)"', query)[1]
        limit = int(re.search(r"LIMIT (\d+)", query)[1])
        found = [subject for subject in SUBJECTS if subject > after][:limit]
        rows = [{"s": {"type": "uri", "value": subject}} for subject in found]
        return "application/sparql-results+json", json.dumps({"results": {"bindings": rows}}).encode()
    asked = re.findall(r"<(http://e/\d\d)>", query)
    lines = [line for line in WHOLE.splitlines(keepends=True) if line[1:12] in asked]
    return "application/n-triples", "".join(lines).encode()


def answer(
    handler: BaseHTTPRequestHandler, kind: str, body: bytes, status: int = 200, length: int = 0, **headers: str
) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(length or len(body)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)
    handler.answered = True  # type: ignore[attr-defined]
    handler.close_connection = True


def test_a_busy_or_failing_endpoint_is_asked_again_at_the_pace_that_it_names(tmp_path: Path) -> None:
    def script(number: int, query: str, handler: BaseHTTPRequestHandler) -> None:
        if number == 1:
            answer(handler, "text/plain", b"slow down", 429, Retry_After="7")
        elif number == 3:
            answer(handler, "text/plain", b"out of memory", 503)
        elif number == 4:
            answer(handler, "text/plain", b"later", 500, Retry_After="Mon, 01 Jan 2001 00:00:00 GMT")
        elif number == 6:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n<http://e/00> <htt")
            handler.answered = True  # type: ignore[attr-defined]
        elif number == 7:
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.answered = True  # type: ignore[attr-defined]
        elif number == 8:
            answer(handler, "application/n-triples", b"<http://e/00> <http://e/p> <http://e/o> .\njava.lang.Timeout")

    waits: list[float] = []
    with Endpoint(script) as endpoint:
        fetch(endpoint.url, RdfConfig(page_size=2), tmp_path / "all.nt", sleep=waits.append)
    assert (tmp_path / "all.nt").read_text() == WHOLE
    assert waits[:3] == [7.0, 1.0, 0.0]
    assert all(wait >= 0 for wait in waits)


def test_an_endpoint_that_never_recovers_is_given_up_and_its_pages_are_kept(tmp_path: Path) -> None:
    def script(number: int, query: str, handler: BaseHTTPRequestHandler) -> None:
        if number > 2:
            answer(handler, "text/plain", b"gone fishing", 502)

    waits: list[float] = []
    with (
        Endpoint(script) as endpoint,
        pytest.raises(InputError, match=r"after 7 attempts.*status 502: gone fishing.*pages fetched so far are kept"),
    ):
        fetch(endpoint.url, RdfConfig(page_size=2), tmp_path / "all.nt", sleep=waits.append)
    assert waits == [1, 2, 4, 8, 16, 32]
    assert not (tmp_path / "all.nt").exists()


def test_a_page_that_was_fetched_is_never_asked_for_again(tmp_path: Path) -> None:
    class KilledError(BaseException):
        """Like SIGKILL, nothing in the library catches it."""

    def killed(seconds: float) -> None:
        raise KilledError

    target, options = tmp_path / "all.nt", RdfConfig(page_size=2)

    def failing(number: int, query: str, handler: BaseHTTPRequestHandler) -> None:
        if number > 4:
            answer(handler, "text/plain", b"", 503)

    with Endpoint(failing) as first, pytest.raises(KilledError):
        fetch(first.url, options, target, sleep=killed)
    pages = target.with_suffix(".pages")
    with pages.open("ab") as file:
        file.write(b"<http://e/04> <http://e/half")  # what was being written when the process died
    with Endpoint(port=first.port) as second:
        fetch(second.url, options, target)
    asked = [query for query in first.queries[:4] + second.queries if query.startswith("CONSTRUCT")]
    assert [re.findall(r"<http://e/(\d\d)>", query) for query in asked] == [["00", "01"], ["02", "03"], ["04"]]
    assert target.read_text() == WHOLE
    with Endpoint() as third:
        fetch(third.url, options, target)
    assert third.queries == []


def test_an_endpoint_that_sends_turtle_is_understood(tmp_path: Path) -> None:
    def script(number: int, query: str, handler: BaseHTTPRequestHandler) -> None:
        if query.startswith("CONSTRUCT"):
            answer(handler, "text/turtle", b"@prefix e: <http://e/> . " + respond(query)[1])

    with Endpoint(script) as endpoint:
        fetch(endpoint.url, RdfConfig(), tmp_path / "all.nt")
    assert (tmp_path / "all.nt").read_text() == WHOLE


def test_an_endpoint_that_cuts_its_results_is_noticed(tmp_path: Path) -> None:
    def script(number: int, query: str, handler: BaseHTTPRequestHandler) -> None:
        if query.startswith("CONSTRUCT"):
            answer(handler, "text/plain", respond(query)[1], X_SPARQL_MaxRows="5")

    with Endpoint(script) as endpoint, pytest.raises(InputError, match="cuts its results after 5 rows"):
        fetch(endpoint.url, RdfConfig(), tmp_path / "all.nt")


def test_an_endpoint_that_does_not_sort_is_refused(tmp_path: Path) -> None:
    def script(number: int, query: str, handler: BaseHTTPRequestHandler) -> None:
        if query.startswith("SELECT"):
            answer(handler, *respond(query.replace('"http://e/01"', '""')))

    with Endpoint(script) as endpoint, pytest.raises(InputError, match="does not sort subjects"):
        fetch(endpoint.url, RdfConfig(page_size=2), tmp_path / "all.nt")


def test_what_is_no_endpoint_is_told(tmp_path: Path) -> None:
    def script(number: int, query: str, handler: BaseHTTPRequestHandler) -> None:
        answer(handler, "text/html", b"<html>Welcome</html>")

    with Endpoint(script) as endpoint, pytest.raises(InputError, match="that it is a SPARQL endpoint"):
        fetch(endpoint.url, RdfConfig(), tmp_path / "all.nt", sleep=lambda seconds: None)
    with pytest.raises(InputError, match=r"refused.*that it is a SPARQL endpoint"):
        fetch("sparql+http://127.0.0.1:9/query", RdfConfig(), tmp_path / "all.nt", sleep=lambda seconds: None)
