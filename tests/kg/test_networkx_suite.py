"""networkx's own tests, with our views in place of its dictionaries.

    pytest -m slow -s tests/kg/test_networkx_suite.py

Runs every test file of the installed networkx that speaks of directed graphs, apart from drawing and generators (they
make graphs and read none) and the four files named below; `memory_graph` says where its graphs come in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import networkx as nx
import pytest

PACKAGE = Path(nx.__file__).parent
HERE = Path(__file__).resolve().parent

WITHOUT_DIRECTED_MULTIGRAPHS = ("drawing/", "generators/")
# A minute and more for tests of undirected graphs, mostly.
TOO_SLOW = ("test_traveling_salesman.py", "test_smallworld.py", "test_tree_isomorphism.py", "test_gomory_hu.py")

WRITES = "writes to the attributes of a node or an edge, which are read-only"
DOES_NOT_APPLY = {
    "classes/tests/test_*.py::Test*MultiDiGraph::test_nodes": "wants dictionaries where the graph has views of arrays",
    "classes/tests/test_*.py::Test*MultiDiGraph::test_pickle": "wants the attributes of an edge to be one object, seen "
    "from either end; here they are made when asked for, equal but not the same",
    "classes/tests/test_*.py::Test*MultiDiGraph::test_subgraph": WRITES,
    "classes/tests/test_*.py::Test*MultiDiGraph::test_to_directed": WRITES,
    "classes/tests/test_*.py::Test*MultiDiGraph::test_to_undirected": WRITES,
    "classes/tests/test_multidigraph.py::TestEdgeSubgraph::test_*_attr_dict": WRITES,
    "classes/tests/test_multidigraph.py::TestEdgeSubgraph::test_remove_node": "changes a graph under its subgraph",
    "classes/tests/test_reportviews.py::Test*MultiEdgeView::test_iterkeys": WRITES,
    "algorithms/isomorphism/tests/test_vf2userfunc.py::TestMatch_MultiDiGraph::test_generic_all_3_attr": WRITES,
}


def chosen_files() -> list[Path]:
    return [
        path
        for path in sorted(PACKAGE.rglob("test_*.py"))
        if not path.relative_to(PACKAGE).as_posix().startswith(WITHOUT_DIRECTED_MULTIGRAPHS)
        and path.name not in TOO_SLOW
        and "DiGraph" in path.read_text(encoding="utf-8")
    ]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_networkxs_own_tests_pass_on_our_views(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    environment = os.environ | {
        "MEMORY_GRAPH_REPORT": str(report),
        "NETWORKX_FALLBACK_TO_NX": "1",
        "NETWORKX_TEST_BACKEND": "memory_graph",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])]),
    }
    plugins = ["-p", "memory_graph", "-p", "no:cacheprovider", "-p", "no:randomly"]
    command = [sys.executable, "-m", "pytest", *plugins, "-c", os.devnull, "--rootdir", str(PACKAGE), "-q"]
    run = subprocess.run(
        [*command, *map(str, chosen_files())],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.exists(), run.stdout + run.stderr
    found = json.loads(report.read_text())
    handed = found["handed_to_functions"]
    print(f"\nnetworkx {nx.__version__}: {found['passed']} passed, {found['skipped']} skipped,", end=" ")
    print(f"{len(found['failed'])} do not apply")
    print(f"our graphs: {found['kept_from_setup']} kept from a test's setup, {sum(handed.values())} handed to", end=" ")
    print(f"{len(handed)} functions; {sum(found['native'].values())} native calls")
    unexpected = [name for name in found["failed"] if not any(fnmatch(name, pattern) for pattern in DOES_NOT_APPLY)]
    assert not unexpected, run.stdout
    idle = [pattern for pattern in DOES_NOT_APPLY if not any(fnmatch(name, pattern) for name in found["failed"])]
    assert not idle, "these pass now; take them off the list"
    assert found["passed"] > 3000
    assert found["kept_from_setup"] > 300
    assert sum(handed.values()) > 1000
    assert len(found["native"]) > 10
