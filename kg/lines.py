"""From pieces of text to blocks of whole lines.

A block is joined once from what lies between two line feeds, so that nothing is
done for every line. A line that would not end is dropped, and after missing text
lines begin again where one can be told to begin.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["LINE_LIMIT", "LineCutter"]

LINE_LIMIT = 1 << 28  # bytes; the longest lines of Wikidata's dumps have a few MiB
_BLOCK_BYTES = 1 << 19  # a block is made of no less; with a piece of text on top it stays below 1 MiB
# What a line begins with that begins a member, too; anything else may be the end of a line.
_LINE_STARTS = (b"{", b"<", b"_:", b"[\n", b",\n", b"[\r\n", b",\r\n")


class LineCutter:
    """Cuts pieces of text into blocks of whole lines.

    Args:
        skipping: drop everything up to and including the first line feed.
        report_long_line: called with the offset of every line that is dropped because it is too long.
        margin: what to append to every block.

    Attributes:
        offset: of the byte behind all that has been fed.
    """

    def __init__(self, skipping: bool, report_long_line: Callable[[int], None], margin: bytes = b"") -> None:
        self.offset = 0
        self._skipping = skipping
        self._report = report_long_line
        self._margin = margin
        self._after_gap = False
        self._blocks: list[tuple[int, bytes]] = []
        self._ready: list[bytes | memoryview] = []  # whole lines, then, in _rest, the beginning of one
        self._ready_size = 0
        self._rest: list[bytes] = []
        self._rest_size = 0

    @property
    def idle(self) -> bool:
        """Whether nothing would come out before the next line feed."""
        return self._skipping and not self._after_gap

    def feed(self, text: bytes) -> None:
        self._settle(text)
        if self._skipping:
            cut = text.find(b"\n") + 1
            self.offset += cut or len(text)
            if not cut:
                return
            self._skipping = False
            text = text[cut:]
        cut = text.rfind(b"\n") + 1
        if self._rest_size + len(text) > LINE_LIMIT:
            first = text.find(b"\n") if cut else len(text)
            if self._rest_size + first > LINE_LIMIT:
                self._drop_line()
                self.feed(text)
                return
        self.offset += len(text)
        if cut:
            self._ready += self._rest
            self._ready.append(memoryview(text)[:cut] if cut < len(text) else text)
            self._ready_size += self._rest_size + cut
            self._rest, self._rest_size, text = [], 0, text[cut:]
        if text:
            self._rest.append(text)
            self._rest_size += len(text)
        if self._ready_size >= _BLOCK_BYTES:
            self.flush()

    def feed_first_line(self, text: bytes) -> bool:
        """Feed no more than the line at hand needs; True if it is complete, or no line is at hand."""
        self._settle(text)
        cut = text.find(b"\n") + 1
        if not self._skipping:
            self.feed(text[:cut] if cut else text)
        return self._skipping or cut > 0

    def gap(self) -> None:
        """Text is missing here: drop the line at hand."""
        self.flush()
        self._rest, self._rest_size = [], 0
        self._after_gap = True

    def finish(self) -> bytes:
        """Take the line at hand for whole, as the file ends here, and return it."""
        line = b"".join(self._rest)
        if line:
            self._ready.append(line)
            self._ready_size += len(line)
            self._rest, self._rest_size = [], 0
        return line

    def taken(self) -> list[tuple[int, bytes]]:
        """The blocks made since the last call."""
        blocks, self._blocks = self._blocks, []
        return blocks

    def _settle(self, text: bytes) -> None:
        """Decide, with the first text after a gap, whether it begins on a line."""
        if self._after_gap:
            self._after_gap = False
            self._skipping = not text.startswith(_LINE_STARTS)

    def _drop_line(self) -> None:
        self.flush()
        self._report(self.offset - self._rest_size)
        self._rest, self._rest_size = [], 0
        self._skipping = True

    def flush(self) -> None:
        """Make a block of the whole lines at hand."""
        if self._ready:
            offset = self.offset - self._rest_size - self._ready_size
            self._ready.append(self._margin)
            self._blocks.append((offset, b"".join(self._ready)))
            self._ready, self._ready_size = [], 0
