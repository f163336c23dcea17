"""The node plugins. What `remote_initialize` returns pickles when the functions in it do.

Stored results and pickles name what is in here by its documented path, whatever file it is in.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from ...arguments import Reference
from ...baseworkflow import NodePlugin
from ...errors import GraphError, OptionsError
from ...workflow import WorkflowClass, WorkflowFunction

__all__ = ["InitializerPlugin", "Plugin", "PluginCollection", "RandomStatePlugin"]

_PATH = "functionfuse.backends.plugins"


class Plugin:
    """Base of node plugins: a subclass overrides the half that it needs.

    A plugin can prepare several nodes: both methods are called once for each of them.
    """

    __module__ = _PATH

    def local_initialize(self) -> None:
        """Run in the process of the workflow, before a node is handed over to be computed."""

    def remote_initialize(self) -> Callable[[], Any] | None:
        """Return what runs just before the node, where the node runs; None for nothing."""
        return None


class InitializerPlugin(Plugin):
    """Call `func()` before each node, where the node runs.

    Raises:
        GraphError: `func` can't be called, or is decorated with `@workflow`.
    """

    __module__ = _PATH

    def __init__(self, func: Callable[[], Any]) -> None:
        self.func = _checked(func, "func")

    def remote_initialize(self) -> Callable[[], Any]:
        """Return `func` itself."""
        return self.func


class RandomStatePlugin(Plugin):
    """Call `seed_func` with another seed before each node, where the node runs.

    Seeds are counted up in the order in which nodes are handed over: the first is `seed + 1`, and
    `min` follows on `max`. With one seed, nodes get the same seeds when the same nodes are
    computed in the same order; a node that is reused uses up none.

    Attributes:
        seed: the seed that was given out last.

    Raises:
        GraphError: `min`, `max` or `seed` is not a whole number; `seed_func` can't be called, or
            is decorated with `@workflow`.
        OptionsError: `min` is above `max`, or `seed` is outside of the two.
    """

    __module__ = _PATH

    # The names are the documented ones.
    def __init__(
        self,
        min: int,  # noqa: A002
        max: int,  # noqa: A002
        seed: int,
        seed_func: Callable[[int], Any],
    ) -> None:
        self.min = _whole(min, "min")
        self.max = _whole(max, "max")
        self.seed = _whole(seed, "seed")
        self.seed_func = _checked(seed_func, "seed_func")
        if seed_func == random.seed:
            # A method of a hidden object: pickled, it would seed a copy of that object.
            self.seed_func = _seed_random
        if self.min > self.max:
            raise OptionsError(f"min={min!r} is above max={max!r}: no seed is left between them")
        if not self.min <= self.seed <= self.max:
            raise OptionsError(f"seed={seed!r} is not between min={min!r} and max={max!r}")

    def local_initialize(self) -> None:
        """Go on to the next seed."""
        self.seed = self.min if self.seed >= self.max else self.seed + 1

    def remote_initialize(self) -> Callable[[], Any]:
        """Return a call of `seed_func` with the seed of this moment."""
        return partial(self.seed_func, self.seed)


class PluginCollection(Plugin):
    """Let several plugins prepare the same nodes, in the order given.

    Raises:
        GraphError: `plugins` is no list of plugins; the message names what is none.
    """

    __module__ = _PATH

    def __init__(self, plugins: Iterable[NodePlugin]) -> None:
        if not isinstance(plugins, Iterable):
            raise GraphError(f"a PluginCollection is made from a list of plugins, not {plugins!r}")
        self.plugins = tuple(plugins)
        for place, plugin in enumerate(self.plugins):
            if isinstance(plugin, type) or not all(
                callable(getattr(plugin, method, None))
                for method in ("local_initialize", "remote_initialize")
            ):
                raise GraphError(
                    f"item {place} of a PluginCollection is {plugin!r}, which is no plugin: a"
                    " plugin is an object with local_initialize() and remote_initialize()"
                )

    def local_initialize(self) -> None:
        """Call `local_initialize` of each plugin."""
        for plugin in self.plugins:
            plugin.local_initialize()

    def remote_initialize(self) -> Callable[[], Any] | None:
        """Return one call of all that the plugins return; None when they all return None.

        Raises:
            GraphError: a plugin returned something that can't be called.
        """
        calls = []
        for plugin in self.plugins:
            call = plugin.remote_initialize()
            if call is not None:
                calls.append(_checked(call, f"what remote_initialize() of {plugin!r} returned"))
        return partial(_call_each, tuple(calls)) if calls else None


def _call_each(calls: tuple[Callable[[], Any], ...]) -> None:
    for call in calls:
        call()


def _seed_random(seed: int) -> None:
    random.seed(seed)


_seed_random.__module__ = _PATH


def _checked(function: Callable[..., Any], what: str) -> Callable[..., Any]:
    if not callable(function) or isinstance(function, Reference):
        raise GraphError(f"{what} is {function!r}, which can't be called")
    if isinstance(function, (WorkflowFunction, WorkflowClass)):
        raise GraphError(
            f"{what} is {function!r}: calling it would make a node and run nothing."
            " Hand over a function that is not decorated with @workflow"
        )
    return function


def _whole(value: int, what: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise GraphError(f"{what} is a whole number, not {value!r}") from None
