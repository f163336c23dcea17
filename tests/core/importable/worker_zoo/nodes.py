"""Nodes' functions of many forms."""

from __future__ import annotations

import functools
import inspect
from typing import ClassVar

import pydantic

from functionfuse import workflow

from . import forms
from .forms import Color, Model, Pair, Point, Record, Schema, Special, Square, traced


@workflow
def helpers(x):
    return forms.plain(x) + forms.through_lambdas(x) + forms.cached(x) + forms.count_from(x)


@workflow
@traced
@functools.lru_cache
def decorated(x):
    return x + forms.LIMIT + forms.BOUNDS[0][1] + forms.tenfold(x)


@workflow
def reads(x, default=(1, 2), table={"a": 1}):  # noqa: B006
    return x * forms.SETTINGS["factor"] + forms.WEIGHTS.sum() + len(forms.HERE.parts) + default[0]


@workflow
def handled(x):
    with forms.LOCK, forms.opened(x) as opened:
        return forms.HANDLERS["plain"](opened) + len(forms.HANDLERS)


@workflow
def classes(x):
    made = Model(parts=[x]), Point(x), Pair(x), Record(x), Schema(x=x), Square.made(x)
    return [str(made), Color.RED.stronger(x), forms.described(x), Special()(x), Square(x).half]


@workflow
def flags(x):
    return (forms.Access.READ | forms.Access.WRITE).value + x + (forms.SINCE.year)


@workflow
def imports_inside(x):
    from . import forms as module
    from .forms import twice

    return twice(x) + module.LIMIT


@workflow
def whole_module(x):
    return len(vars(forms)["SETTINGS"]) + x


@workflow
def looks_at_types(x: Model):
    """Return a signature."""
    return str(inspect.signature(forms.plain)) + (forms.plain.__doc__ or "") + str(x)


@workflow
@pydantic.validate_call
def validated(x: int, scale: forms.Color = Color.RED) -> int:
    return x * scale.value


@workflow
def takes(model, *others):
    return model.predict(2), str(others)


@workflow
def makes(x):
    return Model(x)


@workflow
def generated(x):
    return list(_numbers(x))


def _numbers(x):
    yield from range(x % forms.LIMIT)


@workflow(version="1")
def versioned(x):
    return x + forms.LIMIT


@workflow(ignore=["worker_zoo.forms.LIMIT", "verbose"])
def ignoring(x, verbose=False):
    return x if verbose else x + forms.LIMIT


@workflow
class Tally:
    """An object with state."""

    step = 2
    names: ClassVar[dict[str, int]] = {"a": 1}

    def __init__(self, start):
        self.total = forms.plain(start)

    @traced
    def add(self, x):
        self.total += self.step * x
        return self.total

    @classmethod
    def name(cls):
        return cls.__name__ + str(cls.names)

    @staticmethod
    def fixed(x):
        return forms.Color(1).stronger(x)


def local(offset):
    """Return nodes of functions that no module has."""

    def inner(x):
        return forms.plain(x) + offset + helper(x)

    @workflow
    def outer(x):
        return inner(x) + forms.LIMIT + Color.GREEN.value

    class Inner(Model):
        def predict(self, x):
            return super().predict(x) + offset

    return [outer(1), workflow(lambda x: Inner(x).predict(inner(x)))(2)]


def helper(x):
    return x * forms.SETTINGS["factor"]


def build():
    """Return a node of each form, by what the form is called."""
    tally = Tally(1)
    made = makes(3)
    outer, through_class = local(3)
    return {
        "helpers": helpers(2),
        "decorated": decorated(2),
        "reads": reads(2),
        "handled": handled(2),
        "classes": classes(2),
        "flags": flags(2),
        "imports inside": imports_inside(2),
        "whole module": whole_module(2),
        "looks at types": looks_at_types(2),
        "validated": validated(2),
        "generated": generated(2),
        "takes": takes(Model(2.0), Point(1), [Color.RED], Square, {"k": forms.plain}),
        "takes results": takes(made, Schema(x=1, child=Schema())),
        "versioned": versioned(2),
        "ignoring": ignoring(2),
        "partial": workflow(functools.partial(forms.plain, 3))(),
        "bound method": workflow(Model(0.5).predict)(3),
        "undecorated": workflow(forms.plain)(5),
        "lambda": workflow(forms.twice)(5),
        "callable object": workflow(Special())(1),
        "method": tally.add(2),
        "after another": tally.add(takes(made)[0]),
        "class method": tally.name(),
        "static method": tally.fixed(4),
        "local": outer,
        "local class": through_class,
    }
