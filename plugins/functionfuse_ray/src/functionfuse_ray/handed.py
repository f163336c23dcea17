"""What a run has handed to Ray: which answers have come, and how to end it all."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice
from time import monotonic
from typing import Any

import ray

__all__ = ["Handed"]

_LOOK = 0.05  # seconds in which answers gather; to wait for each by itself costs more than a node
_AT_ONCE = 4096  # of the oldest, asked for first: each takes a microsecond or two
_SHARE = 16  # one in so many is enough to go on with
_GRACE = 5.0  # seconds for cancelled tasks to end


class Handed:
    """References of what is at Ray's, by key, in the order in which they were handed over.

    Attributes:
        values: of the values; None where nothing needs one.
    """

    def __init__(self) -> None:
        self.values: dict[int, Any] = {}
        self._answers: dict[int, Any] = {}
        self._looked = monotonic()

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, key: int, value: Any, answer: Any) -> None:
        """Note what was handed over: the references of its value, and of what will be told."""
        self.values[key] = value
        self._answers[key] = answer

    def pop(self, key: int) -> Any:
        """Let go of what has been answered; return the reference of its value."""
        del self._answers[key]
        return self.values.pop(key)

    def came(self) -> list[tuple[int, Any]]:
        """Return keys and answers that have come, without waiting; now and then, or nothing."""
        if monotonic() - self._looked < _LOOK:
            return []
        return self._look(1, 0)

    def next(self) -> list[tuple[int, Any]]:
        """Wait for answers; return their keys, and what was told or the error that was raised."""
        while True:
            few = min(len(self), _AT_ONCE)
            found = self._look(max(1, few // _SHARE), _LOOK) or self._look(1, 1.0, every=True)
            if found:
                return found

    def _look(self, enough: int, seconds: float, *, every: bool = False) -> list[tuple[int, Any]]:
        keys = {
            answer: key
            for key, answer in islice(self._answers.items(), None if every else _AT_ONCE)
        }
        if not keys:
            return []
        waited = list(keys)
        ready, _ = ray.wait(waited, num_returns=enough, timeout=seconds, fetch_local=False)
        if len(ready) == enough < len(waited):  # there may be more by now
            ready, _ = ray.wait(waited, num_returns=len(waited), timeout=0, fetch_local=False)
        self._looked = monotonic()
        return [(keys[answer], told) for answer, told in zip(ready, _told(ready), strict=True)]

    def cancel(self, spared: Collection[int]) -> None:
        """End all but the spared keys, and wait until they have ended, if they do soon."""
        answers = list(self._answers.values())
        for force in (False, True):
            running = _without(answers)
            for key, answer in self._answers.items():
                if key not in spared and answer in running:
                    ray.cancel(answer, force=force)
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=_GRACE, fetch_local=False)
            if not _without(answers):
                break


def _told(answers: Sequence[Any]) -> list[Any]:
    """Return what was told, or raised, for each."""
    try:
        return list(ray.get(list(answers)))
    except Exception as error:  # noqa: BLE001  # it stands for its answer
        if len(answers) == 1:
            return [error]
    half = len(answers) // 2
    return _told(answers[:half]) + _told(answers[half:])


def _without(answers: Sequence[Any]) -> set[Any]:
    """Return those that have not come."""
    if not answers:
        return set()
    _, missing = ray.wait(list(answers), num_returns=len(answers), timeout=0, fetch_local=False)
    return set(missing)
