"""The nodes of a graph, made by calls of decorated functions and classes.

Only existing nodes can be arguments of a new node. So the order of creation (`Node.number`) is a
topological order, and the graph has no cycles.
"""

from __future__ import annotations

import itertools
import operator
import sys

from ..errors import GraphError
from ..names import check_name, default_name, label_of
from .arguments import PLAIN, Reference, lift, lift_all

TYPE_CHECKING = False  # see names.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from .decorated import Decorated
    from .parameters import Parameters
    from .settings import Settings

__all__ = ["Call", "ConstructorCall", "MethodCall", "Node", "Pick", "StatefulObject", "as_node"]

_numbers = itertools.count()
_NO_KWARGS: dict[str, object] = {}


class Pick(Reference):
    """An item of a node's result: `node[key]`, `node[key][key]`, and so on."""

    __slots__ = ("node", "path")

    def __init__(self, node: Node, path: tuple[object, ...]) -> None:
        self.node = node
        self.path = path

    @property
    def source(self) -> Node:
        return self.node

    def __getitem__(self, key: object) -> Pick:
        return Pick(self.node, (*self.path, _plain_key(key)))

    def __repr__(self) -> str:
        return f"{self.node!r}{self._keys()}"

    def _repr_html_(self) -> str:
        return self.node._repr_html_()

    def _keys(self) -> str:
        from .texts import key_text

        return "".join(f"[{key_text(key)}]" for key in self.path)

    def _located(self) -> str:
        return f"item {self._keys()} of {self.node._located()}"

    def of(self, result: Any) -> Any:
        """Return the item of `result` that this pick stands for.

        Exceptions of the indexing pass, with a note that names node and path.
        """
        try:
            for key in self.path:
                result = result[key]
        except Exception as error:
            error.add_note(f"while picking {self._located()} from that node's result")
            raise
        return result


class Node(Reference):
    """One call in the graph. Calls of decorated functions and classes make nodes.

    Attributes:
        number: position in the order of creation, over all nodes of this process.
        args, kwargs: the arguments; they refer to nodes as `Node`, `Pick` or `Nested`.
        needs: the nodes whose results the call needs, each once, in order of first use.
        parents: the nodes that run before this one: `needs`, and for a method the previous call.
        called: the decorated function or class; for a method, its class.
        function: the user's function, class or method that this node calls.
        children: the nodes that have this one as a parent, in order of creation.
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

    whole = True
    called: Decorated
    function: Callable[..., Any]

    def __init__(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], index: int, before: Node | None = None
    ) -> None:
        needs: dict[Node, None] = {}
        seen: dict[int, Any] = {}
        self.args = lift_all(args, needs, seen)
        if kwargs:
            for key, value in kwargs.items():
                if type(value) not in PLAIN:
                    kwargs[key] = lift(value, needs, seen)
        self.kwargs = kwargs or _NO_KWARGS  # one object less for the garbage collector
        # If the arguments are just the nodes, one tuple serves for both.
        alike = len(needs) == len(args) and all(map(operator.is_, needs, args))
        parents = self.needs = args if alike else tuple(needs)
        if before is not None and before not in needs:
            parents = (before, *parents)
        self.parents = parents
        self.children: list[Node] = []
        self._name: str | None = None
        self._index = index
        frame = sys._getframe(3)  # the user's, above both __init__ and the decorated __call__
        self.where = (frame.f_code.co_filename, frame.f_lineno)
        self.number = next(_numbers)
        for parent in parents:
            parent.children.append(self)

    @property
    def source(self) -> Node:
        return self

    @property
    def settings(self) -> Settings:
        """The settings of the decorator."""
        return self.called.settings

    @property
    def portable_function(self) -> Callable[..., Any] | str:
        """A form of `function` that other processes can import; for a method, its name."""
        return self.called.compute

    @property
    def parameters(self) -> Parameters:
        """The parameters of the called function, class or method."""
        return self.called._parameters()

    @property
    def label(self) -> str:
        """The qualified name of the called function, class or method."""
        return label_of(self.function)

    @property
    def name(self) -> str:
        """The name given by `set_name`, or else `<qualified name>_<number>`.

        The number counts the calls of the function. A workflow counts its own unnamed nodes again,
        so a graph that is built again in the same process gets the same names. After that, `name`
        is the name in the workflow that last numbered the node.
        """
        return self._name or default_name(self.label, self._index)

    def get_name(self) -> str:
        """Return `name`."""
        return self.name

    def set_name(self, name: str) -> Node:
        """Name the node and its stored result; return self. Any text except "" is a name.

        Raises:
            InvalidNameError: `name` is no string, or empty.
        """
        self._name = check_name(name, "node")
        return self

    def described(self) -> str:
        """Return the function and the location of the call, for messages."""
        from .texts import cell_of

        file, line = self.where
        module = getattr(self.function, "__module__", None)
        return f"{module}.{self.label}, called in {cell_of(file) or file}:{line}"

    def __getitem__(self, key: object) -> Pick:
        return Pick(self, (_plain_key(key),))

    # A copy of an object that holds nodes holds the same nodes.

    def __copy__(self) -> Node:
        return self

    def __deepcopy__(self, memo: object) -> Node:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise GraphError(self._no_value("it can't be pickled"))

    def _located(self) -> str:
        from .texts import place_of

        return f"node {self.name!r} ({place_of(self.where)})"

    def __repr__(self) -> str:
        from .texts import call_of, place_of

        return f"<node {self.name!r}: {call_of(self)} at {place_of(self.where)}>"

    def _repr_html_(self) -> str:
        from .texts import html_of

        return html_of(self)


class Call(Node):
    """A call of a decorated function."""

    __slots__ = ("called", "function")

    called: Decorated
    function: Callable[..., Any]

    def __init__(
        self, called: Decorated, args: tuple[Any, ...], kwargs: dict[str, Any], index: int
    ) -> None:
        self.called = called
        self.function = called.func
        Node.__init__(self, args, kwargs, index)


class ConstructorCall(Node):
    """The construction of an object of a decorated class. Its result is None."""

    __slots__ = ("called", "constructor", "function", "last")

    called: Decorated
    function: Callable[..., Any]

    def __init__(
        self, called: Decorated, args: tuple[Any, ...], kwargs: dict[str, Any], index: int
    ) -> None:
        self.called = called
        self.function = called.func
        self.constructor = self
        self.last: Node = self
        Node.__init__(self, args, kwargs, index)


class MethodCall(Node):
    """A call of a method on an object of a decorated class; it runs after all earlier calls on it.

    Attributes:
        constructor: the node that makes the object.
        before: the previous call on the object, or its constructor; one of `parents`.
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
    def function(self) -> Callable[..., Any]:  # type: ignore[override]
        function: Callable[..., Any] = getattr(self.constructor.called.func, self.method)
        return function

    @property
    def called(self) -> Decorated:  # type: ignore[override]
        return self.constructor.called

    @property
    def portable_function(self) -> str:
        return self.method

    @property
    def parameters(self) -> Parameters:
        return self.called._parameters(self.method)

    @property
    def label(self) -> str:
        return f"{label_of(self.constructor.called.func)}.{self.method}"


class StatefulObject(Reference):
    """An object of a decorated class: its methods make nodes, which run in the order of calls."""

    __slots__ = ("_constructor",)

    def __init__(self, constructor: ConstructorCall) -> None:
        self._constructor = constructor

    @property
    def source(self) -> Node:
        raise GraphError(
            f"{self._located()} can't be an argument: its state changes from call to call."
            " Hand over the result of one of its method calls"
        )

    def set_name(self, name: str) -> StatefulObject:
        """Name the node of the constructor's call; return self. See `Node.set_name`."""
        self._constructor.set_name(name)
        return self

    def __getattr__(self, method: str) -> Callable[..., MethodCall]:
        # Copy asks for methods before this slot has a value, and notebooks ask for drawings: a call
        # would make a node.
        if method == "_constructor" or method.startswith(("_repr_", "_ipython_")):
            raise AttributeError(method)
        return self._constructor.called.caller(self._constructor, method)

    @property
    def __call__(self) -> Callable[..., MethodCall]:  # type: ignore[override]
        return self._constructor.called.caller(self._constructor, "__call__")

    def _located(self) -> str:
        return f"the object of {self._constructor._located()}"

    def __repr__(self) -> str:
        return f"<object of {self._constructor!r}>"

    def _repr_html_(self) -> str:
        return self._constructor._repr_html_()


def as_node(leaf: object) -> Node:
    """Return the node of a workflow's argument.

    Raises:
        GraphError: `leaf` is not a node, a pick or an object of a decorated class.
    """
    if isinstance(leaf, StatefulObject):
        return leaf._constructor
    if isinstance(leaf, Reference):
        return leaf.source
    hint = ""
    if hasattr(leaf, "settings"):
        hint = "; it is a function that has not been called"
    elif isinstance(leaf, (list, tuple, set, dict)):
        hint = "; hand over its nodes one by one: LocalWorkflow(*nodes, workflow_name=...)"
    raise GraphError(f"a workflow is made from nodes, not from {leaf!r}{hint}")


def _plain_key(key: object) -> object:
    parts = key if isinstance(key, tuple) else (key,)
    for part in parts:
        ends = (part.start, part.stop, part.step) if isinstance(part, slice) else (part,)
        for end in ends:
            if isinstance(end, Reference):
                raise GraphError(
                    f"{end!r} can't be a key of a node: keys must be known before run()"
                )
    return key
