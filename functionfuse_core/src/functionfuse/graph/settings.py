"""The settings of nodes: those of the decorator, which a workflow's `query` can replace.

Version, ignored names and packages decide when a stored result may be reused. Retries, timeout and
expiry decide how a run goes; they never count in fingerprints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..errors import OptionsError

TYPE_CHECKING = False  # see names.py
if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Any

__all__ = [
    "ALWAYS",
    "NEVER",
    "NO_SETTINGS",
    "UNCHANGED",
    "Retries",
    "Settings",
    "check_amounts",
    "check_policy",
    "check_retries",
    "check_seconds",
    "shown",
]

UNCHANGED = "unchanged"
ALWAYS = "always"
NEVER = "never"

LONGEST_DELAY = 60.0  # seconds between two attempts, before the random part


class Retries:
    """How a node is tried again after an error.

    Attributes:
        count: the most attempts after the first.
        on: only errors of these classes are followed by another attempt.
        delay: seconds between the first two attempts; see `after`.
    """

    __module__ = "functionfuse.workflow"  # the name in pickles
    __slots__ = ("count", "delay", "on")

    def __init__(self, count: int, on: tuple[type[Exception], ...], delay: float) -> None:
        self.count = count
        self.on = on
        self.delay = delay

    def after(self, failed: int) -> float:
        """Return the seconds to wait after some failed attempts: they double, up to 60 s.

        They are multiplied by a random factor from 0.5 to 1.5, so that nodes that failed together
        are not tried again together.
        """
        import random

        doubled = self.delay * 2 ** min(failed - 1, 30)
        factor = random.SystemRandom().uniform(0.5, 1.5)  # the user's own generator stays as it is
        seconds: float = max(self.delay, min(doubled, LONGEST_DELAY)) * factor
        return seconds


class Settings:
    """The arguments of `@workflow(...)`.

    Attributes:
        version: replaces the code: a result is reused while the version is the same.
        ignore: names of arguments that don't affect the result.
        packages: names of distributions whose versions count.
        retries: how the node is tried again; None: not at all.
        timeout: seconds that an attempt may take; None: any time.
        expires: seconds after which a stored result isn't reused; None: never.
    """

    __module__ = "functionfuse.workflow"

    # Pickles of the first release have the first three only.
    retries: Retries | None = None
    timeout: float | None = None
    expires: float | None = None

    def __init__(
        self,
        version: str | None = None,
        ignore: tuple[str, ...] = (),
        packages: tuple[str, ...] = (),
        *,
        retries: Retries | None = None,
        timeout: float | None = None,
        expires: float | None = None,
    ) -> None:
        self.version = version
        self.ignore = ignore
        self.packages = packages
        given = {"retries": retries, "timeout": timeout, "expires": expires}
        vars(self).update({name: value for name, value in given.items() if value is not None})


NO_SETTINGS = Settings()


def check_policy(policy: str) -> str:
    """Return `policy`, if it is a policy of reuse; else raise an OptionsError."""
    known = (UNCHANGED, ALWAYS, NEVER)
    if policy not in known:
        raise OptionsError(f"a policy of reuse is one of {', '.join(known)}, not {policy!r}")
    return policy


def check_retries(
    count: int, on: type[Exception] | Iterable[type[Exception]], delay: float | timedelta
) -> Retries | None:
    """Return how a node is tried again; None if it isn't.

    Raises:
        OptionsError: `count` is no whole number from 0, `on` has something else than classes of
            exceptions, or `delay` is no time from 0.
    """
    if type(count) is not int or count < 0:
        raise OptionsError(f"the number of retries is a whole number from 0, not {count!r}")
    kinds: tuple[Any, ...] = (on,)
    if isinstance(on, Iterable) and not isinstance(on, (type, str)):
        kinds = tuple(on)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise OptionsError(f"a node is tried again on classes of Exception, not on {kind!r}")
    seconds = check_seconds(delay, "the delay of retries", least=0.0)
    return Retries(count, kinds, seconds) if count else None


def check_seconds(time: float | timedelta, name: str, *, least: float = 1e-6) -> float:
    """Return a time in seconds. Raises OptionsError if it is no time, or below `least`."""
    seconds: Any = time.total_seconds() if hasattr(time, "total_seconds") else time
    if type(seconds) not in (int, float) or not least <= seconds < float("inf"):
        more = "0 or more" if least == 0 else "more than 0"
        raise OptionsError(f"{name} is {more} seconds, or a timedelta, not {time!r}")
    return float(seconds)


def check_amounts(amounts: Mapping[str, float], name: str, *, least: float = 0) -> dict[str, float]:
    """Return amounts of resources by name. Raises OptionsError if one is no number from `least`."""
    if not isinstance(amounts, Mapping):
        raise OptionsError(f'{name}: a mapping such as {{"gpu": 1}}, not {amounts!r}')
    for resource, amount in amounts.items():
        if type(amount) not in (int, float) or not least <= amount < float("inf"):
            more = "from 0" if least == 0 else "above 0"
            raise OptionsError(f"{name}: {resource!r} is a number {more}, not {amount!r}")
    return dict(amounts)


def shown(seconds: float) -> str:
    """Return a time for people: "1 day", "90 minutes", "0.5 seconds"."""
    units = {86400: "day", 3600: "hour", 60: "minute", 1: "second"}
    size = next((size for size in units if seconds % size == 0), 1)
    count = f"{seconds / size:g}"
    return f"{count} {units[size]}" if count == "1" else f"{count} {units[size]}s"
