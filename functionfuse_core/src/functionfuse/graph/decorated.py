"""The base of what `@workflow` makes of a function or a class: which one, and its settings."""

from __future__ import annotations

import itertools
import sys

from ..names import label_of
from .parameters import Parameters, parameters_of, parameters_of_method

TYPE_CHECKING = False  # see names.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["NO_SETTINGS", "Decorated", "Settings"]


class Settings:
    """What `@workflow(...)` says of when a stored result of the function may be reused.

    Attributes:
        version: stands for the code: a result is reused while the version is the same.
        ignore: names of arguments that don't change the result.
        packages: names of distributions whose versions count.
    """

    __module__ = "functionfuse.workflow"  # pickles name it so
    __slots__ = ("ignore", "packages", "version")

    def __init__(
        self,
        version: str | None = None,
        ignore: tuple[str, ...] = (),
        packages: tuple[str, ...] = (),
    ) -> None:
        self.version = version
        self.ignore = ignore
        self.packages = packages


NO_SETTINGS = Settings()


class Decorated:
    """What `@workflow` makes; pickled by its import path where it has one, else with `func`.

    Attributes:
        func: the function or class itself.
        settings: see `Settings`.
        key: equal for what is decorated of one function or class.
    """

    __module__ = "functionfuse.workflow"
    __workflow__ = True  # the pickler's mark, which knows nothing of graphs

    def __init__(self, func: Callable[..., Any], settings: Settings = NO_SETTINGS) -> None:
        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            if hasattr(func, name):
                setattr(self, name, getattr(func, name))
        self.__wrapped__ = func
        self.func = func
        self.settings = settings
        # A callable object may have no hash; it lives as long as this does.
        self.key: object = func if getattr(type(func), "__hash__", None) else id(func)
        self._count = itertools.count()
        self._known: dict[str, Parameters] = {}

    def compute(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call what is decorated, without making a node."""
        return self.func(*args, **kwargs)

    def caller(self, _constructor: Any, method: str) -> Callable[..., Any]:
        """Return what makes nodes of a method; a function has none: see `WorkflowClass`."""
        raise AttributeError(f"{label_of(self.func)!r} has no method {method!r}")

    def _parameters(self, method: str = "") -> Parameters:
        """Return what is taken by `func`, or by a method of it."""
        known = self._known.get(method)
        if known is None:
            known = parameters_of_method(self.func, method) if method else parameters_of(self.func)
            self._known[method] = known
        return known

    def _accept(
        self, args: tuple[object, ...], kwargs: dict[str, object], method: str = ""
    ) -> None:
        """Raise the TypeError of a call with these arguments, if there would be one.

        Whoever calls this clears the error's traceback and raises it by a bare `raise`, which adds
        no line to it: the last one is the user's call then.
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
        # A worker process has another __main__, so what is defined there goes by value.
        if found is self and module is not None and module.__name__ != "__main__":
            return name
        return type(self), (self.func, self.settings)

    def __repr__(self) -> str:
        return f"<workflow {self.func!r}>"
