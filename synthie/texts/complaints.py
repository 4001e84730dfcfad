"""What goes back to the writer of a rejected text: the text, and the quality gate's faults in it.

Both follow from the journal and the checks, so that a run that is started again sends the same message, and finds
its answer in the journal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from synthie.llm.journal import Journal
from synthie.quality import QualityGate, Reason
from synthie.records import Triplet
from synthie.texts.questions import Complaint, TripletSet

__all__ = ["Complaints"]


class Complaints:
    """Finds the text behind a key of the journal, and its faults.

    Args:
        journal: has the texts.
        gate: the checks of single texts.
        late_faults: what is wrong with a text beside others; see `synthie.texts.compiling.Compiler.late_faults`.
    """

    def __init__(
        self,
        journal: Journal,
        gate: QualityGate,
        late_faults: Callable[[bytes, str, Sequence[Triplet]], list[Reason]],
    ) -> None:
        self._journal = journal
        self._gate = gate
        self._late_faults = late_faults

    def __call__(self, triplet_set: TripletSet, key: bytes) -> Complaint:
        record = self._journal.get(key)
        assert record is not None, "a rejected text is in the journal"
        text, triplets = record.text.strip(), triplet_set.triplets
        verdict = self._gate.check(text, triplets, record.finish_reason, topic=triplet_set.topic)
        reasons = verdict.reasons + self._late_faults(key, text, triplets)
        return Complaint(text, [reason.detail for reason in reasons])
