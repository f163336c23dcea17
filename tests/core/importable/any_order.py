"""A backend that keeps values, in this process, and tells of its jobs in any order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from functionfuse.backends import Outcome, Packer, Started, compute, outcome_of, rest_of, unpack
from functionfuse.errors import WorkerDiedError


class Handle:
    """Where a value will be."""

    value: Any = None


class AnyOrder:
    """Keeps values, runs jobs in any order that their handles allow, and tells of them in any."""

    remote = keeps = True

    def __init__(self, rng: random.Random, limit: int = 0, dies: int = -1) -> None:
        self.rng, self.limit, self.dies = rng, limit, dies
        self.packer = Packer()
        self.waiting: list[tuple[Any, Any, Any, Handle]] = []
        self.news: list[Outcome | Started] = []
        self.most = 0

    def submit(self, job: Any) -> Handle:
        handle = Handle()
        self.waiting.append((job, self.packer.pack(job), job.target, handle))
        told_later = [news for news in self.news if isinstance(news, Outcome)]
        self.most = max(self.most, len(self.waiting) + len(told_later))
        return handle

    def run(self) -> None:
        ready = [
            each
            for each in self.waiting
            if all(
                not isinstance(value, Handle) or value.value is not None for value in each[0].values
            )
        ]
        each = self.rng.choice(ready)
        self.waiting.remove(each)
        job, packed, target, handle = each
        values = [value.value if isinstance(value, Handle) else value for value in job.values]
        outcome = compute(packed, values, target.value if target else None)
        handle.value = outcome.target if job.constructs else outcome.value
        self.news.append(Started(job.key))
        self.news.append(outcome_of(job.key, rest_of(outcome)))
        if job.target:
            target.value = outcome.target

    def wait(self, timeout: float | None) -> Sequence[Outcome | Started]:
        self.dies -= 1
        if self.dies == 0:
            raise WorkerDiedError("the cluster is gone")
        if timeout == 0 and self.rng.random() < 0.5:
            return []
        while self.waiting and (not self.news or self.rng.random() < 0.7):
            self.run()
        self.rng.shuffle(self.news)
        count = self.rng.randint(0 if timeout == 0 else 1, len(self.news))
        told_now, self.news = self.news[:count], self.news[count:]
        return told_now

    def cancel(self) -> Sequence[Outcome]:
        self.waiting.clear()
        return [news for news in self.news if isinstance(news, Outcome)]

    def fetch(self, handles: Sequence[Any]) -> list[Any]:
        return [unpack(handle.value) for handle in handles]
