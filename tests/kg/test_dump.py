from __future__ import annotations

import bz2
import gzip
import http.server
import logging
import os
import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import fsspec
import psutil
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wikidata_documents import COMPRESSORS

from kg.dump import Fault, Slice, SliceReader, dump_digest, file_kind, plan_slices
from kg.errors import InputError

TEXT = b'[\n{"id":"Q1"},\n{"id":"Q2"}\n]\n'
MEMBERS = ["gzip", "bzip2", "zstd"]
WHOLE = 1 << 40


class Reading(NamedTuple):
    """All that the slices of a source gave, put together."""

    text: bytes
    slices: list[Slice]
    faults: list[Fault]
    opened: bool
    ended: bytes


def read(source: Path | str, slice_bytes: int = WHOLE) -> Reading:
    """Read all slices in order and check what every reading promises."""
    text, faults, opened, ended, base = b"", [], False, b"", 0
    expected: int | None = 0
    slices = plan_slices(str(source), slice_bytes)
    for part in slices:
        reader = SliceReader(part)
        if part.start == 0:
            expected = 0
        for offset, block in reader.blocks():
            assert reader.faults or faults or base + offset == len(text)
            text += block
        base += reader.raw_bytes
        faults += reader.faults
        assert reader.position == part.end - part.start
        if reader.first_member is not None:
            assert reader.first_member == expected or not part.start
            expected = reader.next_member
        elif reader.next_member is not None:
            expected = reader.next_member
        opened = opened or reader.opened
        ended = reader.ended or ended
    assert expected is None
    assert faults or base == len(text)
    return Reading(text, slices, faults, opened, ended)


def written(folder: Path, data: bytes) -> Path:
    (folder / "dump").write_bytes(data)
    return folder / "dump"


def members(compression: str, *texts: bytes) -> bytes:
    return b"".join(COMPRESSORS[compression](text) for text in texts)


def documents(count: int, seed: int = 0) -> bytes:
    """Lines that hardly compress, so that members are long."""
    draw = random.Random(seed)
    return b"".join(
        b'{"id":"Q%d","x":"%s"},\n' % (number, draw.randbytes(200).hex().encode()) for number in range(count)
    )


# --- Formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_every_compression_gives_the_same_text_whatever_the_file_is_called(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "dump.misnamed"
    path.write_bytes(COMPRESSORS[compression](TEXT))
    assert read(path).text == TEXT


def test_zstd_frames_may_have_skippable_frames_between_them_and_inside_every_slice(tmp_path: Path) -> None:
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"skip"
    data = skippable + zstandard.compress(TEXT[:10]) + skippable + zstandard.compress(TEXT[10:]) + skippable
    path = written(tmp_path, data)
    # The first member is not the first byte here, so the chain begins behind the skippable frame.
    for slice_bytes in (5, 12, 20, WHOLE):
        readers = [SliceReader(part) for part in plan_slices(str(path), slice_bytes)]
        assert b"".join(block for reader in readers for _, block in reader.blocks()) == TEXT


@pytest.mark.parametrize(
    "options",
    [
        {"write_checksum": True},
        {"write_content_size": False},
        {"write_checksum": True, "write_content_size": False, "level": 19},
        {"compression_params": zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)},
    ],
)
def test_zstd_frames_of_every_kind_are_read(tmp_path: Path, options: dict[str, object]) -> None:
    text = documents(1000) + b'{"zeros":"' + bytes(b"0" * 3_000_000) + b'"}\n'
    path = written(tmp_path, zstandard.ZstdCompressor(**options).compress(text))  # type: ignore[arg-type]
    assert read(path).text == text


@pytest.mark.parametrize("compression", MEMBERS)
def test_zero_bytes_after_a_member_are_padding(tmp_path: Path, compression: str) -> None:
    data = COMPRESSORS[compression](TEXT[:9]) + bytes(70_000) + COMPRESSORS[compression](TEXT[9:]) + bytes(100)
    assert read(written(tmp_path, data)).text == TEXT
    assert read(tmp_path / "dump", 30_000).text == TEXT


def test_gzip_members_with_names_comments_and_extra_fields_are_found(tmp_path: Path) -> None:
    text = documents(2000)
    data = b""
    for number, flags in enumerate((0x08, 0x04, 0x10, 0x1C)):
        fields = {0x04: b"\x06\0BC\x02\0\x1f\x8b", 0x08: b"part.json\0", 0x10: b"a comment\0"}
        header = b"".join(field for flag, field in fields.items() if flags & flag)
        packed = gzip.compress(text[number * len(text) // 4 : (number + 1) * len(text) // 4])
        data += packed[:3] + bytes([flags]) + packed[4:10] + header + packed[10:]
    path = written(tmp_path, data)
    assert read(path).text == read(path, 50_000).text == read(path, 150_000).text == text


def test_a_bzip2_stream_without_members_is_one_slice_read_in_parallel_with_a_hint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = documents(6500)
    path = written(tmp_path, bz2.compress(text))
    assert path.stat().st_size > 1 << 20
    with caplog.at_level(logging.WARNING, "kg.dump"):
        reading = read(path, 100_000)
    assert reading.text == text
    assert len(reading.slices) == len(caplog.records) == 1
    assert re.search(r"bzip2.*40 times.*single stream.*packed with gzip", caplog.text)


@pytest.mark.parametrize("damage", ["cut", "cut in the footer", "garbage behind", "flipped bit", "burst"])
def test_a_damaged_bzip2_stream_read_in_parallel_is_an_error(tmp_path: Path, damage: str) -> None:
    data = bytearray(bz2.compress(documents(6500)))
    if damage == "cut":
        del data[1_200_000:]
    elif damage == "cut in the footer":
        del data[-4:]
    elif damage == "garbage behind":
        data += b"garbage" * 10
    elif damage == "flipped bit":
        data[1_100_000] ^= 4
    else:
        data[900_000:905_000] = random.Random(1).randbytes(5000)
    with pytest.raises(InputError, match=r"truncated|corrupt"):
        read(written(tmp_path, bytes(data)))


# --- Slices and lines ------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    text=st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\n\n", b"<x>", b",", b"]"]), max_size=60).map(b"".join),
    cuts=st.lists(st.integers(0, 120), max_size=8).map(sorted),
    slice_bytes=st.integers(1, 300),
    compression=st.sampled_from(["plain", *MEMBERS]),
)
@example(text=b"a\nb\n", cuts=[2, 2, 2, 4], slice_bytes=1, compression="gzip")
def test_every_line_comes_once_wherever_members_and_slices_are_cut(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, cuts: list[int], slice_bytes: int, compression: str
) -> None:
    text = b"{" + text
    if b"\n" not in text:
        text += b"\n"
    text += b"" if text.rsplit(b"\n", 1)[-1][:1] != b"{" else b"\n"
    data = members(compression, *(text[start:end] for start, end in pairwise([0, *cuts, len(text)])))
    reading = read(written(tmp_path_factory.mktemp("dump"), data), slice_bytes)
    assert reading.text == text
    assert not reading.faults


@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize("slice_bytes", [20_000, 150_000, WHOLE])
def test_members_longer_than_slices_and_slices_longer_than_members_give_the_same_text(
    tmp_path: Path, compression: str, slice_bytes: int
) -> None:
    text = documents(3000)
    data = members(compression, text[:500_000], text[500_000:500_123], text[500_123:700_000], text[700_000:])
    reading = read(written(tmp_path, data), slice_bytes)
    assert reading.text == text
    sizes = [part.end - part.start for part in reading.slices]
    assert sum(sizes) == len(data)
    assert slice_bytes == WHOLE or all(0.6 * slice_bytes <= size <= 1.5 * slice_bytes for size in sizes)


def test_blocks_are_whole_lines_of_bounded_size(tmp_path: Path) -> None:
    path = written(tmp_path, gzip.compress(documents(20_000)))
    blocks = [block for part in plan_slices(str(path), WHOLE) for _, block in SliceReader(part).blocks()]
    assert all(block.endswith(b"\n") and len(block) < 1 << 20 for block in blocks)
    assert len(blocks) < 20


def test_a_line_of_forty_megabytes_is_read_like_any_other(tmp_path: Path) -> None:
    line = b'{"x":"' + b"y" * 40_000_000 + b'"}\n'
    text = documents(10) + line + documents(10, seed=1)
    path = written(tmp_path, members("zstd", text[: 20 << 20], text[20 << 20 :]))
    assert read(path, 1000).text == text


@pytest.mark.parametrize("slice_bytes", [3000, WHOLE])
def test_a_line_beyond_all_measure_is_left_out_and_recorded(tmp_path: Path, slice_bytes: int) -> None:
    head, tail = documents(10), documents(10, seed=1)
    cut = bytes(b"y" * (90 << 20))
    path = written(tmp_path, members("zstd", head + b'{"x":"', cut, cut, cut, b'"}\n' + tail))
    reading = read(path, slice_bytes)
    assert reading.text == head + tail
    assert [fault.reason for fault in reading.faults] == ["a line of more than 256 MiB"]
    assert reading.faults[0].offset == len(head)


def open_files() -> list[str]:
    return [file.path for file in psutil.Process().open_files()]


def test_a_reader_leaves_no_file_open_when_it_is_dropped_early(tmp_path: Path) -> None:
    path = written(tmp_path, documents(10_000))
    blocks = SliceReader(plan_slices(str(path), WHOLE)[0]).blocks()
    next(blocks)
    assert open_files().count(str(path)) == 1
    blocks.close()  # type: ignore[attr-defined]
    assert open_files().count(str(path)) == 0


@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize(
    ("text", "opened", "ended"),
    [
        (TEXT, True, b"]"),
        (b"\xef\xbb\xbf \n" + TEXT[:-2], True, b"}"),
        (b'{"id":"Q1"}\n', False, b"}"),
        (b'[{"a":1}\r\n,{"b":2}]' + b" " * 5000, True, b"]"),
    ],
)
def test_whether_an_array_was_opened_and_closed_is_told(
    tmp_path: Path, compression: str, text: bytes, opened: bool, ended: bytes
) -> None:
    path = written(tmp_path, members(compression, text[:6], text[6:20], text[20:]))
    for slice_bytes in (10, 40, WHOLE):
        reading = read(path, slice_bytes)
        assert (reading.text, reading.opened, reading.ended) == (text, opened, ended)


# --- Damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", MEMBERS)
def test_every_truncation_of_a_compressed_dump_is_an_error(tmp_path: Path, compression: str) -> None:
    data = COMPRESSORS[compression](TEXT)
    for length in range(4, len(data)):
        with pytest.raises(InputError, match=r"truncated.*offset \d+ of the decompressed stream.*again"):
            read(written(tmp_path, data[:length]))


@pytest.mark.parametrize("slice_bytes", [30_000, WHOLE])
@pytest.mark.parametrize("compression", MEMBERS)
def test_a_stream_truncated_in_its_last_member_is_an_error(tmp_path: Path, compression: str, slice_bytes: int) -> None:
    text = documents(1000)
    data = members(compression, text[:200_000], text[200_000:])
    with pytest.raises(InputError, match=rf"truncated.*at byte {len(data) - 3} of the file"):
        read(written(tmp_path, data[:-3]), slice_bytes)


@pytest.mark.parametrize(("compression", "where"), [("plain", "byte 15 of the file"), ("gzip", "offset 15 of")])
@pytest.mark.parametrize("slice_bytes", [7, WHOLE])
def test_a_dump_that_ends_inside_a_document_is_an_error(
    tmp_path: Path, compression: str, where: str, slice_bytes: int
) -> None:
    with pytest.raises(InputError, match=f"truncated: it ends in the middle of the document at {where}"):
        read(written(tmp_path, COMPRESSORS[compression](TEXT[:20])), slice_bytes)


@pytest.mark.parametrize("compression", MEMBERS)
def test_garbage_after_the_last_member_is_an_error(tmp_path: Path, compression: str) -> None:
    with pytest.raises(InputError, match=r"corrupt.*decompressed after byte \d+.*67 61 72 62"):
        read(written(tmp_path, COMPRESSORS[compression](TEXT) + b"garbage"))


@pytest.mark.parametrize("compression", ["gzip", "bzip2"])
def test_a_flipped_bit_in_the_only_member_is_an_error(tmp_path: Path, compression: str) -> None:
    data = bytearray(COMPRESSORS[compression](TEXT * 100))
    data[-6] ^= 1
    with pytest.raises(InputError, match=r"corrupt|truncated"):
        read(written(tmp_path, bytes(data)))


def damaged(compression: str, how: str) -> tuple[bytes, bytes, int]:
    """A dump of five members with a fault in the middle: (data, text of the whole members, byte of the fault)."""
    text = documents(2500)
    cuts = [text.find(b"\n", len(text) * part // 5) + 1 for part in range(1, 5)]
    texts = [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]
    packed = [bytearray(COMPRESSORS[compression](part)) for part in texts]
    byte = len(packed[0]) + len(packed[1])
    kept = b"".join(texts[:2] + texts[3:])
    if how == "signature":
        packed[2][0:4] = b"\xff\xff\xff\xff"
    elif how == "head":
        packed[2][40:60] = bytes(20)
    elif how == "late":
        packed[2][-100:-60] = bytes(40)
    else:
        packed[2][0:0] = b"garbage"
        kept = text
    return b"".join(packed), kept, byte


@pytest.mark.parametrize("how", ["signature", "head", "late", "garbage between"])
@pytest.mark.parametrize("compression", MEMBERS)
def test_a_corrupt_member_costs_its_own_lines_only_and_is_recorded_alike_for_all_slices(
    tmp_path: Path, compression: str, how: str
) -> None:
    data, kept, byte = damaged(compression, how)
    path = written(tmp_path, data)
    whole = read(path)
    assert [fault.byte for fault in whole.faults] == [byte]
    lines, wanted = set(whole.text.splitlines()), set(kept.splitlines())
    assert lines >= wanted
    assert how == "late" or lines == wanted
    for slice_bytes in (10_000, 60_000, 200_000):
        reading = read(path, slice_bytes)
        assert reading.text == whole.text
        assert [(fault.byte, fault.reason) for fault in reading.faults] == [(byte, whole.faults[0].reason)]


def test_after_a_fault_a_member_that_begins_in_mid_line_is_read_from_its_next_line(tmp_path: Path) -> None:
    packed = [gzip.compress(part) for part in (b'{"a":1}\n{"b"', b":2}\n{", b'"c":3}\n{"d":4}\n', b'{"e":5}\n')]
    packed[1] = b"\xff" * len(packed[1])
    for slice_bytes in (10, 30, WHOLE):
        assert read(written(tmp_path, b"".join(packed)), slice_bytes).text == b'{"a":1}\n{"d":4}\n{"e":5}\n'


@settings(deadline=None, max_examples=150)
@given(
    compression=st.sampled_from(MEMBERS),
    cuts=st.lists(st.integers(0, 9000), max_size=4).map(sorted),
    edits=st.lists(
        st.tuples(st.integers(0, 1 << 20), st.integers(0, 40), st.binary(max_size=40)), min_size=1, max_size=4
    ),
    slice_bytes=st.sampled_from([97, 1000, WHOLE]),
)
def test_damaged_bytes_raise_nothing_but_input_errors_and_give_only_lines_or_faults(
    tmp_path_factory: pytest.TempPathFactory,
    compression: str,
    cuts: list[int],
    edits: list[tuple[int, int, bytes]],
    slice_bytes: int,
) -> None:
    text = documents(20)
    data = bytearray(members(compression, *(text[start:end] for start, end in pairwise([0, *cuts, len(text)]))))
    for position, length, new in edits:
        at = position % (len(data) + 1)
        data[at : at + length] = new
    path = written(tmp_path_factory.mktemp("dump"), bytes(data))
    try:
        for part in plan_slices(str(path), slice_bytes):
            for _ in SliceReader(part).blocks():
                pass
    except InputError:
        pass


# --- Kinds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"<!DOCTYPE html>\n<html>", "HTML"),
        (b"<html>\n<head>\n<title>Not found</title>", "HTML"),
        (b'<?xml version="1.0"?>\n<rdf:RDF xmlns:rdf="http://x/">', "HTML"),
        (b"PK\x03\x04....", "zip"),
        (b"\xfd7zXZ\x00....", "xz"),
        (b"PAR1....", "Parquet"),
        pytest.param(gzip.compress(gzip.compress(TEXT)), "inside another", id="gzip in gzip"),
        pytest.param(bz2.compress(b"<html>"), "HTML", id="HTML in bzip2"),
        (b"subject,relation\nQ1,P31\n", "no line begins like a document"),
    ],
)
def test_a_file_of_another_kind_is_named_as_what_it_is(tmp_path: Path, data: bytes, kind: str) -> None:
    path = str(written(tmp_path, data))
    for function in (file_kind, partial(plan_slices, slice_bytes=WHOLE)):
        with pytest.raises(InputError, match=rf"dump is not a Wikidata JSON dump.*at offset 0 it begins with .*{kind}"):
            function(path)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (TEXT, "json"),
        (b"\xef\xbb\xbf \n{}", "json"),
        (b' \n{"id":"Q1"}\n', "json"),
        (b"\n \n", "json"),
        (b'spoilt"}},\n{"id":"Q1"},\n', "json"),
        (b'<http://e/Q1> <http://l> "Berlin"@de .\n', "ntriples"),
        (b"# a comment\n\n_:b0 <http://p> <http://e/Q1> . # another\n", "ntriples"),
        (b"<http://e/Q1> <http://p> <http://e/Q2> ;\n  <http://p> <http://e/Q3> .\n", "turtle"),
        (b"@prefix wd: <http://e/> .\n", "turtle"),
        (b"# comment\nPREFIX wd: <http://e/>\n", "turtle"),
        (b"@base <http://e/> .\n", "turtle"),
        (b"<#me> a <#person> .\n", "turtle"),
        (b"<http://e/Q1>\n  <http://p> <http://e/Q2> .\n", "turtle"),
        (b"spoilt> .\n<http://e/Q1> <http://p> <http://e/Q2> .\n", "ntriples"),
    ],
)
@pytest.mark.parametrize("compression", ["plain", "bzip2"])
def test_the_kind_is_told_by_the_text(tmp_path: Path, text: bytes, kind: str, compression: str) -> None:
    assert file_kind(str(written(tmp_path, COMPRESSORS[compression](text)))) == kind


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    for function in (file_kind, partial(plan_slices, slice_bytes=WHOLE)):
        with pytest.raises(InputError, match=r"empty \(0 bytes\)"):
            function(str(written(tmp_path, b"")))


# --- Sources ---------------------------------------------------------------------------------------------------------


def parts(folder: Path) -> Path:
    """A folder with a dump in three parts and files that are none."""
    folder.mkdir()
    for number in (1, 2, 10):
        (folder / f"part-{number}.json.gz").write_bytes(gzip.compress(b'{"id":"Q%d"}\n' % number))
    (folder / ".part-3.json.gz.tmp").write_bytes(b"partial")
    (folder / "old").mkdir()
    return folder


@pytest.mark.parametrize("pattern", ["{}", "{}/", "{}/part-*.gz", "file://{}", "file://{}/*.gz"])
def test_the_files_of_a_folder_or_glob_are_read_in_natural_order(tmp_path: Path, pattern: str) -> None:
    source = pattern.format(parts(tmp_path / "dump"))
    reading = read(source)
    assert reading.text == b'{"id":"Q1"}\n{"id":"Q2"}\n{"id":"Q10"}\n'
    assert [part.number for part in reading.slices] == [0, 1, 2]
    assert file_kind(source) == "json"


@pytest.mark.parametrize("pattern", ["{}", "{}/*.json", "file://{}", "file://{}/*.json"])
def test_a_folder_or_glob_without_files_is_an_error(tmp_path: Path, pattern: str) -> None:
    (tmp_path / ".hidden").write_bytes(TEXT)
    for function in (file_kind, dump_digest, partial(plan_slices, slice_bytes=WHOLE)):
        with pytest.raises(InputError, match="There is no dump file in"):
            function(pattern.format(tmp_path))


def test_a_part_that_does_not_tell_its_kind_goes_with_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.nt").write_bytes(b"<http://s> <http://p> <http://o> .\n")
    (tmp_path / "b.nt").write_bytes(b"# nothing here\n\n")
    assert len(plan_slices(str(tmp_path), WHOLE)) == 2


def test_files_of_different_kinds_in_one_folder_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(TEXT)
    (tmp_path / "b.nt").write_bytes(b"<http://s> <http://p> <http://o> .\n")
    with pytest.raises(InputError, match=r"different kinds: json \(.*a.json\) and ntriples \(.*b.nt\)"):
        plan_slices(str(tmp_path), WHOLE)


@pytest.mark.parametrize("source", ["absent.json", "memory://absent.json", "nonsense://x/y"])
def test_a_source_that_cannot_be_opened_is_an_error_everywhere(source: str) -> None:
    functions: list[Callable[[str], object]] = [file_kind, dump_digest, partial(plan_slices, slice_bytes=WHOLE)]
    for function in functions:
        with pytest.raises(InputError, match="Cannot open the dump"):
            function(source)
    with pytest.raises(InputError, match="Cannot open the dump"):
        list(SliceReader(Slice(source, 0, 0, 10)).blocks())


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path, documents(5000))
    blocks = SliceReader(plan_slices(str(path), WHOLE)[0]).blocks()
    next(blocks)
    os.truncate(path, 1_000_000)
    with pytest.raises(InputError, match=r"Cannot read .*dump after byte .*run again"):
        list(blocks)


def test_the_digest_of_a_folder_follows_names_and_contents_but_not_its_place(tmp_path: Path) -> None:
    folder = parts(tmp_path / "dump")
    before = dump_digest(str(folder))
    assert dump_digest(str(folder.rename(tmp_path / "moved"))) == before
    folder = tmp_path / "moved"
    assert dump_digest(f"{folder}/*.gz") == before
    (folder / "part-2.json.gz").write_bytes(b"{}")
    changed = dump_digest(str(folder))
    (folder / "part-2.json.gz").rename(folder / "part-3.json.gz")
    assert len({before, changed, dump_digest(str(folder))}) == 3


def test_a_url_is_read_like_a_file_and_its_digest_follows_the_content(tmp_path: Path) -> None:
    url = "memory://dump-test/dump.json"
    with fsspec.open(url, "wb") as file:
        file.write(members("gzip", TEXT[:9], TEXT[9:]))
    assert read(url).text == read(url, 9).text == TEXT
    url = f"file://{tmp_path}/dump"
    (tmp_path / "dump").write_bytes(TEXT)
    before = dump_digest(url)
    assert dump_digest(url) == before
    (tmp_path / "dump").write_bytes(TEXT + b"\n")
    assert dump_digest(url) != before


class Plain(http.server.SimpleHTTPRequestHandler):
    """Serves files; answers no range requests."""

    def log_message(self, *arguments: object) -> None:
        pass


class Ranges(Plain):
    """Serves ranges of files, and files to none who asks for the whole."""

    def send_head(self):  # type: ignore[no-untyped-def]
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if self.command == "HEAD" or not asked or not path.is_file():
            return super().send_head()
        file = path.open("rb")
        size = path.stat().st_size
        start, end = int(asked[1]), min(int(asked[2] or size), size - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
        self.send_header("Content-Length", str(end - start + 1))
        self.end_headers()
        file.seek(start)
        self.wfile.write(file.read(end - start + 1))
        file.close()
        return None


@contextmanager
def served(folder: Path, handler: type[Plain]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("handler", "slices"), [(Plain, 1), (Ranges, 4)])
def test_a_dump_is_read_over_http_with_and_without_ranges(tmp_path: Path, handler: type[Plain], slices: int) -> None:
    text = documents(16_000)
    cut = len(text) // 2 + 5
    (tmp_path / "dump.gz").write_bytes(b"".join(gzip.compress(part, 1) for part in (text[:cut], text[cut:])))
    size = (tmp_path / "dump.gz").stat().st_size
    with served(tmp_path, handler) as url:
        reading = read(url + "dump.gz?token=x", size // 4)
        assert reading.text == text
        assert len(reading.slices) == slices
        assert dump_digest(url + "dump.gz").startswith("info-sha256:")
        with pytest.raises(InputError, match="Cannot open the dump"):
            plan_slices(url + "absent.gz", WHOLE)


def test_the_files_of_a_web_folder_are_found(tmp_path: Path) -> None:
    parts(tmp_path / "dump")
    with served(tmp_path, Plain) as url:
        assert read(url + "dump/*.gz").text == b'{"id":"Q1"}\n{"id":"Q2"}\n{"id":"Q10"}\n'


def test_a_lost_connection_is_an_error_that_names_the_url(tmp_path: Path) -> None:
    written(tmp_path, documents(16_000))
    with served(tmp_path, Ranges) as url:
        blocks = SliceReader(plan_slices(url + "dump", 3_000_000)[1]).blocks()
    with pytest.raises(InputError, match=r"Cannot (read|open) .*http://127"):
        list(blocks)
