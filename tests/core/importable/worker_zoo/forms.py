"""What functions lead to: decorators, closures, classes of all sorts, caches."""

from __future__ import annotations

import abc
import contextlib
import functools
import operator
import threading
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from enum import Enum, Flag, auto
from pathlib import Path
from typing import ClassVar, NamedTuple

import attrs
import numpy as np
import pydantic

LIMIT = 10
BOUNDS = ((0, 1), (2, Decimal("3.5")))
SETTINGS = {"factor": 3, "names": {"b", "a", "c"}}
HERE = Path(__file__).parent
WEIGHTS = np.arange(6.0).reshape(2, 3).T
SINCE = date(2020, 1, 1)
HANDLERS = {}
LOCK = threading.RLock()
MISSING = object()


def registered(name):
    def decorate(function):
        HANDLERS[name] = function
        return function

    return decorate


def traced(function):
    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)

    return inner


def scaled_by(factor):
    def decorate(function):
        return functools.wraps(function)(lambda *args: factor * function(*args))

    return decorate


@registered("plain")
@traced
def plain(x):
    """Return more."""
    return x + 1


@registered("lambda")
def through_lambdas(x):
    return add_one(x) + twice(x)


add_one = lambda x: x + 1  # noqa: E731
twice = scaled_by(2)(lambda x: x)
tenfold = functools.partial(operator.mul, 10)


@functools.lru_cache
def cached(x):
    return x * LIMIT


@functools.singledispatch
def described(value):
    return "other"


@described.register
def _(value: int):
    return "int"


@described.register(list)
def _(value):
    return "list"


def counter():
    count = 0

    def inner(x):
        nonlocal count
        return x + count

    return inner


count_from = counter()


@contextlib.contextmanager
def opened(x):
    yield x


class Color(Enum):
    RED = 1
    GREEN = auto()

    def stronger(self, x):
        return self.value * x


class Access(Flag):
    READ = auto()
    WRITE = auto()


class Pair(NamedTuple):
    left: int
    right: int = LIMIT


@dataclass
class Model:
    rate: float = 0.5
    parts: list[int] = field(default_factory=list)
    known: ClassVar[dict[str, int]] = {"a": 1}

    def predict(self, x):
        return self.rate * x + self.shift

    @property
    def shift(self):
        return sum(self.parts)


@dataclass(frozen=True, slots=True, order=True)
class Point:
    x: int
    y: int = 0


@attrs.define
class Record:
    x: int = 3
    tags: list[str] = attrs.field(factory=list, converter=list)


class Schema(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    x: int = pydantic.Field(default=1, ge=0)
    child: Schema | None = None
    colors: list[Color] = []

    @pydantic.field_validator("x")
    @classmethod
    def check(cls, value):
        return value


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...

    @classmethod
    def made(cls, *args):
        return cls(*args)

    @staticmethod
    def unit():
        return 1


@Shape.register
class Foreign:
    def area(self):
        return 2


class Square(Shape):
    def __init__(self, side):
        self.side = side

    def area(self):
        return self.side**2 * self.unit()

    @functools.cached_property
    def half(self):
        return self.area() / 2


class Described:
    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, instance, owner):
        return self.name


class Meta(type):
    def __new__(mcs, name, bases, namespace):
        return super().__new__(mcs, name, bases, {**namespace, "made_by": "Meta"})


class Special(metaclass=Meta):
    field = Described()

    def __class_getitem__(cls, item):
        return item

    def __call__(self, x):
        return x + len(self.field)
