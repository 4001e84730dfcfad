"""The roster: whatever the checks say, no set is asked too often and no text too many is asked for."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from synthie.config import GenerationConfig
from synthie.texts.questions import Try
from synthie.texts.roster import Roster

VERDICTS = st.sampled_from(["accepted", "rejected", "truncated", "failed", "refused"])


@given(
    count=st.integers(0, 30),
    n_texts=st.none() | st.integers(1, 40),
    tries=st.integers(1, 4),
    policy=st.sampled_from(["longer", "again", "reject"]),
    data=st.data(),
)
def test_waves_end_with_as_many_texts_as_are_wanted_or_no_set_left(
    count: int, n_texts: int | None, tries: int, policy: str, data: st.DataObject
) -> None:
    config = GenerationConfig(n_texts=n_texts, tries=tries, truncated=policy)
    roster = Roster(count, config)
    asked: dict[int, list[Try]] = {}
    verdicts: dict[int, str] = {}
    while True:
        pending = np.flatnonzero(roster.pending).tolist()
        assert len(pending) + np.count_nonzero(roster.accepted) <= roster.wanted
        for position in pending:
            assert verdicts.get(position) not in ("accepted", "failed")
            asked.setdefault(position, []).append(roster.which(position))
            verdicts[position] = data.draw(VERDICTS)
            if verdicts[position] in ("failed", "refused"):
                roster.fail(position, refused=verdicts[position] == "refused")
                if verdicts[position] == "refused":  # where there is a text, it stands
                    verdicts[position] = "failed" if len(asked[position]) == 1 else "rejected"
            else:
                is_truncated = verdicts[position] == "truncated"
                roster.judge(position, verdicts[position] == "accepted", truncated=is_truncated)
        if not roster.advance():
            break
    assert all([which.number for which in tried] == list(range(len(tried))) for tried in asked.values())
    assert all(len(tried) <= tries for tried in asked.values())
    assert policy == "longer" or all(which.doublings == 0 for tried in asked.values() for which in tried)
    assert sorted(asked) == list(range(len(asked)))  # no set before the ones ahead of it
    accepted = [position for position, verdict in verdicts.items() if verdict == "accepted"]
    assert np.flatnonzero(roster.accepted).tolist() == sorted(accepted)
    assert roster.failed == sum(verdict == "failed" for verdict in verdicts.values())
    if n_texts is None:
        assert len(asked) == count
        assert roster.missing == roster.failed
    else:
        assert roster.missing == n_texts - len(accepted)
        assert len(accepted) <= n_texts
        if roster.missing:
            assert len(asked) == count
            given_up = [position for position in asked if verdicts[position] in ("rejected", "truncated")]
            assert all(
                len(asked[position]) == tries or (verdicts[position] == "truncated" and policy == "reject")
                for position in given_up
            )
