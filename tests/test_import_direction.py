"""The law of the house: flows → synthie → kg, Prefect only in flows/, torch only in the extractor."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TRAINING = {"torch", "transformers", "accelerate"}
FORBIDDEN = {"kg": {"synthie", "flows", "prefect", *TRAINING}, "synthie": {"flows", "prefect"}, "flows": TRAINING}


def imported_packages(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_imports_only_downward(room: str) -> None:
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        assert not FORBIDDEN[room] & set(imported_packages(path)), path


def test_training_libraries_are_imported_in_the_extractor_only() -> None:
    for path in (ROOT / "synthie").rglob("*.py"):
        if "extractor" not in path.parts:
            assert not TRAINING & set(imported_packages(path)), path


def test_everything_but_flows_and_extractor_starts_without_prefect_and_torch() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for room in ("kg", "synthie")
        for path in (ROOT / room).rglob("*.py")
        if "extractor" not in path.parts and path.stem != "__main__"
    ]
    program = (
        f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
        f"print(sorted({{'prefect', *{sorted(TRAINING)!r}}} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
