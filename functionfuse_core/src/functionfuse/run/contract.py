"""The contract of backends: where and how the jobs of a run are done.

A run owns the plan and the results, and its scheduler owns order, failures and events. A backend
runs jobs, and knows no graph. See docs/writing-a-backend.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from .job import Job, Outcome

__all__ = ["Backend", "Started"]


class Started(NamedTuple):
    """The news that a submitted job runs now; `key` is the job's."""

    key: int


@runtime_checkable
class Backend(Protocol):
    """Runs the jobs of one run; `LocalWorkflow.run` takes one in place of an executor.

    1. Each `submit` runs its job once. To try again is the scheduler's decision.
    2. What a job raises is the `error` of its outcome. What `submit` raises is the error of its
       job, except WorkerDiedError, which ends the run. What `wait` raises ends the run.
    3. Ctrl-C passes through `submit` and `wait`. The scheduler calls `cancel`, takes over its
       outcomes, and raises.
    4. If values stay with the backend, a handle may be given to later jobs before its value is
       there. The scheduler drops a handle that it doesn't need any more. After `value`, the run
       goes on with a new backend of the same class, which gets the handles of the earlier one.

    A backend may have two more methods. `begin(storage, workflow_name, jobs)` is called before the
    first node is computed, and raises an error if that can't work on the workers. `storage` is None
    if no result is saved; if one must be saved later, `begin` is called once more, with the
    storage. `jobs` are not to be run: there is one for each function and its settings, without
    arguments, for `compare`. `end()` is called at the end of every run.

    If the backend places jobs by `job.resources` itself, its attribute `resources` says how much
    one job can have of each. In records of runs, it has the name in its attribute `name`, if there
    is one, or else that of its type.

    Attributes:
        remote: whether functions are called in other processes, or may be.
        keeps: whether values stay with the backend. Then `submit` returns handles; else values come
            in outcomes.
        limit: how many jobs may be submitted at once; 0: any number.
    """

    remote: bool
    keeps: bool
    limit: int

    def submit(self, job: Job) -> Any:
        """Begin a job, or queue it. Return at once, unless jobs run in this process.

        If the backend keeps values, return a handle of the value, or of the object that a
        constructor makes; None if the value is not wanted. `job.values` has handles that
        earlier calls returned, and `job.target` the one of the object. The result of a constructor
        is None, so its value is the packed None. A job with a negative key reads a stored result.
        """

    def wait(self, timeout: float | None) -> Sequence[Outcome | Started]:
        """Wait for news, at most `timeout` seconds; return what has come, [] if nothing has.

        Each job has one outcome. Without a timeout, there is always news: a job is submitted.
        """

    def cancel(self) -> Sequence[Outcome]:
        """Begin nothing more. End what runs, or wait for it; return the outcomes of what ran.

        A job without an outcome counts as not run. Nothing is submitted after this.
        """

    def fetch(self, handles: Sequence[Any]) -> list[Any]:
        """Return the values of handles; called only if the backend keeps values.

        What it raises ends the run.
        """
