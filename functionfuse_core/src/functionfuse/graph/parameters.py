"""The parameters of decorated functions: wrong arguments are an error at the call.

Each Python function gets a stub: a function with the same parameters and an empty body. A call of
the stub checks the arguments, because Python binds them as in a call of the function. This is
fast, and Python words the error.
"""

from __future__ import annotations

from types import FunctionType, MethodType

from ..errors import GraphError
from ..names import label_of
from .arguments import reference_in

TYPE_CHECKING = False  # see names.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

__all__ = ["Parameters", "parameters_of", "parameters_of_method"]

_STAR, _STARS = 4, 8  # flags of code: *args, **kwargs
_SUSPENDED = {0x20: "a generator function", 0x80: "an async function", 0x200: "an async generator"}


class Parameters:
    """The parameters of a callable.

    Attributes:
        check: a function with the same parameters that does nothing. For wrong arguments it raises
            Python's TypeError.
        names: names of the positional parameters, in order.
        suspended: the kind of function, such as "an async function", if a call doesn't run its
            body; else "".
    """

    __slots__ = ("check", "names", "suspended")

    def __init__(
        self, check: Callable[..., object], names: tuple[str, ...], suspended: str = ""
    ) -> None:
        self.check = check
        self.names = names
        self.suspended = suspended


def parameters_of(function: Any) -> Parameters:
    """Return the parameters of a callable. One that isn't written in Python takes all arguments.

    These are the parameters of `function` itself, not of a function that it wraps. A wrapper with
    `*args` and `**kwargs` takes all arguments.
    """
    if isinstance(function, FunctionType):
        return _of_function(function)
    if isinstance(function, MethodType):
        return _of_bound(function.__func__)
    if isinstance(function, type):
        return _of_class(function)
    import functools

    if isinstance(function, functools.partial):
        inner = parameters_of(function.func)
        check = functools.partial(inner.check, *function.args, **function.keywords)
        return Parameters(check, inner.names[len(function.args) :], inner.suspended)
    return _of_bound(type(function).__call__)


def parameters_of_method(kind: Any, name: str) -> Parameters:
    """Return the parameters of a method, called on an object of a class."""
    written = next(vars(base)[name] for base in kind.__mro__ if name in vars(base))
    if isinstance(written, (staticmethod, classmethod, type)):
        return parameters_of(getattr(kind, name))
    return _of_bound(written)


def _of_function(function: FunctionType) -> Parameters:
    code = function.__code__
    names = code.co_varnames[: code.co_argcount]
    suspended = next((kind for flag, kind in _SUSPENDED.items() if code.co_flags & flag), "")
    node = reference_in([function.__defaults__, function.__kwdefaults__])
    if node is not None:
        message = (
            f"a default value of {label_of(function)}() is {node._located()}, or holds it. A node"
            " has no value before run(): hand it over as an argument"
        )

        def refuse(*_: object, **__: object) -> NoReturn:
            raise GraphError(message)

        return Parameters(refuse, names, suspended)
    return Parameters(_stub(function), names, suspended)


def _stub(function: Any) -> FunctionType:
    code, nothing = function.__code__, _nothing.__code__
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & _STAR) + bool(code.co_flags & _STARS)
    code = nothing.replace(
        co_argcount=code.co_argcount,
        co_posonlyargcount=code.co_posonlyargcount,
        co_kwonlyargcount=code.co_kwonlyargcount,
        co_nlocals=count,
        co_varnames=code.co_varnames[:count],
        co_flags=nothing.co_flags | code.co_flags & (_STAR | _STARS),
    )
    stub = FunctionType(code, {}, argdefs=function.__defaults__)
    stub.__kwdefaults__ = function.__kwdefaults__
    stub.__qualname__ = function.__qualname__
    return stub


def _nothing() -> None:
    pass


def _of_bound(function: Any) -> Parameters:
    """Return the parameters of a function after the first."""
    if not isinstance(function, FunctionType):
        return _ANYTHING
    inner = _of_function(function)
    return Parameters(MethodType(inner.check, inner), inner.names[1:], inner.suspended)


def _of_class(kind: Any) -> Parameters:
    """Return the parameters of a class: those of its metaclass, or of `__new__` and `__init__`."""
    if type(kind).__call__ is not type.__call__:
        return _of_bound(type(kind).__call__)
    if kind.__new__ is object.__new__ and kind.__init__ is object.__init__:
        stub = _stub(_nothing)
        stub.__qualname__ = kind.__qualname__
        return Parameters(stub, ())
    new, init = _of_bound(kind.__new__), _of_bound(kind.__init__)
    if _ANYTHING in (new, init):
        return init if new is _ANYTHING else new

    def both(*args: object, **kwargs: object) -> None:
        new.check(*args, **kwargs)
        init.check(*args, **kwargs)

    return Parameters(both, init.names)


def _anything(*_: object, **__: object) -> None:
    pass


_ANYTHING = Parameters(_anything, ())
