"""Initializers and seeds of nodes. A call from `remote_initialize` pickles if its functions do.

Stored results and pickles name these classes by the documented path, not by this file.
"""

from __future__ import annotations

import copy
import operator
import random
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from xxhash import xxh3_64_intdigest

from ..errors import GraphError, OptionsError
from ..graph.arguments import Reference
from ..graph.decorator import WorkflowClass, WorkflowFunction
from ..graph.query import NodePlugin

__all__ = [
    "InitializerPlugin",
    "Plugin",
    "PluginCollection",
    "RandomStatePlugin",
    "counting",
    "made_for",
]

_PATH = "functionfuse.backends.plugins"


class Plugin:
    """Base of initializers; a subclass overrides the half that it needs.

    One plugin can prepare several nodes. All methods are called once for each node, `for_node` also
    in each plan. If a plugin changes its own state meanwhile, its nodes run every time.

    Attributes:
        changes_results: whether results depend on the plugin. If so, its class and state count
            like an argument.
    """

    __module__ = _PATH
    changes_results = True

    def for_node(self, name: str) -> NodePlugin:
        """Return the plugin that prepares the node of this name: itself, or one made for it."""
        del name
        return self

    def local_initialize(self) -> None:
        """Run in the process of the workflow, before a node is sent to be computed."""

    def remote_initialize(self) -> Callable[[], object] | None:
        """Return a call to make just before the node, in the node's process; None for no call."""
        return None


class InitializerPlugin(Plugin):
    """Call `func()` before each node, in the process where the node runs.

    Args:
        changes_results: False if no result depends on the function: timers, logs. Otherwise the
            nodes are computed again when the function is edited.

    Raises:
        GraphError: `func` can't be called, or is decorated with `@workflow`.
    """

    __module__ = _PATH

    def __init__(self, func: Callable[[], object], *, changes_results: bool = True) -> None:
        self.func = _checked(func, "func")
        self.changes_results = changes_results

    def remote_initialize(self) -> Callable[[], object]:
        """Return `func` itself."""
        return self.func


class RandomStatePlugin(Plugin):
    """Call `seed_func` with another seed before each node, in the process where the node runs.

    A node's seed depends on `seed` and the node's name only: not on which other nodes are computed,
    where, or in which order. Two nodes can get the same seed: among `n` nodes, about
    `n * n / 2 / (max - min + 1)` pairs do.

    Attributes:
        seed: the given seed; in a plugin from `for_node`, the seed of the node.

    Raises:
        GraphError: `min`, `max` or `seed` is not a whole number; `seed_func` can't be called, or
            is decorated with `@workflow`.
        OptionsError: `min` is above `max`, or `seed` is not between them.
    """

    __module__ = _PATH
    _counts = True

    # The documented names, so they can shadow builtins.
    def __init__(
        self,
        min: int,  # noqa: A002
        max: int,  # noqa: A002
        seed: int,
        seed_func: Callable[[int], object],
    ) -> None:
        self.min = _whole(min, "min")
        self.max = _whole(max, "max")
        self.seed = _whole(seed, "seed")
        self.seed_func = _checked(seed_func, "seed_func")
        if seed_func == random.seed:
            # `random.seed` is a method of a hidden object; pickled, it would seed a copy of it.
            self.seed_func = _seed_random
        if self.min > self.max:
            raise OptionsError(f"min={min!r} is above max={max!r}: no seed is left between them")
        if not self.min <= self.seed <= self.max:
            raise OptionsError(f"seed={seed!r} is not between min={min!r} and max={max!r}")

    def for_node(self, name: str) -> RandomStatePlugin:
        """Return a plugin with the node's seed: a hash of seed and name, from `min` to `max`."""
        made = copy.copy(self)
        digest = xxh3_64_intdigest(f"{self.seed}/{name}".encode("utf-8", "surrogatepass"))
        made.seed = self.min + digest % (self.max - self.min + 1)
        made._counts = False
        return made

    def local_initialize(self) -> None:
        """Change to the next seed, unless this is the plugin of one node."""
        # A plugin that wraps this one may not call `for_node`; one seed for all nodes is worse.
        if self._counts:
            self.seed = self.min if self.seed >= self.max else self.seed + 1

    def remote_initialize(self) -> Callable[[], object]:
        """Return a call of `seed_func` with the seed."""
        return partial(self.seed_func, self.seed)


class PluginCollection(Plugin):
    """Let several plugins prepare the same nodes, in the order given.

    Raises:
        GraphError: `plugins` is no list of plugins; the message names the wrong item.
    """

    __module__ = _PATH

    def __init__(self, plugins: Iterable[NodePlugin]) -> None:
        if not isinstance(plugins, Iterable):
            raise GraphError(f"a PluginCollection is made from a list of plugins, not {plugins!r}")
        self.plugins = tuple(plugins)
        for index, plugin in enumerate(self.plugins):
            _checked_plugin(plugin, f"item {index} of a PluginCollection")

    def for_node(self, name: str) -> PluginCollection:
        """Return a collection of the plugins that these return for the node."""
        made = copy.copy(self)
        made.plugins = tuple(made_for(plugin, name) for plugin in self.plugins)
        return made

    def local_initialize(self) -> None:
        """Call `local_initialize` of each plugin."""
        for plugin in self.plugins:
            plugin.local_initialize()

    def remote_initialize(self) -> Callable[[], object] | None:
        """Return one call that makes all calls of the plugins; None if there are none.

        Raises:
            GraphError: a plugin returned something that can't be called.
        """
        calls = []
        for plugin in self.plugins:
            call = plugin.remote_initialize()
            if call is not None:
                calls.append(_checked(call, f"what remote_initialize() of {plugin!r} returned"))
        return partial(_call_each, tuple(calls)) if calls else None


def made_for(plugin: NodePlugin, name: str) -> NodePlugin:
    """Return the plugin that prepares the node of this name.

    Raises:
        GraphError: `for_node` of `plugin` returned no plugin.
    """
    for_node = getattr(plugin, "for_node", None)
    if for_node is None:
        return plugin
    return _checked_plugin(for_node(name), f"what for_node({name!r}) of {plugin!r} returned")


def counting(plugins: Iterable[NodePlugin]) -> Iterator[NodePlugin]:
    """Iterate the plugins that results depend on; a collection is replaced by its plugins."""
    for plugin in plugins:
        if not getattr(plugin, "changes_results", True):
            continue
        if type(plugin) is PluginCollection:
            yield from counting(plugin.plugins)
        else:
            yield plugin


def _call_each(calls: tuple[Callable[[], object], ...]) -> None:
    for call in calls:
        call()


def _seed_random(seed: int) -> None:
    random.seed(seed)


_seed_random.__module__ = _PATH


def _checked_plugin(plugin: NodePlugin, label: str) -> NodePlugin:
    if isinstance(plugin, type) or not all(
        callable(getattr(plugin, method, None))
        for method in ("local_initialize", "remote_initialize")
    ):
        raise GraphError(
            f"{label} is {plugin!r}, which is no plugin: a plugin is an object with"
            " local_initialize() and remote_initialize()"
        )
    return plugin


def _checked(function: Callable[..., object], label: str) -> Callable[..., object]:
    if not callable(function) or isinstance(function, Reference):
        raise GraphError(f"{label} is {function!r}, which can't be called")
    if isinstance(function, (WorkflowFunction, WorkflowClass)):
        raise GraphError(
            f"{label} is {function!r}: calling it would make a node and run nothing."
            " Hand over a function that is not decorated with @workflow"
        )
    return function


def _whole(value: int, label: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise GraphError(f"{label} is a whole number, not {value!r}") from None
