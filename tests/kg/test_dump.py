from __future__ import annotations

import bz2
import gzip
import http.server
import threading
from functools import partial
from pathlib import Path

import fsspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from wikidata_documents import COMPRESSORS

from kg.dump import Dump, dump_digest
from kg.errors import InputError

TEXT = b'[\n{"id":"Q1"},\n{"id":"Q2"}\n]\n'
LINES = [(2, b'{"id":"Q1"}'), (15, b'{"id":"Q2"}')]


def lines(path: Path, data: bytes) -> list[tuple[int, bytes]]:
    path.write_bytes(data)
    return list(Dump(str(path)).lines())


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_every_compression_gives_the_same_lines_whatever_the_file_is_called(tmp_path: Path, compression: str) -> None:
    assert lines(tmp_path / "dump.misnamed", COMPRESSORS[compression](TEXT)) == LINES


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "zstd"])
def test_members_after_one_another_are_one_stream(tmp_path: Path, compression: str) -> None:
    compress = COMPRESSORS[compression]
    members = b"".join(compress(TEXT[start : start + 7]) for start in range(0, len(TEXT), 7))
    assert lines(tmp_path / "dump", members) == LINES


def test_zstd_frames_may_have_skippable_frames_between_them(tmp_path: Path) -> None:
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"skip"
    data = skippable + zstandard.compress(TEXT[:10]) + skippable + zstandard.compress(TEXT[10:])
    assert lines(tmp_path / "dump", data) == LINES


def test_zero_bytes_after_a_gzip_member_are_padding(tmp_path: Path) -> None:
    assert lines(tmp_path / "dump", gzip.compress(TEXT) + bytes(100)) == LINES


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b'{"a":1}\n{"b":2}', [(0, b'{"a":1}'), (8, b'{"b":2}')]),
        (b'[{"a":1}\r\n,{"b":2}]', [(1, b'{"a":1}'), (11, b'{"b":2}')]),
        (b'\xef\xbb\xbf[\n\n  {"a":1} ,\n\n]\n\n', [(8, b'{"a":1}')]),
        (b"[\n]\n", []),
    ],
)
def test_brackets_commas_and_blank_lines_may_stand_anywhere_or_nowhere(
    tmp_path: Path, data: bytes, found: list[tuple[int, bytes]]
) -> None:
    assert lines(tmp_path / "dump", data) == found


@given(
    documents=st.lists(st.binary(max_size=30).map(lambda raw: b'{"x":"' + raw.hex().encode() + b'"}'), max_size=20),
    members=st.integers(1, 5),
    compression=st.sampled_from(["gzip", "bzip2", "zstd"]),
)
def test_offsets_point_at_the_lines_of_the_decompressed_stream(
    tmp_path_factory: pytest.TempPathFactory, documents: list[bytes], members: int, compression: str
) -> None:
    text = b"[\n" + b",\n".join(documents) + b"\n]\n"
    size = len(text) // members + 1
    data = b"".join(COMPRESSORS[compression](text[start : start + size]) for start in range(0, len(text), size))
    found = lines(tmp_path_factory.mktemp("dump") / "dump", data)
    assert [line for _, line in found] == documents
    assert all(text[offset : offset + len(line)] == line for offset, line in found)


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "zstd"])
def test_every_truncation_of_a_compressed_dump_is_an_error(tmp_path: Path, compression: str) -> None:
    data = COMPRESSORS[compression](TEXT)
    for length in range(4, len(data)):
        with pytest.raises(InputError, match=r"truncated.*offset \d+ of the decompressed stream.*again"):
            lines(tmp_path / "dump", data[:length])


def test_a_multi_member_stream_truncated_in_its_last_member_is_an_error(tmp_path: Path) -> None:
    data = gzip.compress(TEXT[:15]) + gzip.compress(TEXT[15:])[:-3]
    with pytest.raises(InputError, match="truncated"):
        lines(tmp_path / "dump", data)


def test_a_plain_dump_that_ends_inside_a_document_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="truncated: it ends in the middle of the document at offset 15"):
        lines(tmp_path / "dump", TEXT[:20])


def test_an_array_left_open_is_read_and_told(tmp_path: Path) -> None:
    (tmp_path / "dump").write_bytes(TEXT[:-2])
    dump = Dump(str(tmp_path / "dump"))
    assert list(dump.lines()) == LINES
    assert not dump.closed


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "zstd"])
def test_garbage_after_a_member_is_an_error(tmp_path: Path, compression: str) -> None:
    with pytest.raises(InputError, match=r"corrupt.*decompressed after byte \d+.*67 61 72 62"):
        lines(tmp_path / "dump", COMPRESSORS[compression](TEXT) + b"garbage")


@pytest.mark.parametrize("compression", ["gzip", "bzip2"])
def test_a_flipped_bit_is_an_error(tmp_path: Path, compression: str) -> None:
    data = bytearray(COMPRESSORS[compression](TEXT * 100))
    data[-6] ^= 1
    with pytest.raises(InputError, match=r"corrupt|truncated"):
        lines(tmp_path / "dump", bytes(data))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"<!DOCTYPE html>\n<html>", "HTML"),
        (b"<http://www.wikidata.org/entity/Q1> <x> <y> .", "N-Triples"),
        (b"@prefix wd: <http://www.wikidata.org/entity/> .", "Turtle"),
        (b"PK\x03\x04....", "zip"),
        (b"\xfd7zXZ\x00....", "xz"),
        (b"PAR1....", "Parquet"),
        (gzip.compress(gzip.compress(TEXT)), "inside another"),
        (bz2.compress(b"<html>"), "HTML"),
    ],
)
def test_a_file_of_another_kind_is_named_as_what_it_is(tmp_path: Path, data: bytes, kind: str) -> None:
    with pytest.raises(InputError, match=rf"dump is not a Wikidata JSON dump: at offset 0 it begins with .*{kind}"):
        lines(tmp_path / "dump", data)


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"empty \(0 bytes\)"):
        lines(tmp_path / "dump", b"")


@pytest.mark.parametrize("path", ["absent.json", "memory://absent.json", "nonsense://x/y", "."])
def test_a_path_that_cannot_be_opened_is_an_error_for_reading_and_digest(path: str) -> None:
    with pytest.raises(InputError, match="Cannot open the dump"):
        list(Dump(path).lines())
    with pytest.raises(InputError, match="Cannot open the dump"):
        dump_digest(path)


def test_a_url_is_read_like_a_file_and_its_digest_follows_the_content(tmp_path: Path) -> None:
    with fsspec.open("memory://dump-test/dump.json", "wb") as file:
        file.write(gzip.compress(TEXT))
    url = "memory://dump-test/dump.json"
    assert list(Dump(url).lines()) == LINES
    (tmp_path / "dump").write_bytes(TEXT)
    url = f"file://{tmp_path}/dump"
    before = dump_digest(url)
    assert dump_digest(url) == before
    (tmp_path / "dump").write_bytes(TEXT + b"\n")
    assert dump_digest(url) != before


def test_a_dump_is_read_over_http(tmp_path: Path) -> None:
    (tmp_path / "dump.gz").write_bytes(gzip.compress(TEXT))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/"
        assert list(Dump(url + "dump.gz").lines()) == LINES
        with pytest.raises(InputError, match="Cannot open the dump"):
            list(Dump(url + "absent.gz").lines())
    finally:
        server.shutdown()
        server.server_close()


def test_the_position_reaches_the_size_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_bytes(gzip.compress(TEXT))
    dump = Dump(str(path))
    list(dump.lines())
    assert dump.position == dump.size == path.stat().st_size
