"""Random graphs whose nodes fail, and what a run of them must do, told without running it.

`Plan` is a node: what its function does. `course_of` is the model.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import NodeTimeoutError, UnpicklableResultError

TIMEOUT = 0.1  # seconds; no other node sleeps

# What raises an error, until it has done so some times, and the error that reaches the run.
ERRORS: dict[str, type[BaseException]] = {
    "fails": ValueError,
    "flaky": ConnectionError,
    "slow": NodeTimeoutError,
    "unsaved": UnpicklableResultError,
    "interrupted": KeyboardInterrupt,
}


def calls(folder: str, name: str) -> int:
    """Return how often a node's function was called."""
    path = Path(folder, name)
    return path.stat().st_size if path.exists() else 0


def note(folder: str, name: str) -> int:
    """Note a call; return how many there were. An alarm may come at any moment."""
    file = os.open(Path(folder, name), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, b".")
        return os.fstat(file).st_size
    finally:
        os.close(file)


@workflow(ignore=("folder", "times"))
def act(folder: str, name: str, kind: str, times: float, parents: Any) -> Any:
    """Note the call. Add up the parents, after some calls of which each does what `kind` says."""
    called = note(folder, name)
    if called <= times and not Path(folder, "mended").exists():
        if kind == "slow":
            time.sleep(60)
        if kind == "unsaved":
            return threading.Lock()
        if kind == "interrupted":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        raise ERRORS[kind](name)
    return 1 + sum(parents["numbers"])


@dataclass
class Plan:
    """One node: it fails `times` times in the way of its kind, and may be tried again."""

    name: str
    kind: str
    times: float
    retries: int
    on: tuple[type[Exception], ...]
    logged: bool
    parents: list[Plan]
    node: Any = field(default=None, repr=False)


@dataclass(frozen=True)
class Course:
    """What a run does with a node: as the report says it."""

    action: str
    attempts: int = 0
    error: type[BaseException] | None = None


NOT_RUN = Course("not run")


def course_of(plan: Plan, above: list[Course]) -> Course:
    """Return what must become of a node if the run gets to it."""
    if any(course.action != "computed" for course in above):
        return NOT_RUN
    if not plan.times:
        return Course("computed", 1)
    error = ERRORS[plan.kind]
    tried_again = issubclass(error, plan.on) and plan.kind != "unsaved"  # saves are not
    left = plan.retries if tried_again else 0
    if plan.times > left:
        return Course("failed", left + 1, error)
    return Course("computed", int(plan.times) + 1)


def courses_of(plans: list[Plan], ends: type[BaseException] | tuple[()]) -> dict[str, Course]:
    """Return what must become of each node.

    Args:
        ends: an error of this class ends the run; nodes are then computed in the order of `plans`.
    """
    found: dict[str, Course] = {}
    ended = False
    for plan in plans:
        course = course_of(plan, [found[parent.name] for parent in plan.parents])
        found[plan.name] = NOT_RUN if ended else course
        ended |= course.error is not None and issubclass(course.error, ends)
    return found


def value_of(plan: Plan) -> int:
    return 1 + sum(map(value_of, plan.parents))


def random_plans(rng: Random, folder: str, kinds: list[str], *, stored: bool) -> list[Plan]:
    """Return the nodes of a random graph, parents first."""
    plans: list[Plan] = []
    failing = rng.choice([0.1, 0.3, 0.6])
    for number in range(rng.randint(1, 16)):
        name, kind, times = f"n{number:02}", rng.choice(kinds), 0.0
        if rng.random() < failing and (kind != "slow" or rng.random() < 0.3):
            times = rng.choice([1, 2, float("inf")]) if kind != "unsaved" else 1
        retries = rng.choice([0, 1, 1, 2, 3]) if times < 5 or kind != "slow" else 1
        on = rng.choice([(Exception,), (Exception,), (OSError,), (ConnectionError, TypeError)])
        parents = rng.sample(plans, min(len(plans), rng.choice([0, 1, 1, 2, 3])))
        parents.sort(key=lambda plan: plan.name)
        logged = stored and kind != "unsaved" and rng.random() < 0.2
        plan = Plan(name, kind, times, retries, on, logged, parents)
        numbers = {"numbers": [parent.node for parent in parents]}
        plan.node = act(folder, name, kind, times, numbers).set_name(name)
        plans.append(plan)
    return plans


def flow_of(plans: list[Plan], delay: float) -> LocalWorkflow:
    """Return a workflow with the settings of the plans."""
    flow = LocalWorkflow(*[plan.node for plan in plans], workflow_name="w")
    for plan in plans:
        if plan.retries:
            flow.query(plan.name).set_retries(plan.retries, on=plan.on, delay=delay)
        if plan.kind == "slow":
            # Without `times`, the function has time enough.
            flow.query(plan.name).set_timeout(TIMEOUT if plan.times else 60)
        if plan.logged:
            flow.log_nodes(plan.name)
    return flow
