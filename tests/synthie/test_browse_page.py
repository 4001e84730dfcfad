"""The page in a real browser: what a person sees, points at and presses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from browse_run import HOSTILE, TEXTS, make_run, record, served, write_texts
from chromium import EXECUTABLE, Chromium

from synthie.browse.verdicts import hand_verdicts

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium is installed (Debian: apt install chromium)")

READY = "document.querySelector('.record, .empty') && !document.querySelector('[aria-busy]')"
CURRENT = "document.querySelector('.record.current .id')?.textContent"
Visit = Callable[[Chromium, str], Awaitable[None]]


def visit(folder: Path, look: Visit, *paths: Path) -> None:
    """Serve the paths, and look at the page; whatever the page logs as an error fails the test."""

    async def go(url: str) -> None:
        async with Chromium(folder / "profile") as browser:
            await browser.open(url)
            await browser.until(READY)
            await look(browser, url)
            assert browser.errors == []

    with served(*paths) as client:
        asyncio.run(go(str(client.base_url)))


def key(number: int) -> str:
    return f"{number:032x}"


def test_a_person_reads_judges_and_filters(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")

    async def look(browser: Chromium, url: str) -> None:
        # A text is text, whatever it holds.
        assert await browser.value("document.querySelector('.text').textContent") == HOSTILE
        assert await browser.value("document.title") == "run · synthie browse"
        assert await browser.value("document.querySelectorAll('.record script, .record img').length") == 0

        # Keys: on, accept, on, reject with the next in sight, undo.
        assert await browser.value(CURRENT) == "#0"
        await browser.press("j")
        assert await browser.value(CURRENT) == "#1"
        await browser.press("a")
        await browser.until(f"{CURRENT} === '#2'")
        await browser.press("r")
        await browser.until(f"{CURRENT} === '#3'")
        assert hand_verdicts(run / "texts") == {key(1): "accept", key(2): "reject"}
        assert "2 texts judged by hand" in await browser.value("document.getElementById('agreement').textContent")
        await browser.press("u")
        await browser.until(f"{CURRENT} === '#2'")
        assert hand_verdicts(run / "texts") == {key(1): "accept"}
        await browser.press("k")
        assert await browser.value(CURRENT) == "#1"
        pressed = "document.querySelector('.record.current .actions .accept').getAttribute('aria-pressed')"
        assert await browser.value(pressed) == "true"

        # A note goes with the verdict.
        await browser.press("n")
        await browser.value("document.activeElement.value = 'well said'")
        await browser.press("Escape")
        await browser.value("document.querySelector('.record.current .write').click()")
        await browser.value("document.activeElement.value = 'well said'")
        await browser.value("document.querySelector('.record.current .actions .reject').click()")
        await browser.until("document.querySelector('.record.current .note-text').textContent.includes('well said')")
        assert hand_verdicts(run / "texts") == {key(1): "reject"}

        # Pressing a relation lights its two mentions, and no other.
        await browser.value("document.querySelector('.record.current .relation').click()")
        lit = "[...document.querySelectorAll('.record.current mark.lit')].map((mark) => mark.textContent)"
        assert set(await browser.value(lit)) == {"Bruno Rossi 1", "Bern"}

        # Search by the slash; the address keeps the state, and going back restores it.
        await browser.press("/")
        assert await browser.value("document.activeElement.id") == "search"
        await browser.value(
            "(() => { const box = document.activeElement; box.value = 'Clara'; "
            "box.dispatchEvent(new Event('input', { bubbles: true })); })()"
        )
        await browser.until("document.getElementById('count').textContent === '20 texts'")
        assert "search=Clara" in await browser.value("location.search")
        await browser.value("history.back()")
        await browser.until(f"document.getElementById('count').textContent === '{TEXTS} texts'")

        # Another browser's verdict is seen without loading again.
        await browser.value(
            "fetch('api/verdicts', { method: 'POST', headers: { 'x-browse-token': "
            "document.querySelector('meta[name=browse-token]').content }, "
            f"body: JSON.stringify({{ key: '{key(5)}', verdict: 'accept' }}) }}).then((answer) => answer.status)"
        )
        await browser.value("window.dispatchEvent(new Event('focus'))")
        await browser.until("document.querySelectorAll('.hand.accept').length === 1")

        # The page as its address says.
        await browser.open(f"{url}?verdict=rejected&relation=P20&page=1")
        await browser.until(READY)
        assert await browser.value("document.getElementById('count').textContent") == "10 texts"
        assert await browser.value("document.querySelector('[name=verdict]').value") == "rejected"
        assert await browser.value("document.querySelector('mark.fault').textContent") == "Paris"
        await browser.value("document.querySelector('.reasons li').focus()")
        assert await browser.value("document.querySelector('mark.fault').classList.contains('lit')")
        await browser.value("document.querySelector('.reasons li:nth-child(2)').focus()")
        lit = "[...document.querySelectorAll('.triplets li.lit .relation')].map((button) => button.textContent)"
        assert await browser.value(lit) == ["place of birth"]
        await browser.value("document.getElementById('clear').click()")
        await browser.until(f"document.getElementById('count').textContent === '{TEXTS} texts'")
        assert await browser.value("location.search") == ""

        # On a phone nothing is wider than the screen, and help opens by its key.
        await browser.resize(390, 844, mobile=True)
        assert await browser.value("document.documentElement.scrollWidth") <= 390
        await browser.value("document.activeElement.blur()")
        await browser.press("?")
        assert await browser.value("document.getElementById('help').open")

    visit(tmp_path, look, run)


def test_two_prompts_stand_side_by_side(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    other = write_texts(tmp_path / "other", [record(n, prompt="styles/1") for n in range(30)])

    async def look(browser: Chromium, url: str) -> None:
        assert await browser.value("document.querySelectorAll('.prompts tbody tr').length") == 4  # two models each
        assert await browser.value("document.querySelectorAll('.pair').length") == 20
        boxes = json.loads(
            await browser.value(
                "JSON.stringify([...document.querySelectorAll('.pair:first-child .record')].map((element) => "
                "element.getBoundingClientRect().left))"
            )
        )
        assert boxes[0] < boxes[1]
        colour = (
            "getComputedStyle(document.querySelectorAll('.pair:nth-child(2) .record')[{}].querySelector('mark')).color"
        )
        assert await browser.value(colour.format(0)) == await browser.value(colour.format(1))
        await browser.press("j")
        await browser.press("l")
        await browser.press("a")
        await browser.until("document.querySelectorAll('.hand.accept').length === 1")
        assert hand_verdicts(other / "texts") == {key(1): "accept"}
        assert hand_verdicts(run / "texts") == {}
        await browser.value("document.querySelector('.outcomes button:nth-child(2)').click()")
        await browser.until("document.getElementById('count').textContent === '20 sets'")
        await browser.resize(390, 844, mobile=True)
        assert await browser.value("document.documentElement.scrollWidth") <= 390

    visit(tmp_path, look, run, other)
