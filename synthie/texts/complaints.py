"""What goes back to the writer of a rejected text: the text, and the quality gate's faults in it.

Both follow from the journal and the checks, so that a run that is started again sends the same message, and finds
its answer in the journal.
"""

from __future__ import annotations

from synthie.llm.journal import Journal
from synthie.quality import QualityGate
from synthie.texts.questions import Complaint, TripletSet

__all__ = ["Complaints"]

_REPEATS = "Another text says nearly the same in nearly the same words."


class Complaints:
    """Finds the text behind a key of the journal, and its faults."""

    def __init__(self, journal: Journal, gate: QualityGate) -> None:
        self._journal = journal
        self._gate = gate

    def __call__(self, triplet_set: TripletSet, key: bytes) -> Complaint:
        record = self._journal.get(key)
        assert record is not None, "a rejected text is in the journal"
        text = record.text.strip()
        verdict = self._gate.check(text, triplet_set.triplets, record.finish_reason, topic=triplet_set.topic)
        return Complaint(text, [reason.detail for reason in verdict.reasons] or [_REPEATS])
