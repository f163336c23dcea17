"""The decorator `workflow`: a call of a decorated function makes a node and runs nothing."""

from __future__ import annotations

import itertools

from ..errors import GraphError, OptionsError
from ..names import label_of
from .arguments import Reference
from .decorated import Decorated
from .nodes import Call, ConstructorCall, MethodCall, Node, Pick, StatefulObject
from .settings import NO_SETTINGS, Settings, check_retries, check_seconds

TYPE_CHECKING = False  # see names.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import timedelta
    from typing import Any, Generic, ParamSpec, overload

    P = ParamSpec("P")
else:
    P = None

    class Generic:
        """Replace `typing.Generic` at run time, because importing `typing` is slow."""

        def __class_getitem__(cls, _):
            return cls


__all__ = ["Node", "Pick", "Settings", "WorkflowClass", "WorkflowFunction", "workflow"]


class WorkflowFunction(Decorated, Generic[P]):
    """A decorated function: calling it makes a `Call`."""

    __module__ = "functionfuse.workflow"

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Call:
        try:
            self._accept(args, kwargs)
        except TypeError as error:
            error.__traceback__ = None
            raise
        return Call(self, args, kwargs, next(self._count))

    if TYPE_CHECKING:  # the attributes of a decorated class: see `workflow`

        def __getattr__(self, name: str) -> Any: ...


class WorkflowClass(Decorated):
    """A decorated class: calling it makes a `StatefulObject`."""

    __module__ = "functionfuse.workflow"

    def __init__(self, func: type, settings: Settings = NO_SETTINGS) -> None:
        super().__init__(func, settings)
        self.kind = func
        self._method_counts: dict[str, Iterator[int]] = {}

    # The methods of the class see it under its own name, so it must also work as a class.

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self.kind)

    def __subclasscheck__(self, subclass: type) -> bool:
        return issubclass(subclass, self.kind)

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[Callable[..., Any]]:
        return (self.func,)

    def __getattr__(self, name: str) -> Any:
        # Copy and pickle ask for these first; notebooks ask for drawings, those of an object.
        if name.startswith(("__", "_repr_", "_ipython_")) or name in ("func", "kind"):
            raise AttributeError(name)
        return getattr(self.func, name)

    def __call__(self, /, *args: object, **kwargs: object) -> StatefulObject:
        try:
            self._accept(args, kwargs)
        except TypeError as error:
            error.__traceback__ = None
            raise
        return StatefulObject(ConstructorCall(self, args, kwargs, next(self._count)))

    def caller(self, _constructor: ConstructorCall, method: str) -> Callable[..., MethodCall]:
        """Return a function that makes nodes of `method`.

        Raises:
            AttributeError: the class has no such method.
            GraphError: the method is a generator function or async, so a call computes nothing.
        """
        # getattr alone would also find the attributes of `type`, such as __call__ and mro.
        known = any(method in vars(base) for base in self.kind.__mro__)
        if (
            not known
            or not callable(getattr(self.func, method))
            or (method.startswith("__") and method != "__call__")
        ):
            raise AttributeError(
                f"{label_of(self.func)!r} has no method {method!r}; on an object of a @workflow"
                " class only methods can be used, and each call is a node"
            )

        if self._parameters(method).suspended:
            raise _no_node(self._parameters(method).suspended, f"{label_of(self.func)}.{method}")

        def call(*args: object, **kwargs: object) -> MethodCall:
            try:
                self._accept(args, kwargs, method)
            except TypeError as error:
                error.__traceback__ = None
                raise
            count = self._method_counts.setdefault(method, itertools.count())
            return MethodCall(_constructor, method, args, kwargs, next(count))

        return call


if TYPE_CHECKING:
    # Type checkers see a decorated class as a function: with an overload for classes, pyright would
    # lose the parameters of the constructor.
    @overload
    def workflow(func: Callable[P, object]) -> WorkflowFunction[P]: ...
    @overload
    def workflow(
        *,
        version: str | None = None,
        ignore: Iterable[str] = (),
        packages: Iterable[str] = (),
        retries: int = 0,
        retry_on: type[Exception] | Iterable[type[Exception]] = (Exception,),
        retry_delay: float | timedelta = 1.0,
        timeout: float | timedelta | None = None,
        expires: float | timedelta | None = None,
    ) -> Callable[[Callable[P, object]], WorkflowFunction[P]]: ...


def workflow(
    func: Callable[..., object] | None = None,
    *,
    version: str | None = None,
    ignore: Iterable[str] = (),
    packages: Iterable[str] = (),
    retries: int = 0,
    retry_on: type[Exception] | Iterable[type[Exception]] = (Exception,),
    retry_delay: float | timedelta = 1.0,
    timeout: float | timedelta | None = None,
    expires: float | timedelta | None = None,
) -> Any:
    """Turn calls of a function, or of a class and its methods, into nodes of a graph.

    Write `@workflow`, or `@workflow(version="2", retries=3)` with settings. `query` of a workflow
    replaces those of the run for its nodes. Times are seconds, or a `timedelta`.

    Args:
        version: replaces the code. Stored results are reused while the version is the same, even
            if the code changes.
        ignore: names of arguments that don't affect the result, such as "verbose".
        packages: names of distributions. When the version of one changes, results are computed
            again. By default only your own code counts, not the code of packages.
        retries, retry_on, retry_delay: see `Query.set_retries`.
        timeout: see `Query.set_timeout`.
        expires: see `Query.set_expires`.

    Raises:
        GraphError: `func` can't be called, is already decorated, is async or a generator function;
            or it is a class, and has retries; or an argument has a wrong type.
        OptionsError: retries or times of a wrong form.
    """
    names = [("ignore", ignore), ("packages", packages)]
    for argument, value in names:
        if isinstance(value, str) or not all(isinstance(name, str) for name in value):
            raise GraphError(f"@workflow({argument}=...) takes a list of names, not {value!r}")
    if version is not None and not isinstance(version, str):
        raise GraphError(f"@workflow(version=...) takes a string, not {version!r}")
    if not retries and (retry_on != (Exception,) or retry_delay != 1.0):
        raise OptionsError("@workflow(retry_on=..., retry_delay=...) needs retries=...")
    settings = Settings(
        version,
        tuple(ignore),
        tuple(packages),
        retries=check_retries(retries, retry_on, retry_delay),
        timeout=None if timeout is None else check_seconds(timeout, "a timeout"),
        expires=None if expires is None else check_seconds(expires, "the age of a result"),
    )
    if func is None:
        return lambda function: _decorated(function, settings)
    return _decorated(func, settings)


def _decorated(
    func: Callable[P, object], settings: Settings
) -> WorkflowFunction[P] | WorkflowClass:
    if isinstance(func, Decorated):
        raise GraphError(f"{func!r} is decorated with @workflow already")
    if isinstance(func, type):
        if settings.retries:
            raise GraphError(
                f"class {func.__qualname__!r} can't have retries: a call that fails may change"
                " its object"
            )
        return WorkflowClass(func, settings)
    if not callable(func) or isinstance(func, Reference):
        raise GraphError(f"@workflow decorates functions and classes, not {func!r}")
    made: WorkflowFunction[P] = WorkflowFunction(func, settings)
    if made._parameters().suspended:
        raise _no_node(made._parameters().suspended, label_of(func))
    return made


def _no_node(kind: str, name: str) -> GraphError:
    cure = "return a list of the values that it yields"
    if kind != "a generator function":
        cure = "decorate a function that runs it with asyncio.run() and returns the result"
    return GraphError(
        f"{name}() can't be a node, because a call of {kind} computes nothing: {cure}"
    )
