"""What an RDF source says about each entity and relation: title, label, description, aliases.

The best text of each kind is chosen by language, then by predicate, then by the
text itself, so that the order of the source does not matter; labels that differ
from the chosen one become aliases. Every text is counted under its use or a reason.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.rdf.units import ALIAS, DESCRIPTION, LABEL, TITLE

__all__ = ["Texts", "lists"]


class Texts:
    """Of the texts about each target: its title, label and description, its aliases; "" where there is none.

    Args:
        rows: the column "subject" is the number of the target, the others are those of a unit's "texts".
        targets: how many there are.
        used, dropped: count the texts by use or by reason.

    Attributes:
        titles, labels, descriptions: strings[targets]; the title is the label of what has none.
    """

    def __init__(self, rows: pa.Table, targets: int, used: Counter[str], dropped: Counter[str]) -> None:
        encoded = _one_chunk(rows["text"]).dictionary_encode()
        words = encoded.dictionary
        by_word = pc.sort_indices(words).to_numpy()
        rank = np.empty(len(words), np.int64)
        rank[by_word] = np.arange(len(words))
        self._words = words.take(pa.array(by_word))
        self._targets = targets
        self._used, self._dropped = used, dropped
        columns = [rows[name].to_numpy().astype(np.int64) for name in ("subject", "role", "rank", "order", "copies")]
        columns.insert(4, rank[encoded.indices.to_numpy()] if len(rows) else np.empty(0, np.int64))
        order = np.lexsort(columns[4::-1])
        target, role, language, _, word, copies = (column[order] for column in columns)
        dropped["duplicate"] += int((copies - 1).sum())
        self._rows = target, role, language, word
        title, _ = self._best(TITLE, "articles", "duplicate")
        label, spare = self._best(LABEL, "labels", None)
        description, _ = self._best(DESCRIPTION, "descriptions", "duplicate")
        self.titles, self.descriptions = self._text(title), self._text(description)
        label = np.where(label < 0, title, label)
        self.labels = self._text(label)
        self._collect_aliases(label, spare)

    def aliases(self, start: int, count: int) -> pa.ListArray:
        """The aliases of ``count`` targets from ``start`` on."""
        first, last = np.searchsorted(self._alias_of, [start, start + count])
        return lists(self._alias_of[first:last] - start, self._alias.slice(first, last - first), count)

    def _best(self, role: int, use: str, spare: str | None) -> tuple[np.ndarray, np.ndarray]:
        """int64[targets]: the word of each target's best text of a role, -1 for none; and the rows of the others
        in the same language, which are counted as ``spare`` unless it is None."""
        target, roles, language, word = self._rows
        rows = np.flatnonzero(roles == role)
        first = np.ones(len(rows), dtype=bool)
        first[1:] = target[rows[1:]] != target[rows[:-1]]
        self._used[use] += int(first.sum())
        best = np.full(self._targets, -1, np.int64)
        best[target[rows[first]]] = word[rows[first]]
        language_of = np.full(self._targets, -1, np.int64)
        language_of[target[rows[first]]] = language[rows[first]]
        others = rows[~first]
        same = language[others] == language_of[target[others]]
        self._dropped["other_language"] += int((~same).sum())
        if spare is not None:
            self._dropped[spare] += int(same.sum())
        return best, others[same]

    def _collect_aliases(self, label: np.ndarray, spare: np.ndarray) -> None:
        target, role, language, word = self._rows
        rows = np.sort(np.concatenate([spare, np.flatnonzero(role == ALIAS)]))
        others = rows[word[rows] != label[target[rows]]]
        others = others[np.lexsort((language[others], word[others], target[others]))]
        first = np.ones(len(others), dtype=bool)
        first[1:] = (target[others[1:]] != target[others[:-1]]) | (word[others[1:]] != word[others[:-1]])
        chosen = others[first]
        chosen = chosen[np.lexsort((word[chosen], language[chosen], target[chosen]))]
        self._used["aliases"] += len(chosen)
        self._dropped["duplicate"] += len(rows) - len(chosen)
        self._alias_of, self._alias = target[chosen], self._words.take(pa.array(word[chosen]))

    def _text(self, word: np.ndarray) -> pa.Array:
        return pc.fill_null(self._words.take(pa.array(word, mask=word < 0)), "")


def lists(owner: np.ndarray, values: pa.Array, count: int) -> pa.ListArray:
    """Lists of the values of each owner 0 … count - 1; ``owner`` is sorted."""
    offsets = np.searchsorted(owner, np.arange(count + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values.cast(pa.string()))


def _one_chunk(column: Any) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
