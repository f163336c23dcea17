"""Times ours against a peer's, side by side, so that a busy machine slows both alike."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

__all__ = ["Pair", "time_pair"]


@dataclass(frozen=True)
class Pair:
    """What a comparison gave, in seconds per call.

    Attributes:
        ours, peer: the best round of each.
        ratio: the median over the rounds of ours / peer.
        difference: the median over the rounds of ours - peer.
    """

    ours: float
    peer: float
    ratio: float
    difference: float


def time_pair(
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    rounds: int,
    calls: int = 1,
    prepare: Callable[[], object] = tuple,
    clock: Callable[[], float] = perf_counter,
) -> Pair:
    """Time both in every round, after one round that isn't counted; the first is the other's next.

    Args:
        calls: of each, per round; the round's time is their mean.
        prepare: called, untimed, before each side's turn.
        clock: `time.process_time` for CPU seconds.
    """
    mine: list[float] = []
    theirs: list[float] = []
    for number in range(rounds + 1):
        turns = [(ours, mine), (peer, theirs)]
        for call, times in turns if number % 2 else reversed(turns):
            prepare()
            times.append(_seconds(call, calls, clock))
    del mine[0], theirs[0]
    both = list(zip(mine, theirs, strict=True))
    return Pair(
        min(mine),
        min(theirs),
        statistics.median(a / b for a, b in both),
        statistics.median(a - b for a, b in both),
    )


def _seconds(call: Callable[[], object], calls: int, clock: Callable[[], float]) -> float:
    started = clock()
    for _ in itertools.repeat(None, calls):
        call()
    return (clock() - started) / calls
