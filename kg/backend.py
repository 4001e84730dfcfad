"""The networkx backend "knowledge_graph": networkx's own functions, run natively on a `kg.graph.KnowledgeGraph`.

How a plain ``networkx.pagerank(graph)`` gets here:

1. The package's entry points "networkx.backends" and "networkx.backend_info"
   name this module; networkx reads them when it is imported.
2. `KnowledgeGraph.open` puts the backend first in `networkx.config` for the
   functions below and for no others (`prefer`).
3. networkx asks `can_run`, which takes a `KnowledgeGraph` and nothing else, has
   the graph "converted", which changes nothing, and calls the function here. It
   works on the arrays (`kg.algorithms`) and gives what networkx gives, in the
   same order, or raises NotImplementedError where networkx's own code treats the
   arguments better; then networkx goes on to that.

All other functions are networkx's own code, which reads the graph through its
views: nothing is converted or copied, ordinary graphs may stand beside it, and
what that code calls in turn gets here again. Without the entry points (a
checkout that is not installed) networkx's own code does everything.
``backend="networkx"`` in a call asks for networkx's own code.

networkx loads this module while it is being imported itself, so nothing of
networkx is looked up and nothing heavy imported at the top.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import networkx as nx

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import sparray

    from kg.graph import KnowledgeGraph

__all__ = [
    "ancestors",
    "bidirectional_shortest_path",
    "can_run",
    "convert_from_nx",
    "convert_to_nx",
    "descendants",
    "get_info",
    "is_strongly_connected",
    "is_weakly_connected",
    "number_strongly_connected_components",
    "number_weakly_connected_components",
    "pagerank",
    "prefer",
    "should_run",
    "single_source_shortest_path_length",
    "strongly_connected_components",
    "to_scipy_sparse_array",
    "weakly_connected_components",
]

_NAME = "knowledge_graph"
_SINGLE_ID_COST = 8  # an id looked up alone, in ids read as a column
_native_functions: dict[str, str] = {}


def get_info() -> dict[str, Any]:
    """What networkx shows of the backend in the documentation of its functions."""
    return {
        "backend_name": _NAME,
        "project": "synthie",
        "package": "kg",
        "short_summary": "Compiled algorithms for knowledge graphs on disk.",
        "functions": {name: {"additional_docs": summary} for name, summary in _native_functions.items()},
    }


def prefer() -> None:
    """Have networkx try this backend first for its functions, before others that are configured for them now.

    A function that has a priority of its own in ``networkx.config.backend_priority`` keeps it.
    """
    if _NAME not in nx.utils.backends.backends:
        return
    priority = nx.config.backend_priority
    for name in _native_functions:
        if name not in priority:
            priority[name] = [_NAME, *priority.algos]


def can_run(name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
    """Whether the graph of the call is a `KnowledgeGraph`."""
    from kg.graph import KnowledgeGraph

    return isinstance(arguments[0] if arguments else options.get("G"), KnowledgeGraph)


def should_run(name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
    """True: the native versions pay off for every size."""
    return True


def convert_from_nx(graph: Any, **options: Any) -> Any:
    """The graph itself."""
    return graph


def convert_to_nx(result: Any, **options: Any) -> Any:
    """The result itself."""
    return result


def _native(function: Callable[..., Any]) -> Callable[..., Any]:
    """Register a native version of networkx's function of the same name; networkx gives all arguments by position."""
    _native_functions[function.__name__] = (function.__doc__ or "").strip()
    return function


@_native
def weakly_connected_components(graph: KnowledgeGraph) -> Iterator[set[str]]:
    """Union-find over the edges."""
    from kg.algorithms import weak_roots

    return _groups(graph, weak_roots)


@_native
def number_weakly_connected_components(graph: KnowledgeGraph) -> int:
    """Union-find over the edges."""
    import numpy as np

    from kg.algorithms import weak_roots

    return int(np.count_nonzero(weak_roots(graph) == np.arange(graph.node_count)))


@_native
def is_weakly_connected(graph: KnowledgeGraph) -> bool:
    """Union-find over the edges."""
    from kg.algorithms import weak_roots

    if not graph.node_count:
        raise NotImplementedError
    return not weak_roots(graph).any()


@_native
def strongly_connected_components(graph: KnowledgeGraph) -> Iterator[set[str]]:
    """Tarjan's algorithm, compiled."""
    from kg.algorithms import strong_components

    return _groups(graph, strong_components)


@_native
def number_strongly_connected_components(graph: KnowledgeGraph) -> int:
    """Tarjan's algorithm, compiled."""
    from kg.algorithms import strong_components

    return int(strong_components(graph).max(initial=-1)) + 1


@_native
def is_strongly_connected(graph: KnowledgeGraph) -> bool:
    """Tarjan's algorithm, compiled."""
    from kg.algorithms import strong_components

    if not graph.node_count:
        raise NotImplementedError
    return not strong_components(graph).any()


@_native
def pagerank(
    graph: KnowledgeGraph,
    alpha: float,
    personalization: dict[str, float] | None,
    max_iter: int,
    tol: float,
    nstart: dict[str, float] | None,
    weight: str | None,
    dangling: dict[str, float] | None,
) -> dict[str, float]:
    """Power iteration over the in-edges; weights that edges do not have, as networkx takes them: 1."""
    from kg import algorithms

    if weight in graph.edge_attribute_names:
        raise NotImplementedError
    ranks = algorithms.pagerank(
        graph,
        alpha,
        tol * graph.node_count,
        max_iter,
        personalization=_distribution(graph, personalization),
        start=_distribution(graph, nstart),
        dangling=_distribution(graph, dangling),
    )
    return dict(zip(graph.node_ids(), ranks.tolist(), strict=True))


@_native
def single_source_shortest_path_length(graph: KnowledgeGraph, source: str, cutoff: float | None) -> dict[str, int]:
    """Breadth-first search, compiled."""
    from kg.algorithms import breadth_first

    number = _number(graph, source)
    found, distances = breadth_first(graph, number, math.inf if cutoff is None else cutoff)
    return dict(zip(_ids(graph, found), distances.tolist(), strict=True))


@_native
def descendants(graph: KnowledgeGraph, source: str) -> set[str]:
    """Breadth-first search, compiled."""
    from kg.algorithms import breadth_first

    return set(_ids(graph, breadth_first(graph, _number(graph, source))[0][1:]))


@_native
def ancestors(graph: KnowledgeGraph, source: str) -> set[str]:
    """Breadth-first search, compiled."""
    from kg.algorithms import breadth_first

    return set(_ids(graph, breadth_first(graph, _number(graph, source), reverse=True)[0][1:]))


@_native
def bidirectional_shortest_path(graph: KnowledgeGraph, source: str, target: str) -> list[str]:
    """Breadth-first search from both ends, compiled; `networkx.shortest_path` and `has_path` use it."""
    from kg.algorithms import shortest_path

    path = shortest_path(graph, _number(graph, source), _number(graph, target))
    if not len(path):
        raise nx.NetworkXNoPath(f"No path between {source} and {target}.")
    return _ids(graph, path)


@_native
def to_scipy_sparse_array(
    graph: KnowledgeGraph,
    nodelist: list[str] | None,
    dtype: Any,
    weight: str | None,
    format: str,  # noqa: A002
) -> sparray:
    """The arrays of the graph, with equal edges summed; HITS, Katz and other algorithms on matrices begin with it."""
    from kg.algorithms import adjacency_matrix

    if nodelist is not None or format not in ("csr", "csc") or not graph.triple_count:
        raise NotImplementedError
    if weight in graph.edge_attribute_names:
        raise NotImplementedError
    return adjacency_matrix(graph).astype(dtype or "int64", copy=False).asformat(format)


def _groups(graph: KnowledgeGraph, label: Callable[[KnowledgeGraph], np.ndarray]) -> Iterator[set[str]]:
    """The ids of the nodes that share a label, by label."""
    import numpy as np

    labels = label(graph)
    order = np.argsort(labels, kind="stable")
    ids = _ids(graph, order)
    start = 0
    for end in (np.flatnonzero(np.diff(labels[order], append=-1)) + 1).tolist():
        yield set(ids[start:end])
        start = end


def _ids(graph: KnowledgeGraph, numbers: np.ndarray) -> list[str]:
    """The ids of these nodes; a good part of all are cheaper taken from the whole column than one by one."""
    if len(numbers) * _SINGLE_ID_COST < graph.node_count:
        return list(map(graph.node_id, numbers.tolist()))
    return graph.node_id_array()[numbers].tolist()


def _number(graph: KnowledgeGraph, identifier: object) -> int:
    number = graph.find_number(identifier)
    if number < 0:
        raise NotImplementedError
    return number


def _distribution(graph: KnowledgeGraph, weights: dict[str, float] | None) -> np.ndarray | None:
    """float64[nodes]: weights by id as shares of their sum; ids that the graph does not have do not count."""
    import numpy as np

    if weights is None:
        return None
    shares = np.zeros(graph.node_count)
    for identifier, weight in weights.items():
        number = graph.find_number(identifier)
        if number >= 0:
            shares[number] = weight
    if shares.sum() == 0:
        raise NotImplementedError
    return shares / shares.sum()
