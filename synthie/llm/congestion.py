"""How fast calls may start and how many may be in flight, found out from what an endpoint refuses.

Time is cut into trials: calls that start under the same limits, and how many of them the endpoint refuses (429).
After a trial in which hardly any was refused, rate and number in flight grow, by more each time. After one with
clearly more refusals than usual they are cut to a little less than what was accepted (bandwidth probing as in BBR,
Cardwell et al. 2016). A cut is an experiment: refusals for want of capacity vanish with it. If their share does not
fall, the load was not the reason; the cut is taken back, and that share counts as usual from then on.

`CongestionControl` does this; `Quota` keeps to limits that somebody told. Both are plain state machines on a clock
that is handed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["CongestionControl", "Outcome", "Quota", "Ticket"]

Outcome = Literal["answered", "refused", "other"]

# Chosen by simulation: tests/synthie/test_limits.py runs the endpoints that these numbers have to suit.
_TRIAL_S = 0.25
_SEARCHING_CALLS = 8  # that a trial waits for while the limits are still far off; and the number in flight at first
_TRIAL_CALLS = 16
_MEASURING_CALLS = 20  # of the trial after a cut
_FEWEST_CALLS = 4  # that a decision may rest on
_FEWEST_REFUSALS = 2  # that do not end a trial early
_MEASURED_REFUSALS = 7  # that do not end the trial after a cut early: it has to measure their share
_LONGEST_TRIAL_S = 5.0
_TOLERATED = 0.045  # share of refusals that is the price of knowing the limit; also the first step up after a cut
_SEARCHING = 0.1  # a gain from which on the limits are far off
_CUT = 0.9  # new rate, of what was accepted
_DEEPEST_CUT = 1 / 3
_BELOW_PROVEN = 0.92  # least new rate, of one that was accepted just before
_LARGEST_BACKGROUND = 0.95
_SLOWEST = 0.05  # calls a second
_CATCH_UP_S = 0.02  # how far a late start does not delay the next
_WINDOW_S = 60.0


@dataclass(eq=False, slots=True)
class Ticket:
    """A call between its start and its end.

    Attributes:
        started: on the limiter's clock.
        place: calls in flight at its start, itself included.
        tokens: tokens taken from the quota.
        trial: number of the trial that counts it; -1 for none.
        refused: whether the endpoint refused it.
    """

    started: float
    place: int
    tokens: int = 0
    trial: int = -1
    refused: bool = False


@dataclass(eq=False, slots=True)
class _Trial:
    """Calls that were started under the same limits."""

    number: int = 0
    calls: list[Ticket] = field(default_factory=list)
    refusals: int = 0
    shortest_retry_after: float = math.inf
    ended: float | None = None  # when it stopped taking calls; refusals of these may still come
    rate_was_used: bool = False  # somebody waited for the rate
    limit_was_used: bool = False  # somebody waited for a place

    @property
    def share(self) -> float:
        """Refused calls, of all."""
        return self.refusals / len(self.calls)

    def started_rate(self, rate: float | None) -> float:
        """Calls a second that were started, at most ``rate``."""
        calls = len(self.calls)
        seconds = self.ended - self.calls[0].started if self.calls and self.ended is not None else 0.0
        return calls / max(seconds, _TRIAL_S if rate is None else calls / rate)

    def full_at(self, calls: int) -> float:
        """When it has seen enough, if no further call starts."""
        if len(self.calls) < _FEWEST_CALLS:
            return math.inf
        return self.calls[0].started + (_TRIAL_S if len(self.calls) >= calls else _LONGEST_TRIAL_S)

    def exceeds(self, usual: float, deviations: float) -> bool:
        """Whether clearly more calls were refused than the ``usual`` share."""
        return _exceeds(self.refusals, len(self.calls), usual, deviations)


@dataclass(frozen=True, slots=True)
class _Cut:
    """An experiment: the rate was lowered to see whether refusals vanish.

    Attributes:
        share: of calls that were refused before.
        expected: share that is still refused if they were refused for the rate.
    """

    share: float
    expected: float

    def was_in_vain(self, trial: _Trial) -> bool:
        """Whether what came of it speaks for refusals that have nothing to do with the rate."""
        calls = len(trial.calls)
        deviation = math.sqrt(self.share * (1.0 - self.share) / calls)
        is_telling = self.expected <= self.share / 2
        return is_telling and trial.share >= max((self.share + self.expected) / 2, self.share - 1.5 * deviation)


@dataclass(frozen=True, slots=True)
class _Limits:
    """The limits before the cuts, and the rate that was accepted then; infinite if fewer calls came than might."""

    accepted_rate: float
    rate: float | None
    level: float


class CongestionControl:
    """Finds the rate and the number in flight that an endpoint accepts.

    Calls are free (no rate) until the first refusals, with a limit that starts at 8 and doubles.

    Args:
        maximum: never allow more in flight than this.
    """

    def __init__(self, maximum: int) -> None:
        self.rate: float | None = None
        self._maximum = maximum
        self._level = float(min(_SEARCHING_CALLS, maximum))
        self._gain = 1.0
        self._level_gain = self._largest_level_gain = 1.0
        self._next_start = -math.inf
        self._trial = _Trial()
        self._lag = 0.0  # seconds from the start of a call to its refusal
        self._background = 0.0  # share of calls refused whatever the load
        self._seen = self._seen_refused = 0  # calls of the trials under these limits, and refusals
        self._cut_made: _Cut | None = None  # that the present trial measures
        self._uncut: _Limits | None = None  # before the cuts that follow each other just now
        self._accepted_rate = 0.0  # before the last cut
        self._proven = 0.0  # rate that was accepted just before
        self._rate_before_outage: float | None = None

    @property
    def limit(self) -> int:
        """Calls that may be in flight now, at least 1."""
        return int(self._level)

    def wait(self, now: float, in_flight: int) -> float:
        """Seconds until a further call may start; infinite if a call has to end first."""
        self._review(now)
        if in_flight >= self.limit:
            self._trial.limit_was_used = True
            return self._decision_at() - now if self.limit < self._maximum else math.inf
        if self._next_start > now:
            self._trial.rate_was_used = True
            return self._next_start - now
        return 0.0

    def begin(self, now: float, in_flight: int) -> Ticket:
        """A call starts, ``in_flight`` counting it."""
        self._review(now)
        if self.rate is not None:
            self._next_start = max(self._next_start, now - _CATCH_UP_S) + 1.0 / self.rate
        call = Ticket(now, in_flight)
        if self._trial.ended is None:
            call.trial = self._trial.number
            self._trial.calls.append(call)
        return call

    def end(self, call: Ticket, now: float, outcome: Outcome, retry_after: float | None) -> None:
        """A call has ended: with an answer, refused for want of capacity, or in a way that says nothing."""
        if outcome == "refused":
            self._refused(call, now, retry_after)
        elif outcome == "answered":
            if self._rate_before_outage is not None and call.trial == self._trial.number:
                self._resume()
            elif self.rate is None and self._trial.limit_was_used:
                self._level = min(self._level + 1.0, self._maximum)
        self._review(now)

    @property
    def _usual(self) -> float:
        """Share of refusals that is no reason to slow down."""
        return self._background + _TOLERATED * (1.0 - self._background)

    def _refused(self, call: Ticket, now: float, retry_after: float | None) -> None:
        call.refused = True
        self._lag = max(now - call.started, 0.9 * self._lag)
        trial = self._trial
        if call.trial != trial.number:
            return  # started before the last decision: old news
        trial.refusals += 1
        if retry_after is not None:
            trial.shortest_retry_after = min(trial.shortest_retry_after, retry_after)
        most = _FEWEST_REFUSALS if self._uncut is None else _MEASURED_REFUSALS
        if trial.ended is None and trial.refusals > most and trial.exceeds(self._usual, 4.0):
            trial.ended = now  # no need to see more: only what comes of those under way
            self._next_start = now + self._lag

    def _review(self, now: float) -> None:
        if now < self._decision_at():
            return
        if self._trial.ended is None:
            self._trial.ended = now
            if now < self._decision_at():
                return
        self._decide(now)
        self._begin_trial()

    def _decision_at(self) -> float:
        if self._trial.ended is not None:
            return self._trial.ended + self._lag
        if self._uncut is not None and self._gain < 1.0:
            return self._trial.full_at(_MEASURING_CALLS)
        is_searching = self._gain >= _SEARCHING and not self._background
        return self._trial.full_at(_SEARCHING_CALLS if is_searching else _TRIAL_CALLS)

    def _begin_trial(self) -> None:
        self._trial = _Trial(self._trial.number + 1)

    def _decide(self, now: float) -> None:
        trial = self._trial
        calls, refusals = len(trial.calls), trial.refusals
        self._seen += calls
        self._seen_refused += refusals
        if refusals == calls and (self.rate is None or (1.0 - self._background) * calls >= _FEWEST_CALLS):
            self._go_dark()
        elif trial.exceeds(self._usual, 3.0) or _exceeds(self._seen_refused, self._seen, self._usual, 2.0):
            if self._uncut is not None and self._cut_made is not None and self._cut_made.was_in_vain(trial):
                self._take_back(self._uncut)
            else:
                self._cut(now)
        elif self._uncut is not None and self._gain < 1.0:
            self._end_experiment()
        elif self._uncut is None and _exceeds(self._seen_refused, self._seen, self._usual, 0.5):
            return  # not clear yet
        else:
            self._grow()
        self._seen = self._seen_refused = 0

    def _cut(self, now: float) -> None:
        trial, rate = self._trial, self.rate
        started = trial.started_rate(rate)
        accepted = started * (1.0 - trial.share)
        proven, self._proven = self._proven, 0.0
        self._accepted_rate = max(accepted, _BELOW_PROVEN * proven)
        if self._uncut is None:
            was_free = rate is not None and not trial.rate_was_used
            self._uncut = _Limits(math.inf if was_free else self._accepted_rate, rate, self._level)
        self._background, self._cut_made = 0.0, None
        if rate is None:
            self.rate, self._gain = max(_CUT * accepted, _SLOWEST), 1.0  # the first guess is a poor one
        else:
            self._gain = max(_TOLERATED, self._gain / 8)
            if (place := _crowding_place(trial.calls)) is not None:
                self._crowd_out(place)
                self.rate = max(accepted, started / 2, _SLOWEST)
            else:
                self.rate = max(_CUT * accepted, _DEEPEST_CUT * started, _BELOW_PROVEN * proven, _SLOWEST)
                self._cut_made = _Cut(trial.share, max(0.0, 1.0 - accepted / self.rate))
        self._next_start = now + 1.0 / self.rate

    def _crowd_out(self, place: int) -> None:
        """Calls were refused from ``place`` in flight on."""
        self._level = max(self._level / 2, min(self._level, place - 1.0))
        self._level_gain, self._largest_level_gain = _TOLERATED, 0.25
        self._uncut = None

    def _take_back(self, uncut: _Limits) -> None:
        """Refusals did not become fewer: they have nothing to do with the load."""
        self._background, self._uncut = min(self._trial.share, _LARGEST_BACKGROUND), None
        self._level = max(self._level, uncut.level)
        rate = uncut.accepted_rate / (1.0 - self._background)
        if uncut.rate is None:
            self._gain = 1.0
        else:
            rate = min(rate, uncut.rate)
            self._gain = max(self._gain, 0.25)
        self.rate = max(self.rate or 0.0, rate)
        self._next_start = -math.inf

    def _go_dark(self) -> None:
        """Nothing is accepted: probe slowly, and go on at half the rate once something is."""
        rate = self.rate or _SEARCHING_CALLS / _TRIAL_S
        if self._rate_before_outage is None:
            self._rate_before_outage = rate
        retry_after = self._trial.shortest_retry_after
        told = math.inf if retry_after == math.inf else 1.0 / max(retry_after, _TRIAL_S)
        self.rate = max(_SLOWEST, min(rate / 2, told))

    def _resume(self) -> None:
        if self.rate is not None and self._rate_before_outage is not None:
            self.rate = max(self.rate, self._rate_before_outage / 2)
        self._rate_before_outage = None
        self._gain = 1.0
        self._next_start = -math.inf
        self._begin_trial()

    def _end_experiment(self) -> None:
        """Refusals vanished with the cut, so the rate was the reason: go on with what was accepted."""
        trial, self._uncut = self._trial, None
        self._background = trial.share if trial.refusals > 1 else 0.0  # refused at the lower rate: not for the rate
        self.rate = max(self.rate or 0.0, self._accepted_rate / (1.0 - self._background))

    def _grow(self) -> None:
        trial, self._uncut = self._trial, None
        most = (trial.refusals + 2.0 * math.sqrt(trial.refusals + 1.0)) / len(trial.calls)
        self._background = min(self._background, most)
        if self.rate is not None and trial.rate_was_used:
            self._proven = self.rate
            self.rate *= 1.0 + self._gain
            self._gain = min(1.0, 2.0 * self._gain)
        if trial.limit_was_used:
            self._level = min(self._level + max(self._level_gain * self._level, 0.5), self._maximum)
            self._level_gain = min(self._largest_level_gain, 2.0 * self._level_gain)


def _crowding_place(calls: list[Ticket]) -> int | None:
    """Fewest calls in flight from which on most were refused, if many others were accepted below; else None."""
    fewest = min(call.place for call in calls if call.refused)
    crowded = [call.refused for call in calls if call.place >= fewest]
    is_sharp = 2 * sum(crowded) > len(crowded) and len(calls) - len(crowded) >= len(crowded) / 4
    return fewest if fewest > 1 and is_sharp else None


def _exceeds(refusals: int, calls: int, usual: float, deviations: float) -> bool:
    """Whether clearly more calls were refused than the ``usual`` share."""
    return refusals > usual * calls + deviations * math.sqrt(usual * (1.0 - usual) * calls)


class Quota:
    """Units (requests or tokens) per minute, with at most one second's worth of burst.

    Args:
        per_minute: as configured; None for no limit but what `learn` tells.
        now: the clock.
    """

    def __init__(self, per_minute: int | None, now: float) -> None:
        self._configured = math.inf if per_minute is None else per_minute / 60.0
        self._told = math.inf
        self._rest = math.inf  # rate for what is left of the endpoint's window
        self._rest_ends = -math.inf
        self._level = math.inf
        self._at = now
        self._refill(now)

    def rate(self, now: float) -> float:
        """Units a second; infinite if there is no limit."""
        return min(self._configured, self._told, self._rest if now < self._rest_ends else math.inf)

    def wait(self, now: float, units: int) -> float:
        """Seconds until ``units`` may be taken.

        A request above the burst may start when the burst is there; later ones wait until it is made up for.
        """
        rate = self._refill(now)
        if rate == math.inf:
            return 0.0
        return max(0.0, (min(float(units), max(1.0, rate)) - self._level) / rate)

    def take(self, now: float, units: int) -> None:
        """Take ``units``; negative ones are given back."""
        rate = self._refill(now)
        self._level = min(self._level - units, max(1.0, rate))

    def learn(self, now: float, per_minute: int | None, remaining: int | None, reset_s: float | None) -> None:
        """Obey what a response told: the limit, what is left of it, and when all of it is there again."""
        self._refill(now)
        if per_minute:
            self._told = per_minute / 60.0
        if remaining is None or reset_s is None or not 0.0 < reset_s <= _WINDOW_S:
            return
        used = 1.0 - remaining / per_minute if per_minute else 0.0
        if abs(used - reset_s / _WINDOW_S) > 0.1:  # else a bucket that fills evenly: the limit itself is the pace
            self._rest, self._rest_ends = max(remaining, 1) / reset_s, now + reset_s

    def _refill(self, now: float) -> float:
        rate = self.rate(now)
        burst = max(1.0, rate)
        gained = (now - self._at) * rate if now > self._at else 0.0
        self._level = min(burst, self._level + gained) if self._level < burst else burst
        self._at = now
        return rate
