"""The tasks that a run has submitted to Ray: wait for their answers, or cancel them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice
from time import monotonic
from typing import Any

import ray

__all__ = ["Handed"]

_LOOK = 0.05  # seconds to collect answers; waiting for each alone costs more than a small node
_AT_ONCE = 4096  # wait for this many of the oldest first: each takes one or two microseconds
_SHARE = 16  # go on when one in 16 of them has come
_GRACE = 5.0  # seconds for cancelled tasks to end


class Handed:
    """References to the values and answers of submitted tasks, by key, in order of submission.

    Attributes:
        values: references to the values; None if no node needs the value.
    """

    def __init__(self) -> None:
        self.values: dict[int, Any] = {}
        self._answers: dict[int, Any] = {}
        self._looked = monotonic()

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, key: int, value: Any, answer: Any) -> None:
        """Add a submitted task: the references of its value and of its answer."""
        self.values[key] = value
        self._answers[key] = answer

    def pop(self, key: int) -> Any:
        """Remove an answered task; return the reference of its value."""
        del self._answers[key]
        return self.values.pop(key)

    def came(self) -> list[tuple[int, Any]]:
        """Return the keys and answers that have come, without waiting; [] if called too soon."""
        if monotonic() - self._looked < _LOOK:
            return []
        return self._look(1, 0)

    def next(self) -> list[tuple[int, Any]]:
        """Wait for answers; return their keys, each with the answer or the error."""
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
        if len(ready) == enough < len(waited):  # more may have come by now
            ready, _ = ray.wait(waited, num_returns=len(waited), timeout=0, fetch_local=False)
        self._looked = monotonic()
        return [(keys[each], answer) for each, answer in zip(ready, _fetched(ready), strict=True)]

    def cancel(self, spared: Collection[int]) -> None:
        """Cancel all tasks but the spared ones, and wait a few seconds until they have ended.

        A second round kills the workers of those that have not.
        """
        answers = list(self._answers.values())
        for force in (False, True):
            running = _pending(answers)
            for key, answer in self._answers.items():
                if key not in spared and answer in running:
                    ray.cancel(answer, force=force)
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=_GRACE, fetch_local=False)
            if not _pending(answers):
                break


def _fetched(answers: Sequence[Any]) -> list[Any]:
    """Return the answer of each reference, or its error."""
    try:
        return list(ray.get(list(answers)))
    except Exception as error:  # noqa: BLE001  # the error is the answer
        if len(answers) == 1:
            return [error]
    half = len(answers) // 2
    return _fetched(answers[:half]) + _fetched(answers[half:])


def _pending(answers: Sequence[Any]) -> set[Any]:
    """Return the answers that have not come."""
    if not answers:
        return set()
    _, missing = ray.wait(list(answers), num_returns=len(answers), timeout=0, fetch_local=False)
    return set(missing)
