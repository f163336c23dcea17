"""Jobs, outcomes and values that cross to other processes.

An executor gets a `Portable`: it is pickled only if it crosses. A backend that keeps values gets
the pickle of each job from a `Packer`, see `packing`. On the worker, `compute` runs the job, with
the packed values of its parents. The packed value stays there. `rest_of` makes small bytes of the
rest of the outcome, which `outcome_of` reads in the driver.

Everything is unpickled on use, not on arrival: so a value that can't be unpickled is an error of
the node that needs it.
"""

from __future__ import annotations

import copy
import os
import pickle
import platform
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cloudpickle

from ..errors import FunctionFuseError
from ..reuse.project import top_level
from ..reuse.recorded import packages_in
from ..reuse.workers import look_around
from ..serializers.portable import dumps
from .job import Outcome, text_of
from .packing import Packed, pack, unpack_job, with_texts

__all__ = [
    "JobError",
    "NotBegunError",
    "Portable",
    "compare",
    "compute",
    "end_run",
    "here",
    "outcome_of",
    "rest_of",
]

_ended: set[str] = set()  # `ends` of the runs that have ended, as far as this process knows

_LIBRARIES = {"cloudpickle", *sys.stdlib_module_names}

_APART = ("key", "value", "target")  # fields of an outcome that don't go with the small bytes


class Portable:
    """A job or an outcome that crosses to another process by cloudpickle, or to a thread as it is.

    It is unpickled on first use, not on arrival: an executor breaks if unpickling fails there.

    No two jobs have the same pickle: an executor that looks for equal calls would run only one.

    Args:
        ends: the path of a file. If it is there, the run has ended, and the job isn't run.
    """

    def __init__(
        self, content: Any, pickled: bytes | None = None, _: bytes = b"", ends: str = ""
    ) -> None:
        self._content = content
        self._pickled = pickled
        self._ends = ends

    @property
    def content(self) -> Any:
        """The job or outcome. Raises what unpickling raises."""
        if self._pickled is not None:
            self._content = cloudpickle.loads(self._pickled)
            self._pickled = None
            if isinstance(self._content, Outcome):
                _arrived(self._content)
        return self._content

    def __reduce__(self) -> tuple[object, ...]:
        content = self.content
        error = content.error if isinstance(content, Outcome) else None
        if error is not None:
            content = copy.copy(content)
            vars(content).update(_portable(error))
        return Portable, (None, dumps(content), os.urandom(8), self._ends)

    def __call__(self) -> Portable:
        """Run the job inside, and return its outcome. Raises JobError if the job failed."""
        try:
            if self._ends and (self._ends in _ended or os.path.exists(self._ends)):
                raise NotBegunError("the run ended before the job began")
            job = self.content
            look_around()
            outcome = job.run()
        except BaseException as error:  # noqa: BLE001  # raised again in the process of the run
            outcome = Outcome.of_error(0, error)
        outcome.worker = here()
        if outcome.error is not None:
            if isinstance(outcome.error, KeyboardInterrupt):
                end_run(self._ends)
            raise JobError(text_of(outcome.error), Portable(outcome)) from None
        return Portable(outcome)


def here() -> str:
    """Return host, process and thread as text, for `Outcome.worker`."""
    return f"{platform.node()} {os.getpid()} {threading.current_thread().name}"


def end_run(ends: str) -> None:
    """Let no job of a run begin in this process any more; `ends` as in `Portable`."""
    _ended.add(ends)


class NotBegunError(Exception):
    """A worker got a job of a run that had ended."""


class JobError(Exception):
    """A job failed: for the executor's own records, such as a dashboard of failed calls.

    Attributes:
        outcome: has the error, in a form that crosses to other processes.
    """

    def __init__(self, message: str, outcome: Portable) -> None:
        super().__init__(message, outcome)
        self.message = message
        self.outcome = outcome

    def __str__(self) -> str:
        return self.message


def compute(
    packed: Sequence[Any],
    values: Sequence[Packed] = (),
    target: Any = None,
    apart: tuple[type, ...] = (),
) -> Outcome:
    """Run a packed job on a worker; return its outcome, with the packed value. Never raises.

    The value is b"" if the job failed, or nobody wants it.

    Args:
        packed: what `Packer.pack` returned.
        values: the packed values of the job's parents, in the order of its `values`.
        target: the object whose method is called.
        apart: as the packer's.
    """
    value: Packed = b""
    try:
        job = unpack_job(packed, values)
        job.target = target
        outcome = job.run()
        if outcome.returned and outcome.error is None:
            value = pack(outcome.value, apart)
    except BaseException as error:  # noqa: BLE001  # raised again in the driver
        outcome = Outcome.of_error(0, error)
    outcome.value, outcome.worker = value, here()
    return outcome


def compare(packed: Sequence[Any]) -> None:
    """Unpack a job on a worker, and compare its code with that of the driver; call nothing of it.

    Raises:
        CodeDiffersError: the worker has other code, or another constant.
        Exception: what unpickling the function raises.
    """
    unpack_job(packed, ()).compare()


class SavedHeader(NamedTuple):
    """The fields of a saved result's header that a run needs; see `TaskInfo`.

    Of the fingerprint, it has the versions of packages only.
    """

    digest: str
    size: int
    value: str
    key: str
    own: tuple[str, ...]
    by_value: bool
    fingerprint: Mapping[str, Any]


def rest_of(outcome: Outcome, apart: tuple[type, ...] = ()) -> bytes:
    """Return the small rest of an outcome, without value and object, for `outcome_of`.

    Args:
        apart: as the packer's. In an error, such objects become text.
    """
    fields = {name: content for name, content in vars(outcome).items() if name not in _APART}
    saved = outcome.saved
    if getattr(saved, "digest", ""):
        packages = {"packages": packages_in(saved.fingerprint)}
        described = saved.value, saved.key, tuple(saved.own), saved.by_value
        fields["saved"] = saved.digest, saved.size, *described, packages
    if outcome.error is None:
        return pickle.dumps(fields, 5)
    return dumps(fields | _portable(outcome.error, apart))


def outcome_of(key: int, rest: bytes) -> Outcome:
    """Return the outcome of the job with this key, from its `rest_of`: without value and object."""
    outcome = Outcome(key)
    vars(outcome).update(pickle.loads(rest))
    if type(outcome.saved) is tuple:
        outcome.saved = SavedHeader(*outcome.saved)
    _arrived(outcome)
    return outcome


def _arrived(outcome: Outcome) -> None:
    """Add the worker, or its traceback, to the error of an outcome that has crossed."""
    if outcome.error is not None:
        told = f":\n{outcome.traceback}" if outcome.traceback else f" {outcome.worker}"
        outcome.error.add_note(f"in the worker{told}")


class _ErrorParts:
    """Pickles an exception without its `__init__`, whose parameters aren't known."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> tuple[object, ...]:
        return _error_of, (type(self.error), self.error.args, vars(self.error))


def _error_of(
    kind: type[BaseException], args: tuple[object, ...], state: dict[str, object]
) -> BaseException:
    error = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(state)
    return error


def _is_ours(error: BaseException) -> bool:
    """Return whether this is an error of Function Fuse, and no code of the user took part in it.

    Then its message tells all, and not its traceback: a storage can't be written, for instance.
    """
    each: BaseException | None = error
    while each is not None:
        for frame, _ in traceback.walk_tb(each.__traceback__):
            top = top_level(str(frame.f_globals.get("__name__")))
            if not (top.startswith("functionfuse") or top in _LIBRARIES):
                return False
        each = each.__cause__ or each.__context__
    return isinstance(error, FunctionFuseError)


def _portable(error: BaseException, apart: tuple[type, ...] = ()) -> dict[str, Any]:
    """Return the fields `error` and `traceback` of an outcome that crosses.

    The error is an object that unpickles as the error, or as a RuntimeError if none does.
    """
    text = "" if _is_ours(error) else "".join(traceback.format_exception(error))
    for whole in (True, False):
        try:
            crossed, lost = with_texts(error if whole else _ErrorParts(error), apart)
            if type(crossed) is type(error):
                sent = crossed if lost else error
                if lost:
                    sent.add_note(f"what can't be in an error is its text here: {lost}")
                return {"error": sent if whole else _ErrorParts(sent), "traceback": text}
        except Exception:  # noqa: BLE001, S112  # this form can't be pickled
            continue
    replaced = RuntimeError(text_of(error))
    for note in getattr(error, "__notes__", ()):
        replaced.add_note(note)
    return {"error": replaced, "traceback": text}
