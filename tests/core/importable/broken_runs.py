"""Backends that break one promise about failures, attempts, time, resources or events."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from functionfuse.backends import Outcome, Packer, compute, outcome_of, rest_of, unpack
from functionfuse.backends.builtin.inplace import InProcess, OnExecutor
from functionfuse.backends.builtin.localback import LocalWorkflow


class _Changes(InProcess):
    """Changes jobs or outcomes."""

    def submit(self, job: Any) -> None:
        self.before(job)
        self._done.append(self.after(job, job.run()))

    def before(self, job: Any) -> None:
        pass

    def after(self, job: Any, outcome: Outcome) -> Outcome:
        del job
        return outcome


class FailsFast(_Changes):
    """After a failed job, all others fail."""

    failed: Any = None

    def after(self, job: Any, outcome: Outcome) -> Outcome:
        self.failed = self.failed or outcome.error
        return Outcome.of_error(job.key, self.failed) if self.failed else outcome


class TakesCtrlCForAnError(_Changes):
    """A Ctrl-C in a node is an error like others."""

    def after(self, job: Any, outcome: Outcome) -> Outcome:
        if isinstance(outcome.error, KeyboardInterrupt):
            return Outcome.of_error(job.key, RuntimeError("interrupted"))
        return outcome


class RunsTheQueue(OnExecutor):
    """Cancels nothing: jobs that wait are run."""

    def cancel(self) -> Any:
        wait([future for _, future in self._jobs.values()])
        return super().cancel()


class HidesAFullStorage(_Changes):
    """Doesn't tell that an error is the storage's."""

    def after(self, job: Any, outcome: Outcome) -> Outcome:
        del job
        outcome.unsaved = False
        return outcome


class DropsAgain(_Changes):
    """Doesn't tell that a node may be tried again."""

    def after(self, job: Any, outcome: Outcome) -> Outcome:
        del job
        outcome.again = False
        return outcome


class ComparesClasses(_Changes):
    """Decides itself after which errors a node may be tried again."""

    def after(self, job: Any, outcome: Outcome) -> Outcome:
        outcome.again = type(outcome.error) in job.retry_on
        return outcome


class AnswersByKey(InProcess):
    """Gives the first outcome again, if a job with its key comes again."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, Any] = {}

    def submit(self, job: Any) -> None:
        if job.key not in self.known:
            self.known[job.key] = job.run()
        self._done.append(self.known[job.key])


class KeepsTheFirstJob(InProcess):
    """Runs the first job once more, if a job with its key comes again."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[int, Any] = {}

    def submit(self, job: Any) -> None:
        super().submit(self.jobs.setdefault(job.key, job))


class RunsAgainItself(_Changes):
    """Runs a job again that may be tried again, and tells of the last attempt."""

    def after(self, job: Any, outcome: Outcome) -> Outcome:
        for _ in range(5):
            if outcome.again:
                outcome = job.run()
        return outcome


class TriesAgainAfterAll(_Changes):
    """Says after any error that the node may be tried again."""

    def after(self, job: Any, outcome: Outcome) -> Outcome:
        del job
        outcome.again = outcome.error is not None
        return outcome


class SwallowsTimeouts(_Changes):
    """Lets functions take any time."""

    def before(self, job: Any) -> None:
        job.timeout = None


class ChecksTimeoutsHere(OnExecutor):
    """Looks in the wrong thread whether functions can be interrupted."""

    interrupts = False
    here: Any = None

    def submit(self, job: Any) -> None:
        if job.name == "the check of timeouts":
            self.here = job.run()
        else:
            super().submit(job)

    def wait(self, timeout: float | None) -> Any:
        if self.here is None:
            return super().wait(timeout)
        here, self.here = self.here, None
        return [here]


class IgnoresResources(OnExecutor):
    """Says how much there is, and runs all jobs at once."""

    placed = {"machine": 1}  # noqa: RUF012
    resources = {"machine": 1}  # noqa: RUF012


class NeverFrees(_Changes):
    """Gives resources to jobs, and doesn't take them back after a failure."""

    placed = {"machine": 1}  # noqa: RUF012
    resources = {"machine": 1}  # noqa: RUF012
    free = 1.0

    def submit(self, job: Any) -> None:
        needs = job.resources.get("machine", 0)
        if needs <= self.free:  # else it waits, for ever
            self.free -= needs
            super().submit(job)

    def after(self, job: Any, outcome: Outcome) -> Outcome:
        if outcome.error is None:
            self.free += job.resources.get("machine", 0)
        return outcome


class HidesItsResources(InProcess):
    """Places nodes by their resources, and doesn't say how much there is."""

    placed = {"machine": 1}  # noqa: RUF012

    def submit(self, job: Any) -> None:
        if job.resources.get("machine", 0) <= 1:  # else it waits, for ever
            super().submit(job)


class LosesSeconds(_Changes):
    """Doesn't tell how long functions ran."""

    def after(self, job: Any, outcome: Outcome) -> Outcome:
        del job
        outcome.seconds = 0.0
        return outcome


class LosesNames(_Changes):
    """Calls all jobs by one name."""

    def before(self, job: Any) -> None:
        job.name = "job"


class HandlesOfOneRun(InProcess):
    """Its handles are numbers, which mean nothing to the next backend."""

    remote = keeps = True

    def __init__(self) -> None:
        super().__init__()
        self.packer, self.kept = Packer(), list[Any]()

    def submit(self, job: Any) -> Any:
        values = [self.kept[each] if type(each) is int else each for each in job.values]
        target = None if job.target is None else self.kept[job.target]
        outcome = compute(self.packer.pack(job), values, target)
        self.kept.append(outcome.target if job.constructs else outcome.value)
        self._done.append(outcome_of(job.key, rest_of(outcome)))
        return len(self.kept) - 1

    def fetch(self, handles: Any) -> Any:
        return [unpack(self.kept[each]) for each in handles]


def _on(kind: Any) -> type[LocalWorkflow]:
    """Return a workflow that runs on a broken backend."""

    class OnBroken(LocalWorkflow):
        interrupts = getattr(kind, "interrupts", True)
        placed = getattr(kind, "placed", None)

        def _run(self, _: Any, options: Any) -> Any:
            if not issubclass(kind, OnExecutor):
                return super()._run(kind(), options)
            with ThreadPoolExecutor(2) as pool:
                return super()._run(kind(pool, "w"), options)

    OnBroken.__name__ = kind.__name__
    return OnBroken


_KINDS = [
    FailsFast,
    TakesCtrlCForAnError,
    RunsTheQueue,
    HidesAFullStorage,
    DropsAgain,
    ComparesClasses,
    AnswersByKey,
    KeepsTheFirstJob,
    RunsAgainItself,
    TriesAgainAfterAll,
    SwallowsTimeouts,
    ChecksTimeoutsHere,
    IgnoresResources,
    NeverFrees,
    HidesItsResources,
    LosesSeconds,
    LosesNames,
    HandlesOfOneRun,
]
RUNS = list(map(_on, _KINDS))
