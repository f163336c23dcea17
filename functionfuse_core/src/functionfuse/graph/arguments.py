"""The arguments of calls: find the nodes in them, and replace nodes by their results.

`lift` runs when a node is made. It collects the nodes in an argument, and turns each container of
nodes into a `Nested`, whose items can't change later. `resolve` runs before the call of the node's
function. It replaces nodes by results, and each `Nested` by a container of the original type.
"""

from __future__ import annotations

import itertools

from ..errors import GraphError

TYPE_CHECKING = False  # see names.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, NoReturn
else:
    Any = object  # the base of Reference at run time

__all__ = [
    "PLAIN",
    "Nested",
    "Reference",
    "lift",
    "lift_all",
    "reference_in",
    "refuse_nodes",
    "resolve",
]

# Values of these types hold no nodes; most arguments are one of them.
PLAIN = frozenset({int, float, str, bool, bytes, complex, type(None), type})


def _refused(so: str) -> Callable[..., Any]:
    def refuse(self: Reference, *_: object, **__: object) -> NoReturn:
        raise GraphError(self._no_value(so))

    return refuse


class Reference(Any):  # type: ignore[misc]  # fits any type, for checkers
    """A placeholder in an argument, for the result of a node or for a part of it.

    It has no value: operations that need one raise a GraphError. It has a `repr`, and is equal
    only to itself.
    """

    __slots__ = ()
    whole = False  # whether it stands for the whole result of the node that it is

    __bool__ = _refused("it is neither true nor false")
    __lt__ = __le__ = __gt__ = __ge__ = _refused("it can't be compared")
    __len__ = _refused("it has no length")
    __iter__ = __reversed__ = _refused("it can't be iterated")
    __contains__ = _refused("nothing can be looked for in it")
    __setitem__ = __delitem__ = _refused("its items can't be changed")
    __call__ = _refused("it can't be called")
    __fspath__ = _refused("it is no path")
    __format__ = __bytes__ = _refused("it is no text (its repr is one)")
    __int__ = __float__ = __complex__ = __index__ = _refused("it is no number")
    __round__ = __trunc__ = __floor__ = __ceil__ = _refused("it can't be rounded")
    __neg__ = __pos__ = __abs__ = __invert__ = _refused("it can't be calculated with")
    __add__ = __sub__ = __mul__ = __matmul__ = __truediv__ = __floordiv__ = __neg__
    __mod__ = __divmod__ = __pow__ = __lshift__ = __rshift__ = __and__ = __xor__ = __or__ = __neg__
    __radd__ = __rsub__ = __rmul__ = __rmatmul__ = __rtruediv__ = __rfloordiv__ = __neg__
    __rmod__ = __rdivmod__ = __rpow__ = __rlshift__ = __rrshift__ = __neg__
    __rand__ = __rxor__ = __ror__ = __neg__
    __array_ufunc__ = __array_function__ = __neg__  # else numpy.sum(node) would return the node

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Reference):
            return self is other
        raise GraphError(self._no_value("it can't be compared"))

    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> Any:
        if hasattr(type(self), name):  # a slot without a value, as in a copy being made
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        raise AttributeError(self._no_value(f"it has no attribute {name!r}"))

    def _located(self) -> str:
        """Return name, file and line, for messages."""
        return repr(self)

    def _no_value(self, so: str) -> str:
        return (
            f"{self._located()} has no value before run(), so {so}. Do this inside a @workflow"
            " function, or with the result of run()."
        )

    @property
    def source(self) -> Reference:
        """The node whose result this stands for."""
        raise GraphError(f"{self!r} can't be an argument")

    def of(self, result: Any) -> Any:
        """Return the value that this stands for; `result` is the result of the node."""
        return result


class Nested:
    """A container of nodes in an argument, with the items that it had at the call."""

    __slots__ = ("items", "like")

    def __init__(self, like: Any, items: list[Any]) -> None:
        self.like = like
        self.items = items

    def build(self, resolved: list[Any]) -> Any:
        """Return a container of the original type, with `resolved` as its items."""
        like, kind = self.like, type(self.like)
        if kind is dict:
            return dict(zip(resolved[::2], resolved[1::2], strict=True))
        if isinstance(like, tuple):
            return tuple.__new__(kind, resolved)
        if isinstance(like, frozenset):
            return frozenset.__new__(kind, resolved)
        if kind is list or kind is set:
            return kind(resolved)
        import copy

        copied = copy.copy(like)  # it has attributes, such as the factory of a defaultdict
        copied.clear()
        if isinstance(like, dict):
            for key, value in zip(resolved[::2], resolved[1::2], strict=True):
                copied[key] = value
        elif isinstance(like, set):
            copied.update(resolved)
        else:
            copied.extend(resolved)
        return copied


_CONTAINERS = (list, tuple, dict, set, frozenset)
_DEEPEST = 100  # runs build, pickle and compare containers recursively


def reference_in(value: object) -> Reference | None:
    """Return a node, pick or object that is `value` or is in its containers; None if there is none.

    Containers can be nested to any depth. The search goes level by level. It looks at the set of
    types of all items in a level first, which takes about 20 ns an item.
    """
    if type(value) in PLAIN:
        return None
    if isinstance(value, Reference):
        return value
    level = [value] if isinstance(value, _CONTAINERS) else []
    seen: set[int] = set()
    while level:
        kinds = set(map(type, _items(level))) - PLAIN
        if any(issubclass(kind, Reference) for kind in kinds):
            return next(item for item in _items(level) if isinstance(item, Reference))
        containers = {kind for kind in kinds if issubclass(kind, _CONTAINERS)}
        if not containers:
            break
        seen.update(map(id, level))
        inner = {id(item): item for item in _items(level) if type(item) in containers}
        level = [item for key, item in inner.items() if key not in seen]
    return None


def refuse_nodes(result: object) -> None:
    """Raise GraphError if a result is a node, or holds one at any depth of its containers."""
    node = reference_in(result)
    if node is not None:
        verb = "is" if node is result else "holds"
        raise GraphError(
            f"the result {verb} {node._located()}, which nobody runs."
            " Inside a @workflow function, call f.func(...) and not f(...); or make the node"
            " outside, and hand it over as an argument"
        ) from None


def _items(containers: list[Any]) -> Iterator[Any]:
    values = [value.values() for value in containers if isinstance(value, dict)]
    return itertools.chain.from_iterable(itertools.chain(containers, values))


def lift_all(
    args: tuple[Any, ...], needs: dict[Reference, None], seen: dict[int, Any]
) -> tuple[Any, ...]:
    """Add the nodes in `args` to `needs`; return `args`, with containers of nodes as `Nested`."""
    for value in args:
        if isinstance(value, Reference):
            needs[value.source] = None
        elif type(value) not in PLAIN:
            break
    else:
        return args
    return tuple([lift(value, needs, seen) for value in args])


def lift(value: Any, needs: dict[Reference, None], seen: dict[int, Any], depth: int = 0) -> Any:
    """Add the nodes in `value` to `needs`; return `value`, as `Nested` if it contains nodes.

    `seen` has the containers of all arguments of the call, by `id`.

    Raises:
        GraphError: the nodes are in a container that contains itself, or are nested too deep.
    """
    if type(value) in PLAIN:
        return value
    if isinstance(value, Reference):
        needs[value.source] = None
        return value
    if not isinstance(value, _CONTAINERS):
        return value
    if depth == _DEEPEST:
        node = reference_in(value)
        if node is None:
            return value
        raise GraphError(f"{node._located()} is nested in more than {_DEEPEST} containers")
    key = id(value)
    if key in seen:
        if seen[key] is _OPEN:
            seen[key] = _CYCLIC
            return value
        return value if seen[key] is _CYCLIC else seen[key]
    seen[key] = _OPEN
    items: Iterable[Any] = value
    if isinstance(value, dict):
        items = itertools.chain.from_iterable(value.items())
    holds_nodes = False
    lifted = []
    for item in items:
        if type(item) not in PLAIN:
            raised = lift(item, needs, seen, depth + 1)
            holds_nodes = holds_nodes or raised is not item or isinstance(raised, Reference)
            lifted.append(raised)
        else:
            lifted.append(item)
    if holds_nodes and seen[key] is _CYCLIC:
        raise GraphError("an argument is a container that holds nodes and holds itself")
    seen[key] = Nested(value, lifted) if holds_nodes else value
    return seen[key]


_OPEN = object()
_CYCLIC = object()


def resolve(
    value: Any,
    result_of: Callable[[Any], Any],
    built: dict[object, Any],
    own: Callable[[Any], Any] | None = None,
) -> Any:
    """Return `value`, an argument of a node, with every node in it replaced by its result.

    `built` is one dict for all arguments of a node: a container that is in two arguments reaches
    the function as one object. `own` copies the other values for the call.
    """
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind is Nested:
        if value not in built:
            items = [resolve(item, result_of, built, own) for item in value.items]
            built[value] = value.build(items)
        return built[value]
    if isinstance(value, Reference):
        return result_of(value) if value.whole else value.of(result_of(value.source))
    if own is None:
        return value
    if id(value) not in built:
        built[id(value)] = own(value)
    return built[id(value)]
