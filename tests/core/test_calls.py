"""Calls are checked where they are written, in Python's own words."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import math
import operator
import traceback
import types

import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import GraphError
from functionfuse.workflow import WorkflowFunction


def fit(rows, weight=1):
    return rows, weight


def named(rows, *, bias, scale=2):
    return rows, bias, scale


def placed(rows, weight=1, /, size=0):
    return rows, weight, size


def some(rows, *more, bias=0):
    return rows, more, bias


def options(rows, /, **settings):
    return rows, settings


def everything(*values, **settings):
    return values, settings


def own(self, /, cls=1, *, args, kwargs=(), function=2):
    return self, cls, args, kwargs, function


def nothing():
    return 0


def closure(rows):
    return lambda: rows


class Callable:
    def __call__(self, rows, *, bias=0):
        return rows, bias


class Base:
    def inherited(self, rows):
        return rows


class Model(Base):
    def __init__(self, rows, *, depth=3):
        self.rows = rows

    def fit(self, rows, weight=1):
        return rows, weight

    def __call__(self, rows):
        return rows

    @staticmethod
    def fixed(rows, weight=1):
        return rows, weight

    @classmethod
    def made_by(cls, rows):
        return rows

    wrapped = functools.lru_cache(fit)
    partly = functools.partialmethod(fit, weight=5)

    def stream(self, rows):
        yield from rows

    async def wait(self, rows):
        return rows


class Plain:
    pass


class Made:
    def __new__(cls, rows):
        return super().__new__(cls)


class Both:
    def __new__(cls, rows, *more):
        return super().__new__(cls)

    def __init__(self, rows, weight=1):
        pass


class Rows(list):
    pass


class Meta(type):
    def __call__(cls, size):
        return super().__call__()


class WithMeta(metaclass=Meta):
    pass


@dataclasses.dataclass
class Record:
    rows: object
    weight: int = 1


NAMES = {
    "fit": fit,
    "named": named,
    "placed": placed,
    "some": some,
    "options": options,
    "everything": everything,
    "own": own,
    "nothing": nothing,
    "closure": closure,
    "lambda": lambda rows, weight=1: rows,
    "callable": Callable(),
    "bound": Model([]).fit,
    "bound class method": Model.made_by,
    "static": Model.fixed,
    "partial": functools.partial(fit, weight=2),
    "partial, placed": functools.partial(fit, [1]),
    "partial, partly": functools.partial(functools.partial(named, bias=1), scale=4),
    "Model": Model,
    "Plain": Plain,
    "Made": Made,
    "Both": Both,
    "WithMeta": WithMeta,
    "Record": Record,
}
ARGUMENTS = [
    ((), {}),
    ((1,), {}),
    ((1, 2), {}),
    ((1, 2, 3), {}),
    ((1, 2, 3, 4), {}),
    ((), {"rows": 1}),
    ((), {"rows": 1, "weight": 2}),
    ((1,), {"rows": 2}),
    ((1,), {"weight": 2}),
    ((1, 2), {"weight": 3}),
    ((1,), {"bias": 2}),
    ((1,), {"bias": 2, "scale": 3}),
    ((1,), {"biass": 2}),
    ((), {"self": 1, "args": 2, "kwargs": 3}),
    ((1,), {"cls": 1, "args": 2, "function": 4}),
    ((1,), {"size": 1, "depth": 2}),
    ((), {"": 1}),
]


def refusal(call, args, kwargs):
    """Return the message of the TypeError; "" for none."""
    try:
        call(*args, **kwargs)
    except TypeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", range(len(ARGUMENTS)))
def test_a_call_is_refused_as_python_refuses_it(name, place):
    """The same calls, in the same words, whatever is decorated; all others make nodes."""
    args, kwargs = ARGUMENTS[place]
    expected = refusal(NAMES[name], args, kwargs)
    if name == "Plain" and expected == "Plain() takes no arguments":
        assert refusal(workflow(Plain), args, kwargs)
    else:
        assert expected == refusal(workflow(NAMES[name]), args, kwargs)


METHODS = ["fit", "inherited", "__call__", "fixed", "made_by"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("place", range(len(ARGUMENTS)))
def test_a_method_s_call_is_refused_as_python_refuses_it(method, place):
    """Also of inherited, static and class methods."""
    args, kwargs = ARGUMENTS[place]
    model = workflow(Model)([1])
    assert refusal(getattr(Model([1]), method), args, kwargs) == (
        refusal(getattr(model, method), args, kwargs)
    )
    if method == "__call__":
        assert refusal(Model([1]), args, kwargs) == refusal(model, args, kwargs)


def test_examples_of_the_words():
    """So the tests above compare something."""
    expected = [
        "fit() missing 1 required positional argument: 'rows'",
        "fit() got an unexpected keyword argument 'wieght'",
        "fit() takes from 1 to 2 positional arguments but 3 were given",
        "fit() got multiple values for argument 'rows'",
        "named() missing 1 required keyword-only argument: 'bias'",
        "Model.__init__() missing 1 required positional argument: 'rows'",
        "Model.fit() missing 1 required positional argument: 'rows'",
        "Plain() takes 0 positional arguments but 1 was given",
    ]
    decorated, model = workflow(fit), workflow(Model)([1])
    actual = [
        refusal(decorated, (), {}),
        refusal(decorated, (1,), {"wieght": 2}),
        refusal(decorated, (1, 2, 3), {}),
        refusal(decorated, (1,), {"rows": 1}),
        refusal(workflow(named), (1,), {}),
        refusal(workflow(Model), (), {}),
        refusal(model.fit, (), {}),
        refusal(workflow(Plain), (1,), {}),
    ]
    assert [text.split(". Did you mean")[0] for text in actual] == expected


@pytest.mark.parametrize(
    "call",
    [
        lambda: workflow(fit)(),  # noqa: PLW0108
        lambda: workflow(fit)(workflow(nothing)(), wieght=2),
        lambda: workflow(functools.partial(fit, 1))(2, 3),
        lambda: workflow(Model)(),  # noqa: PLW0108
        lambda: workflow(Model)(1).fit(),
        lambda: workflow(Model)(1)(),  # noqa: PLW0108
        lambda: workflow(Model)(1).fixed(),
    ],
)
def test_the_traceback_ends_at_the_call(call):
    """The last line is the user's, and nothing else was raised before."""
    with pytest.raises(TypeError) as caught:
        call()
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (__file__, call.__code__.co_firstlineno) == (last.filename, last.lineno)
    assert caught.value.__context__ is None


def test_what_is_being_handled_stays_the_context():
    """An error in an except clause tells of both."""

    def fail():
        try:
            raise LookupError
        except LookupError:
            workflow(fit)()

    with pytest.raises(TypeError) as caught:
        fail()
    assert isinstance(caught.value.__context__, LookupError)


def test_a_refused_call_makes_no_node():
    """Neither is it counted, nor has its parent a child, nor the object a call."""
    decorated, model = workflow(fit), workflow(Model)(1)
    parent = decorated(1)
    for call in (lambda: decorated(parent, wieght=2), lambda: model.fit(parent, 2, 3)):
        with pytest.raises(TypeError):
            call()
    assert [] == parent.children
    assert "fit_0001" == decorated(1).name
    assert "Model.fit_0000" == model.fit(1).name


def test_through_a_wrapper_anything_passes():
    """What counts is what is decorated, and not what that wraps: so it is when the node runs."""

    def passing(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return args, kwargs

        return wrapper

    def adding(function):
        @functools.wraps(function)
        def wrapper(rows, extra):
            return function(rows)

        return wrapper

    made = workflow(passing(fit))(1, 2, 3, bias=4)
    assert ((1, 2, 3), {"bias": 4}) == LocalWorkflow(made, workflow_name="w").run()
    assert refusal(workflow(adding(fit)), (1, 2), {}) == ""
    assert "missing 1 required positional argument: 'extra'" in (
        refusal(workflow(adding(fit)), (1,), {})
    )
    told = passing(fit)
    told.__signature__ = inspect.signature(fit)
    assert refusal(workflow(told), (1, 2, 3), {}) == ""


@pytest.mark.parametrize(
    "thing",
    [math.sqrt, operator.add, [].append, functools.lru_cache(fit), int, Rows, len, str.join],
)
def test_what_has_no_python_code_is_not_checked(thing):
    """Neither builtins nor classes that are made in C; what is wrong shows when they run."""
    for args, kwargs in ARGUMENTS:
        assert refusal(workflow(thing), args, kwargs) == ""


@pytest.mark.parametrize("method", ["wrapped", "partly"])
def test_other_methods_are_not_checked(method):
    """What a class has that is neither a function nor a static or class method."""
    for args, kwargs in ARGUMENTS:
        assert refusal(getattr(workflow(Model)(1), method), args, kwargs) == ""


def test_names_of_parameters_are_free():
    """A function may call its parameters as it likes."""
    made = workflow(own)(1, cls=2, args=3, kwargs=4, function=5)
    settings = {"self": 1, "args": 2, "kwargs": 3, "method": 4, "error": 5}
    other = workflow(everything)(**settings)
    last = workflow(Both)(rows=1)
    results = LocalWorkflow(made, other, last, workflow_name="w").run()
    assert [(1, 2, 3, 4, 5), ((), settings), None] == results


def test_an_edited_function_is_looked_at_again():
    """Its defaults and its code may be exchanged in place, as tools that reload modules do."""

    def edited(rows, weight):
        return rows, weight

    class Edited:
        def fit(self, rows):
            return rows

    decorated, made = workflow(edited), workflow(Edited)()
    with pytest.raises(TypeError, match="missing"):
        decorated(1)
    edited.__defaults__ = (2,)
    assert (1, 2) == LocalWorkflow(decorated(1), workflow_name="w").run()
    edited.__code__ = named.__code__
    edited.__kwdefaults__ = {"scale": 3}
    assert (1, 2, 3) == LocalWorkflow(decorated(1, bias=2), workflow_name="w").run()
    assert refusal(made.fit, (1, 2), {})
    Edited.fit = lambda self, rows, weight: (rows, weight)
    assert (1, 2) == LocalWorkflow(made.fit(1, 2), workflow_name="w").run()


# Functions in the place of others.


@pytest.mark.parametrize(
    ("func", "message"),
    [
        (lambda weight: 5, "got multiple values for argument 'weight'"),
        (lambda values: 5, "got an unexpected keyword argument 'weight'"),
        (workflow(lambda rows, weight, more: 5), "missing 1 required positional argument: 'more'"),
        (Callable(), "unexpected keyword argument 'weight'"),
    ],
)
def test_a_function_that_replaces_another_takes_its_arguments(func, message):
    """It is refused when it is set, and the workflow calls the other."""
    node = workflow(fit)(1, weight=2)
    flow = LocalWorkflow(node, workflow_name="w")
    with pytest.raises(GraphError, match="can't be called for node 'fit_0000'") as caught:
        flow.replace_func(node, func)
    assert message in str(caught.value)
    assert (1, 2) == flow.run()


@pytest.mark.parametrize(
    "func", [lambda a, weight: 5, lambda *args, **kwargs: 5, functools.partial(lambda *a, **k: 5)]
)
def test_a_function_that_fits_replaces_another(func):
    """Parameters may have other names where arguments are given by place."""
    node = workflow(fit)(1, weight=2)
    flow = LocalWorkflow(node, workflow_name="w")
    flow.replace_func(node, func)
    assert 5 == flow.run()


# Functions whose calls compute nothing.


async def waiting(rows):
    return rows


def streaming(rows):
    yield from rows


async def streaming_later(rows):
    yield rows


class WaitingCallable:
    async def __call__(self, rows):
        return rows


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (waiting, "an async function"),
        (streaming, "a generator function"),
        (streaming_later, "an async generator"),
        (functools.partial(waiting, 1), "an async function"),
        (functools.partial(streaming), "a generator function"),
        (Model([]).stream, "a generator function"),
        (Model([]).wait, "an async function"),
        (WaitingCallable(), "an async function"),
        (types.coroutine(streaming), "a generator function"),
    ],
)
@pytest.mark.parametrize("decorate", [workflow, workflow(version="1")])
def test_functions_that_compute_nothing_are_refused(function, kind, decorate):
    """Where they are decorated; the error says what to do."""
    with pytest.raises(GraphError, match=f"a call of {kind} computes nothing") as caught:
        decorate(function)
    cure = "return a list" if kind == "a generator function" else "asyncio.run()"
    assert cure in str(caught.value)


@pytest.mark.parametrize(("method", "kind"), [("stream", "a generator"), ("wait", "an async")])
def test_methods_that_compute_nothing_are_refused(method, kind):
    """Where they are used; the class may have them for itself."""
    model = workflow(Model)(1)
    with pytest.raises(GraphError, match=rf"Model\.{method}\(\) can't be a node, .* {kind}"):
        getattr(model, method)


def test_a_wrapper_may_run_what_computes_nothing():
    """As the errors advise."""

    @workflow
    @functools.wraps(waiting)
    def run_it(*args):
        return asyncio.run(waiting(*args))

    @workflow
    def collect(rows):
        return list(streaming(rows))

    assert [5, [1, 2]] == LocalWorkflow(run_it(5), collect([1, 2]), workflow_name="w").run()


# For those who ask.


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (fit, ("rows", "weight")),
        (named, ("rows",)),
        (placed, ("rows", "weight", "size")),
        (some, ("rows",)),
        (everything, ()),
        (functools.partial(fit, 1), ("weight",)),
        (Callable(), ("rows",)),
        (Model([]).fit, ("rows", "weight")),
        (functools.wraps(fit)(lambda *args: args), ()),
        (operator.add, ()),
    ],
)
def test_names_of_what_takes_positional_arguments(function, expected):
    """Once per decorated function, in order."""
    decorated = workflow(function)
    assert isinstance(decorated, WorkflowFunction)
    assert expected == decorated(1, **({"bias": 2} if function is named else {})).parameters.names


def test_names_of_a_class_and_its_methods():
    """Without the first, if that is given by Python."""
    model = workflow(Model)([1])
    actual = {method: getattr(model, method)(1).parameters.names for method in METHODS}
    assert {
        "fit": ("rows", "weight"),
        "inherited": ("rows",),
        "__call__": ("rows",),
        "fixed": ("rows", "weight"),
        "made_by": ("rows",),
    } == actual
    (constructor,) = LocalWorkflow(model, workflow_name="w").find_nodes("Model_.*")
    assert ("rows",) == constructor.parameters.names
