"""Event hooks: they notify installed plugins of events in runs and storages.

Without such a plugin, the only cost is one scan of the installed distributions per process.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

from ..errors import PluginError
from . import entrypoints
from .entrypoints import HOOKS, Entry, blocked_by, entries, visible

__all__ = ["EventHooks", "event_hooks"]

logger = logging.getLogger(__name__)


class EventHooks:
    """The hook implementations of the installed plugins that can be used.

    The log names a plugin that can't be loaded or that raises; nothing else happens.
    """

    def __init__(self, found: Sequence[Entry]) -> None:
        from .registry import register

        self._managers: list[tuple[Entry, Any]] = []
        self._callers: dict[str, list[tuple[Entry, Any]]] = {}
        self._failed: set[tuple[str, Entry]] = set()
        self._here = threading.local()
        for entry in found:
            try:
                self._managers.append((entry, register(entry)))
            except PluginError as error:
                logger.error("it is not told what happens: %s", error)  # noqa: TRY400

    def call(self, hook: str, **arguments: Any) -> None:
        """Call a hook of every plugin that implements it."""
        if getattr(self._here, "calling", False):
            return  # a hook that uses a storage would call itself again and again
        for entry, caller in self._of(hook):
            self._here.calling = True
            try:
                caller(**arguments)
            except Exception as error:  # a hook must not end a run
                again = (hook, entry) in self._failed
                self._failed.add((hook, entry))
                logger.log(
                    logging.DEBUG if again else logging.ERROR,
                    "the %s failed in its hook %r, and the run goes on: %s: %s"
                    " (from now on, its failures are logged as DEBUG)",
                    entry,
                    hook,
                    type(error).__name__,
                    error,
                    exc_info=True,
                )
            finally:
                self._here.calling = False

    def _of(self, hook: str) -> list[tuple[Entry, Any]]:
        """Return the callers of a hook, one for each plugin, so that each fails alone."""
        if hook not in self._callers:
            from .registry import hook_caller

            self._callers[hook] = []
            for entry, manager in self._managers:
                caller = hook_caller(manager, entry, hook)
                if caller.get_hookimpls():
                    self._callers[hook].append((entry, caller))
        return self._callers[hook]


_hooks: EventHooks | None = None
_generation = -1
_looking = threading.RLock()


def event_hooks() -> EventHooks | None:
    """Return the event hooks of the installed plugins; None if there are none."""
    if _generation != entrypoints.generation:
        _look()
    return _hooks


def _look() -> None:
    global _hooks, _generation  # noqa: PLW0603  # read at every event
    with _looking:
        if _generation == entrypoints.generation:
            return
        found = visible(entry for entry in entries(HOOKS) if not blocked_by(entry))
        # Set before the plugins are imported: events during the import call no hooks.
        _hooks, _generation = None, entrypoints.generation
        _hooks = EventHooks(found) if found else None
