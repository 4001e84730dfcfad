"""The documented way on one machine: `up`, `prefect deployment run synthie/generate`, a killed run, the UI, `down`.

With ``SYNTHIE_SCREENSHOTS`` set to a folder, pictures of the UI's pages are kept there.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from chromium import EXECUTABLE, Chromium

ROOT = Path(__file__).resolve().parents[2]
SETS = 200
WAIT_S = 600


class Prefect:
    """A server, worker and deployment of their own, driven by the commands of the documentation."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.environment = {
            **os.environ,
            "SYNTHIE_PREFECT_HOME": str(home),
            "SYNTHIE_PREFECT_PORT": str(port),
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }

    def local(self, command: str) -> str:
        return self._call("flows.local", command)

    def run(self, folder: Path, *options: str, latency_s: float, **further: str) -> str:
        parameters = {
            **further,
            "run": str(folder),
            "sampling": {"n_sets": SETS, "round_size": 100},
            "generation": {"local": {"latency_s": latency_s}, "concurrency": 8},
            "extractor": {"steps": 2},
            "prediction": {"max_records": 2, "beams": 1, "max_new_tokens": 24},
            "evaluation": {"bootstrap": 2},
        }
        return self._call(
            "prefect", "deployment", "run", "synthie/generate", "--params", json.dumps(parameters), *options
        )

    def _call(self, module: str, *arguments: str) -> str:
        command = [sys.executable, "-m", module, *arguments]
        result = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=WAIT_S)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    prefect = Prefect(tmp_path_factory.mktemp("prefect"))
    try:
        assert "Prefect is ready" in prefect.local("up")
        yield prefect
    finally:
        prefect.local("down")


def engine_of(folder: Path) -> psutil.Process | None:
    """The process that runs the flow; it holds the lock of the stage at work."""
    for process in psutil.process_iter(["cmdline"]):
        if "prefect.engine" in " ".join(process.info["cmdline"] or []):
            try:
                if any(file.path.startswith(str(folder)) for file in process.open_files()):
                    return process
            except psutil.Error:
                continue
    return None


def test_a_deployed_run_that_is_killed_resumes_when_it_is_run_again(prefect: Prefect, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    prefect.run(folder, latency_s=2)  # fifty seconds for all
    deadline = time.monotonic() + WAIT_S
    journal = folder / "texts/journal"
    while not (journal.is_dir() and sum(file.stat().st_size for file in journal.iterdir()) > 2_000):
        assert time.monotonic() < deadline, "the run did not reach its texts"
        time.sleep(0.1)
    engine = engine_of(folder)
    assert engine is not None
    engine.kill()
    engine.wait(WAIT_S)

    assert "Completed" in prefect.run(folder, "--watch", "--watch-interval", "1", latency_s=0)
    cost = json.loads((folder / "texts/cost.json").read_bytes())
    assert cost["this_run"]["answered_before"] > 0
    assert cost["this_run"]["answered_before"] + cost["this_run"]["answered"] == SETS
    assert (folder / "report/report.html").exists()


def test_starting_twice_is_harmless(prefect: Prefect) -> None:
    assert "Prefect is ready" in prefect.local("up")


@pytest.mark.slow
@pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium is installed (Debian: apt install chromium)")
def test_the_ui_shows_the_form_a_run_and_its_artifacts(prefect: Prefect, tmp_path: Path) -> None:
    prefect.run(tmp_path / "run", "--watch", "--watch-interval", "1", latency_s=0, until="sets")
    pictures = Path(os.environ.get("SYNTHIE_SCREENSHOTS", tmp_path))
    address = prefect.environment["PREFECT_API_URL"].removesuffix("/api")

    async def look() -> None:
        async with Chromium(tmp_path / "profile", height=2_000) as browser:
            await browser.open(f"{address}/deployments")
            run_page = """[...document.querySelectorAll("a")].find(
                a => a.innerText.trim() === "generate" && a.href.includes("/deployments/deployment/"))?.href"""
            await browser.open(f"{await browser.until(run_page)}/run")
            await shown(browser, "Hard limit on what the run may cost", pictures / "form.png")
            await browser.open(f"{address}/runs")
            await shown(browser, f"{tmp_path}/run: {SETS} sets, to the sets", pictures / "runs.png")
            await browser.open(f"{address}/artifacts")
            await shown(browser, "Coverage of the triplet sets", pictures / "artifacts.png")

    asyncio.run(look())


async def shown(browser: Chromium, text: str, picture: Path) -> None:
    """Wait until the page shows the text, and keep a picture of it."""
    await browser.until(f"document.body?.innerText.includes({json.dumps(text)})")
    await browser.screenshot(picture)
