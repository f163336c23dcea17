"""The decorator `workflow`, and the nodes that calls of decorated functions and classes make.

A call runs nothing: it makes a node that remembers function and arguments. A node can only be
given nodes that exist already, so the order of creation (`Node.number`) is a topological order
and a cycle can't be written.
"""

from __future__ import annotations

import copy
import functools
import itertools
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast, overload

from .errors import GraphError, InvalidNameError

__all__ = [
    "Call",
    "ConstructorCall",
    "MethodCall",
    "Nested",
    "Node",
    "Pick",
    "Settings",
    "StatefulObject",
    "WorkflowClass",
    "WorkflowFunction",
    "as_node",
    "label_of",
    "resolve",
    "workflow",
]

_numbers = itertools.count()
_NO_KWARGS: dict[str, Any] = {}

# Values of these types hold no nodes; most arguments are one of them.
_PLAIN = frozenset({int, float, str, bool, bytes, complex, type(None), type})


@dataclass(frozen=True)
class Settings:
    """What `@workflow(...)` says of when a stored result of the function may be reused.

    Attributes:
        version: stands for the code: a result is reused while the version is the same.
        ignore: names of arguments that don't change the result.
        packages: names of distributions whose versions count.
    """

    version: str | None = None
    ignore: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


_NO_SETTINGS = Settings()


class Pick:
    """An item of a node's result: `node[key]`, `node[key][key]`, and so on."""

    __slots__ = ("node", "path")

    # Python would fall back to __getitem__ with 0, 1, 2, ... and never stop.
    __iter__ = None
    __contains__ = None

    def __init__(self, node: Node, path: tuple[Any, ...]) -> None:
        self.node = node
        self.path = path

    def __getitem__(self, key: Any) -> Pick:
        return Pick(self.node, (*self.path, _plain_key(key)))

    def __repr__(self) -> str:
        return f"{self.node!r}{''.join(f'[{key!r}]' for key in self.path)}"

    def of(self, result: Any) -> Any:
        """Return the item of `result` that this pick stands for.

        Raises what indexing raises, with a note that names node and path.
        """
        try:
            for key in self.path:
                result = result[key]
        except Exception as error:
            error.add_note(f"while picking {self!r} from that node's result")
            raise
        return result


class Node:
    """One call in the graph. Made by calling what `@workflow` decorates, not by hand.

    Attributes:
        number: position in the order of creation, over all nodes of this process.
        args, kwargs: the arguments; nodes stand in them as `Node`, `Pick` or `Nested`.
        needs: the nodes whose results the call needs, each once, in order of first use.
        parents: the nodes that go before this one: `needs`, and for a method the call before it.
        called: what was called; a method's class.
        children: the nodes that need this one, in order of creation.
        where: file and line of the call.
    """

    __slots__ = (
        "_index",
        "_name",
        "args",
        "children",
        "kwargs",
        "needs",
        "number",
        "parents",
        "where",
    )

    __iter__ = None
    __contains__ = None

    called: WorkflowFunction | WorkflowClass

    def __init__(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], index: int, before: Node | None = None
    ) -> None:
        needs: dict[Node, None] = {}
        seen: dict[int, Any] = {}
        self.args = _lift_all(args, needs, seen)
        if kwargs:
            for key, value in kwargs.items():
                if type(value) not in _PLAIN:
                    kwargs[key] = _lift(value, needs, seen)
        self.kwargs = kwargs or _NO_KWARGS  # one less object for the garbage collector to visit
        # Often the arguments are the nodes; then one tuple does for both.
        alike = self.args is args and len(needs) == len(args) and not kwargs
        self.needs = args if alike else tuple(needs)
        self.parents = self.needs if before is None or before in needs else (before, *self.needs)
        self.children: list[Node] = []
        self._name: str | None = None
        self._index = index
        frame: Any = sys._getframe(3)  # past both __init__ and the decorated function's __call__
        while frame.f_code in _PASSED:
            frame = frame.f_back
        self.where = (frame.f_code.co_filename, frame.f_lineno)
        self.number = next(_numbers)
        for parent in self.parents:
            parent.children.append(self)

    @property
    def function(self) -> Callable[..., Any]:
        """What the user wrote and this node calls."""
        raise TypeError(f"{type(self).__name__} does not say what it calls")

    @property
    def settings(self) -> Settings:
        """What the decorator was told."""
        return self.called.settings

    @property
    def portable_function(self) -> Callable[..., Any] | str:
        """`function` in a form that other processes find by its import path, where it has one."""
        return self.function

    @property
    def label(self) -> str:
        """The qualified name of the function, class or method that is called."""
        return label_of(self.function)

    @property
    def numbered_with(self) -> object:
        """Unnamed nodes that share this are numbered together."""
        return self.function

    @property
    def name(self) -> str:
        """The name given by `set_name`, or else `<qualified name>_<number>`.

        An unnamed node's number counts the calls of its function. A workflow counts within itself
        (so that a graph built again in the same process gets the same names), and the name seen
        here afterwards is the one in the workflow that looked at the node last.
        """
        return self._name or default_name(self.label, self._index)

    def get_name(self) -> str:
        """Return `name`."""
        return self.name

    def set_name(self, name: str) -> Node:
        """Name the node, and with it the stored result. Any text but the empty one; returns self.

        Raises:
            InvalidNameError: `name` is no string, or empty.
        """
        self._name = check_name(name, "node")
        return self

    def described(self) -> str:
        """Return function and place of the call, for messages."""
        function = self.function
        module = getattr(function, "__module__", None)
        return f"{module}.{self.label}, called in {self.where[0]}:{self.where[1]}"

    def __getitem__(self, key: Any) -> Pick:
        return Pick(self, (_plain_key(key),))

    def __repr__(self) -> str:
        return f"<node {self.name!r}>"


class Call(Node):
    """A call of a decorated function."""

    __slots__ = ("called",)

    called: WorkflowFunction

    def __init__(
        self, called: WorkflowFunction, args: tuple[Any, ...], kwargs: dict[str, Any], index: int
    ) -> None:
        self.called = called
        Node.__init__(self, args, kwargs, index)

    @property
    def function(self) -> Callable[..., Any]:
        return self.called.func

    @property
    def portable_function(self) -> Callable[..., Any]:
        return self.called.compute

    @property
    def numbered_with(self) -> object:
        return self.called.key


class ConstructorCall(Node):
    """The construction of an object of a decorated class. Its result is None."""

    __slots__ = ("called", "constructor", "last")

    called: WorkflowClass

    def __init__(
        self, called: WorkflowClass, args: tuple[Any, ...], kwargs: dict[str, Any], index: int
    ) -> None:
        self.called = called
        self.constructor = self
        self.last: Node = self
        Node.__init__(self, args, kwargs, index)

    @property
    def function(self) -> Callable[..., Any]:
        return self.called.func

    @property
    def portable_function(self) -> Callable[..., Any]:
        return self.called.compute


class MethodCall(Node):
    """A call of a method on an object of a decorated class, after all earlier calls on it.

    Attributes:
        constructor: the node that makes the object.
        before: the constructor or the call before this one; one of `parents`.
        method: the method's name.
    """

    __slots__ = ("before", "constructor", "method")

    def __init__(
        self,
        constructor: ConstructorCall,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        index: int,
    ) -> None:
        self.constructor = constructor
        self.method = method
        self.before = constructor.last
        Node.__init__(self, args, kwargs, index, self.before)
        constructor.last = self

    @property
    def function(self) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(self.constructor.called.func, self.method)
        return function

    @property
    def called(self) -> WorkflowClass:  # type: ignore[override]
        return self.constructor.called

    @property
    def portable_function(self) -> str:
        return self.method

    @property
    def label(self) -> str:
        return f"{label_of(self.constructor.called.func)}.{self.method}"

    @property
    def numbered_with(self) -> object:
        return self.constructor.called.func, self.method


class StatefulObject:
    """What a call of a decorated class gives: its methods make nodes, chained as written."""

    __slots__ = ("_constructor",)

    def __init__(self, constructor: ConstructorCall) -> None:
        self._constructor = constructor

    def set_name(self, name: str) -> StatefulObject:
        """Name the node of the constructor's call; returns self. See `Node.set_name`."""
        self._constructor.set_name(name)
        return self

    def __getattr__(self, method: str) -> Callable[..., MethodCall]:
        if method == "_constructor":  # copying asks for methods before this has a value
            raise AttributeError(method)
        return self._constructor.called.caller(self._constructor, method)

    def __call__(self, *args: Any, **kwargs: Any) -> MethodCall:
        return self._constructor.called.caller(self._constructor, "__call__")(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<object of {self._constructor!r}>"


_PASSED = (StatefulObject.__call__.__code__,)


class _Decorated:
    """What `@workflow` makes; pickled by its import path where it has one, else with `func`."""

    def __init__(self, func: Callable[..., Any], settings: Settings = _NO_SETTINGS) -> None:
        functools.update_wrapper(cast(Callable[..., Any], self), func, updated=())
        self.func = func
        self.settings = settings
        # A callable object may have no hash; it lives as long as this does.
        self.key: object = func if isinstance(func, Hashable) else id(func)
        self._count = itertools.count()

    def compute(self, *args: Any, **kwargs: Any) -> Any:
        """Call what is decorated, without making a node."""
        return self.func(*args, **kwargs)

    def __reduce__(self) -> str | tuple[Any, ...]:
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


class WorkflowFunction(_Decorated):
    """A decorated function: a call makes a `Call`. `func` is the function itself."""

    def __call__(self, *args: Any, **kwargs: Any) -> Call:
        return Call(self, args, kwargs, next(self._count))


class WorkflowClass(_Decorated):
    """A decorated class: a call makes a `StatefulObject`. `func` is the class itself."""

    def __init__(self, func: type, settings: Settings = _NO_SETTINGS) -> None:
        super().__init__(func, settings)
        self._method_counts: dict[str, Iterator[int]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> StatefulObject:
        return StatefulObject(ConstructorCall(self, args, kwargs, next(self._count)))

    def caller(self, constructor: ConstructorCall, method: str) -> Callable[..., MethodCall]:
        """Return what makes nodes of `method`.

        Raises:
            AttributeError: the class has no such method.
        """
        # getattr alone would find what every class has from `type`, such as __call__ and mro.
        known = any(method in vars(base) for base in cast(type, self.func).__mro__)
        if (
            not known
            or not callable(getattr(self.func, method))
            or (method.startswith("__") and method != "__call__")
        ):
            raise AttributeError(
                f"{label_of(self.func)!r} has no method {method!r}; on an object of a @workflow"
                " class only methods can be used, and each call is a node"
            )

        def call(*args: Any, **kwargs: Any) -> MethodCall:
            count = self._method_counts.setdefault(method, itertools.count())
            return MethodCall(constructor, method, args, kwargs, next(count))

        return call


@overload
def workflow(func: type) -> WorkflowClass: ...  # type: ignore[overload-overlap]
@overload
def workflow(func: Callable[..., Any]) -> WorkflowFunction: ...
@overload
def workflow(
    *, version: str | None = None, ignore: Iterable[str] = (), packages: Iterable[str] = ()
) -> Callable[[Callable[..., Any]], Any]: ...
def workflow(
    func: Callable[..., Any] | None = None,
    *,
    version: str | None = None,
    ignore: Iterable[str] = (),
    packages: Iterable[str] = (),
) -> Any:
    """Make calls of a function, or of a class and its methods, nodes of a graph.

    As `@workflow`, or as `@workflow(version="2")` with these arguments, all of which are about when
    a stored result is reused:

    Args:
        version: stands for the code. Stored results are reused while the version stays the same,
            whatever happens to the code.
        ignore: names of arguments that don't change the result, such as "verbose".
        packages: names of distributions; when the version of one changes, results are computed
            again. Otherwise the user's own code counts, and that of packages does not.

    Raises:
        GraphError: `func` can't be called, or is decorated already; or an argument is of a wrong
            type.
    """
    names = [("ignore", ignore), ("packages", packages)]
    for argument, value in names:
        if isinstance(value, str) or not all(isinstance(name, str) for name in value):
            raise GraphError(f"@workflow({argument}=...) takes a list of names, not {value!r}")
    if version is not None and not isinstance(version, str):
        raise GraphError(f"@workflow(version=...) takes a string, not {version!r}")
    settings = Settings(version, tuple(ignore), tuple(packages))
    if func is None:
        return functools.partial(_decorated, settings=settings)
    return _decorated(func, settings)


def _decorated(func: Callable[..., Any], settings: Settings) -> WorkflowFunction | WorkflowClass:
    if isinstance(func, _Decorated):
        raise GraphError(f"{func!r} is decorated with @workflow already")
    if isinstance(func, type):
        return WorkflowClass(func, settings)
    if not callable(func):
        raise GraphError(f"@workflow decorates functions and classes, not {func!r}")
    return WorkflowFunction(func, settings)


class Nested:
    """A container of nodes in an argument; its items as they were when the call was made."""

    __slots__ = ("items", "like")

    def __init__(self, like: Any, items: list[Any]) -> None:
        self.like = like
        self.items = items

    def build(self, resolved: list[Any]) -> Any:
        """Return a container of the original's type with `resolved` in the places of `items`."""
        like, kind = self.like, type(self.like)
        if kind is dict:
            return dict(zip(resolved[::2], resolved[1::2], strict=True))
        if isinstance(like, tuple):
            return tuple.__new__(kind, resolved)
        if isinstance(like, frozenset):
            return frozenset.__new__(kind, resolved)
        if kind is list or kind is set:
            return kind(resolved)
        copied = copy.copy(like)  # keeps, for instance, a defaultdict's factory
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


def _lift_all(
    args: tuple[Any, ...], needs: dict[Node, None], seen: dict[int, Any]
) -> tuple[Any, ...]:
    """Note the nodes in `args` in `needs`; return `args` with containers of nodes as `Nested`."""
    for value in args:
        kind = type(value)
        if kind is Call:
            needs[value] = None
        elif kind not in _PLAIN:
            break
    else:
        return args
    return tuple([_lift(value, needs, seen) for value in args])


def _lift(value: Any, needs: dict[Node, None], seen: dict[int, Any]) -> Any:
    """Note the nodes in `value` in `needs`; return it, as `Nested` if it is a container of some."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Node):
        needs[value] = None
        return value
    if isinstance(value, Pick):
        needs[value.node] = None
        return value
    if isinstance(value, StatefulObject):
        raise GraphError(
            f"{value!r} can't be an argument: its state changes from call to call."
            " Hand over the result of one of its method calls"
        )
    if not isinstance(value, _CONTAINERS):
        return value
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
        if type(item) not in _PLAIN:
            raised = _lift(item, needs, seen)
            holds_nodes = holds_nodes or raised is not item or isinstance(raised, (Node, Pick))
            lifted.append(raised)
        else:
            lifted.append(item)
    if holds_nodes and seen[key] is _CYCLIC:
        raise GraphError("a container that holds nodes, given as an argument, holds itself too")
    seen[key] = Nested(value, lifted) if holds_nodes else value
    return seen[key]


_OPEN = object()
_CYCLIC = object()


def resolve(value: Any, result_of: Callable[[Node], Any], built: dict[Nested, Any]) -> Any:
    """Return `value` (an argument of a node) with every node in it replaced by its result.

    `built` is one dict for all arguments of a node, so that a container that stands in them twice
    reaches the function as one object.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is Nested:
        if value not in built:
            built[value] = value.build([resolve(item, result_of, built) for item in value.items])
        return built[value]
    if kind is Pick:
        return value.of(result_of(value.node))
    if isinstance(value, Node):
        return result_of(value)
    return value


def as_node(leaf: object) -> Node:
    """Return the node behind what a workflow is given.

    Raises:
        GraphError: `leaf` is no node, no pick from one, and no object of a decorated class.
    """
    if isinstance(leaf, Node):
        return leaf
    if isinstance(leaf, Pick):
        return leaf.node
    if isinstance(leaf, StatefulObject):
        return leaf._constructor
    hint = ""
    if isinstance(leaf, _Decorated):
        hint = "; it is a function that has not been called"
    elif isinstance(leaf, (list, tuple, set, dict)):
        hint = "; hand over its nodes one by one: LocalWorkflow(*nodes, workflow_name=...)"
    raise GraphError(f"a workflow is made from nodes, not from {leaf!r}{hint}")


def default_name(label: str, index: int) -> str:
    """Return the name of the `index`-th unnamed node of a function."""
    return f"{label}_{index:04d}"


def check_name(name: object, what: str) -> str:
    """Return `name` if it can name a workflow or a node.

    Raises:
        InvalidNameError: it is no string, or empty.
    """
    if not isinstance(name, str):
        raise InvalidNameError(f"a {what}'s name is a string, not {name!r}")
    if not name:
        raise InvalidNameError(f"a {what}'s name can't be empty")
    return name


def _plain_key(key: Any) -> Any:
    parts = key if isinstance(key, tuple) else (key,)
    for part in parts:
        ends = (part.start, part.stop, part.step) if isinstance(part, slice) else (part,)
        for end in ends:
            if isinstance(end, (Node, Pick)):
                raise GraphError(
                    f"{end!r} can't be a key: only values that are known now pick from a node"
                )
    return key


def label_of(function: Any) -> str:
    """Return the qualified name of a function, a class or another callable."""
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return str(name)
