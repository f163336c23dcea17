"""The common base of decorated functions and classes."""

from __future__ import annotations

import itertools
import sys

from ..names import label_of
from .parameters import Parameters, parameters_of, parameters_of_method
from .settings import NO_SETTINGS, Settings

TYPE_CHECKING = False  # see names.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Decorated"]


class Decorated:
    """A decorated function or class; pickled as its import path if it has one, else with `func`.

    Attributes:
        func: the undecorated function or class.
        settings: see `Settings`.
        key: equal for two decorations of the same function or class.
    """

    __module__ = "functionfuse.workflow"
    __workflow__ = True  # the mark by which the pickler knows this type; it can't import graph

    def __init__(self, func: Callable[..., Any], settings: Settings = NO_SETTINGS) -> None:
        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            if hasattr(func, name):
                setattr(self, name, getattr(func, name))
        self.__wrapped__ = func
        self.func = func
        self.settings = settings
        # A callable object may have no hash. Its id is unique, because `self` holds the object.
        self.key: object = func if getattr(type(func), "__hash__", None) else id(func)
        self._count = itertools.count()
        self._known: dict[str, Parameters] = {}

    def compute(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the function or class without making a node."""
        return self.func(*args, **kwargs)

    def caller(self, _constructor: Any, method: str) -> Callable[..., Any]:
        """Return a function that makes nodes of a method; `WorkflowClass` overrides it."""
        raise AttributeError(f"{label_of(self.func)!r} has no method {method!r}")

    def _parameters(self, method: str = "") -> Parameters:
        """Return the parameters of `func`, or of a method of it."""
        known = self._known.get(method)
        if known is None:
            known = parameters_of_method(self.func, method) if method else parameters_of(self.func)
            self._known[method] = known
        return known

    def _accept(
        self, args: tuple[object, ...], kwargs: dict[str, object], method: str = ""
    ) -> None:
        """Raise a TypeError if the function can't be called with these arguments.

        Callers clear the error's traceback and raise it again by a bare `raise`, which adds no line
        to it. So the last line of the traceback is the user's call.
        """
        known = self._known.get(method) or self._parameters(method)
        try:
            known.check(*args, **kwargs)
        except TypeError:
            self._known.pop(method, None)  # the function may have been edited since
        else:
            return
        self._parameters(method).check(*args, **kwargs)

    def __reduce__(self) -> str | tuple[object, ...]:
        module = sys.modules.get(getattr(self, "__module__", None) or "")
        name = label_of(self.func)
        found: Any = module
        for part in name.split("."):
            found = getattr(found, part, None)
        # A worker process has another __main__, so objects defined there are pickled by value.
        if found is self and module is not None and module.__name__ != "__main__":
            return name
        return type(self), (self.func, self.settings)

    def __repr__(self) -> str:
        return f"<workflow {self.func!r}>"
