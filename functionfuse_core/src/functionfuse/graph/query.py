"""Settings of the nodes that match a pattern, in one workflow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import OptionsError
from .nodes import Call, Node
from .settings import check_amounts, check_policy, check_retries, check_seconds

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["NodePlugin", "Query"]


class NodePlugin(Protocol):
    """A node plugin, for `set_plugin`: see `functionfuse.backends.plugins`.

    A plugin may have two more members. If the attribute `changes_results` is false, no result
    depends on the plugin. The method `for_node(name)` returns the plugin for the node of that name.
    """

    def local_initialize(self) -> object:
        """Run in the process of the workflow, before a node is sent to be computed."""

    def remote_initialize(self) -> Callable[[], object] | None:
        """Return a function that runs just before the node, in the node's process; or None."""


class _Workflow(Protocol):
    _plugins: dict[Node, tuple[NodePlugin, ...]]
    _policies: dict[Node, str]
    _settings: dict[str, dict[Node, Any]]
    _standing: list[tuple[dict[Node, Any], Any]]

    def _matched(self, pattern: str | None) -> list[Node]: ...


class Query:
    """The nodes that match a pattern; settings apply in this workflow only.

    With the pattern None, settings also apply to nodes that are added to the workflow later, unless
    a query has set them for these.
    """

    def __init__(self, workflow: _Workflow, pattern: str | None) -> None:
        self.workflow = workflow
        self.nodes = workflow._matched(pattern)
        self._every = pattern is None

    def set_plugin(self, plugin: NodePlugin) -> Query:
        """Let `plugin` prepare each of the nodes; it replaces earlier plugins. Return self."""
        return self.set_plugins(plugin)

    def set_plugins(self, *plugins: NodePlugin) -> Query:
        """Let `plugins` prepare each of the nodes, in this order; return self."""
        return self._set(self.workflow._plugins, plugins)

    def set_reuse(self, policy: str) -> Query:
        """Set a policy of reuse for the nodes, instead of the workflow's; return self.

        See `BaseWorkflow.set_reuse`.
        """
        return self._set(self.workflow._policies, check_policy(policy))

    def set_retries(
        self,
        count: int,
        *,
        on: type[Exception] | Iterable[type[Exception]] = (Exception,),
        delay: float | timedelta = 1.0,
    ) -> Query:
        """Try the nodes again after an error of their functions; return self.

        While a node waits for its next attempt, the run goes on with others. Each attempt has
        fresh arguments. If a result can't be saved, the node is not tried again.

        Args:
            count: the most attempts after the first; 0: none.
            on: classes of errors; after others, the node is not tried again. A timeout is a
                TimeoutError.
            delay: seconds, or a timedelta, from the first error to the second attempt. It doubles
                from attempt to attempt, up to 60 s, and varies at random by half of it.

        Raises:
            OptionsError: an argument is wrong, or a node is a call on an object of a decorated
                class, which a failed call may have changed.
        """
        retries = check_retries(count, on, delay)
        for node in self.nodes if retries else ():
            if not isinstance(node, Call):
                raise OptionsError(
                    f"node {node.name!r} can't be tried again: a call that fails may have changed"
                    " its object"
                )
        return self._set(self.workflow._settings["retries"], retries)

    def set_timeout(self, time: float | timedelta | None) -> Query:
        """Let each attempt of a node fail after this time; return self.

        After it, a NodeTimeoutError is raised in the function, and from the run. The function can't
        catch it by `except Exception`. Saving the result doesn't count. The function ends later if
        it is in C code that doesn't return. Threads can't be interrupted: `run` raises an error
        there before anything is computed.

        Args:
            time: seconds, or a timedelta; None: any time.

        Raises:
            OptionsError: it is no time above 0.
        """
        return self._set(
            self.workflow._settings["timeout"],
            None if time is None else check_seconds(time, "a timeout"),
        )

    def set_expires(self, age: float | timedelta | None) -> Query:
        """Compute the nodes again when their stored results are older than this; return self.

        The age of a result counts from the moment when it was stored, by the clocks of the
        computers that stored it and that plan the run. The limit of a call on an object also holds
        for later calls on it. With a storage without headers, each run computes the nodes, and
        those that follow.

        Args:
            age: seconds, or a timedelta; None: results don't expire.

        Raises:
            OptionsError: it is no time above 0.
        """
        return self._set(
            self.workflow._settings["expires"],
            None if age is None else check_seconds(age, "an age"),
        )

    def set_resources(self, **amounts: float) -> Query:
        """Tell the resources that each of the nodes needs while it runs; return self.

        They replace earlier ones; without `amounts`, the nodes need none. The names are yours, such
        as `gpu=1` or `api=1`: `run(resources=...)` says how much there is.

        Raises:
            OptionsError: an amount is no number above 0.
        """
        return self._set(
            self.workflow._settings["resources"],
            check_amounts(amounts, "set_resources", least=1e-6) or None,
        )

    def _set(self, target: dict[Node, Any], value: object) -> Query:
        target.update(dict.fromkeys(self.nodes, value))
        if self._every:
            self.workflow._standing.append((target, value))
        return self
