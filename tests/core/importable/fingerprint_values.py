"""Values that are all different, and pairs that are equal, for `test_fingerprint.py`."""

from __future__ import annotations

import datetime as dt
import enum
import functools
import ipaddress
import json
import math
import operator
import re
import threading
import types
import uuid
import zoneinfo
from array import array
from collections import ChainMap, Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pydantic import BaseModel


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Paint(enum.Enum):
    RED = 1
    BLUE = 2


class Size(enum.IntEnum):
    SMALL = 1


class Way(enum.Flag):
    UP = enum.auto()
    DOWN = enum.auto()


@dataclass
class Point:
    x: Any = 0
    y: Any = 0


@dataclass(frozen=True)
class Fixed:
    x: Any = 0
    y: Any = 0


@dataclass(slots=True)
class Slotted:
    x: Any = 0
    y: list[Any] = field(default_factory=list)


class Model(BaseModel):
    x: int = 0


class Pair(NamedTuple):
    x: Any
    y: Any


class Names(set):
    pass


class Holder:
    def __init__(self, content: Any) -> None:
        self.content = content

    def get(self) -> Any:
        return self.content

    def other(self) -> Any:
        return self.content


def one(x: Any) -> Any:
    return x + 1


def two(x: Any) -> Any:
    return x + 2


def same_as_one(x: Any) -> Any:
    return x + 1


def adds(n: Any) -> Any:
    return lambda x: x + n


RECORD = np.dtype([("a", "i4"), ("b", "f8")])

NAIVE = dt.datetime.fromisoformat("2020-01-01")

DIFFERENT: list[Any] = [
    *(None, ..., NotImplemented, True, False, 0, 1, -1, 10**5000, -(10**5000), 10**5000 + 1),
    *(0.0, -0.0, 1.0, 1e300, 5e-324, math.inf, -math.inf, math.nan, 0.1, 0.1 + 2**-56),
    *(0j, -0j, complex(0.0, -0.0), 1j, complex(1, math.nan)),
    *("", "0", "1", "True", "None", "a", "\udc80", "\udc81", "\ud800", "a\0b", "é", "e\u0301"),
    *(b"", b"0", b"a", bytearray(), bytearray(b"a"), memoryview(b"a"), memoryview(b"ab")),
    *([], (), {}, set(), frozenset(), [[]], [()], ([],), [None], [[], []], [[[]]], [{}], {None}),
    *([1], [True], [1.0], ["1"], (1,), {1}, frozenset({1}), {1: None}, [1, 1], [1, 2], [2, 1]),
    *([0] * 40, [0] * 41, (0,) * 40, [False] * 40, [0.0] * 40, [-0.0] * 40, ["0"] * 40),
    *([math.nan] * 40, [1e300] * 40, [10**5000] * 40, ["a, 'b"] * 40, ["a", "b"] * 40),
    *({"a": 1, "b": 2}, {"a": 2, "b": 1}, {"a": {"b": 1}}, {("a",): 1}, {1: "a"}, {1: {2}}),
    *({(1, 2)}, {(1,), (2,)}, {frozenset({1}), 2}, {frozenset({1, 2})}, {"a", "b"}, {"ab"}),
    *([1, [2, 3]], [[1, 2], 3], ["a", "bc"], ["ab", "c"], [["a"], "b"], ["a", ["b"]]),
    *(range(3), range(0, 3, 2), slice(3), slice(3, None), slice(1, 3)),
    *(Color.RED, Color.BLUE, Paint.RED, Size.SMALL, Way.UP, Way.UP | Way.DOWN, Color, Paint),
    *(Point(), Point(1), Point(0, 1), Fixed(), Fixed(1), Slotted(), Slotted(1), Slotted(0, [1])),
    *(Point(Point()), Point([Point()]), Pair(1, 2), Pair(2, 1), Model(), Model(x=1)),
    *(Names(), Names("ab"), Names("ac"), Holder(1), Holder(2), Holder([1]), Holder(Holder(1))),
    *(Path("a"), Path("b"), PurePosixPath("a"), PureWindowsPath("a"), Path("/a"), Path("a/b")),
    *(dt.date(2020, 1, 1), NAIVE, dt.time(1), dt.timedelta(1), NAIVE.replace(fold=1)),
    dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
    *(dt.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")), dt.timezone(dt.timedelta(hours=1))),
    *(Decimal(1), Decimal("1.0"), Decimal("1.00"), Decimal("-0"), Decimal("NaN"), Fraction(1, 2)),
    *(
        uuid.UUID(int=1),
        uuid.UUID(int=2),
        ipaddress.ip_address("::1"),
        ipaddress.ip_network("::/8"),
    ),
    *(re.compile("a"), re.compile("a", re.IGNORECASE), re.compile("b"), re.compile(b"a")),
    *(deque(), deque([1]), deque([1], 3), array("i", [1]), array("l", [1]), array("d", [1])),
    *(OrderedDict(a=1, b=2), OrderedDict(b=2, a=1), defaultdict(int), defaultdict(list)),
    *(defaultdict(int, a=1), Counter("ab"), Counter("abb"), ChainMap({}), ChainMap({}, {})),
    *(types.SimpleNamespace(), types.SimpleNamespace(a=1), types.MappingProxyType({})),
    *(types.MappingProxyType({"a": 1}), list[int], list[str], int | str, int | None),
    *(int, str, list, Holder, Point, ValueError, ValueError("a"), ValueError("b"), KeyError("a")),
    *(len, sorted, math.sin, math.cos, "".join, ",".join, str.upper, str.lower, operator.add),
    *(operator.itemgetter(1), operator.itemgetter(2), operator.attrgetter("a"), json, math),
    *(one, two, same_as_one, adds(1), adds(2), adds("1"), lambda x: x, lambda y: y, lambda: 0),
    *(property(one), property(one, one), property(one, two), property(one, two, one)),
    *(staticmethod(one), classmethod(one)),
    *(memoryview(np.zeros(2)), memoryview(np.zeros(2, "i8")), memoryview(np.zeros((2, 1)))),
    *(functools.partial(one), functools.partial(one, 1), functools.partial(one, x=1)),
    *(functools.partial(two, 1), Holder(1).get, Holder(1).other, Holder(2).get, [].append),
    *(functools.lru_cache(one), functools.lru_cache(two), json.dumps, json.dump),
    *(np.float64(1), np.float32(1), np.int64(1), np.int32(1), np.bool_(True), np.str_("a")),
    *(np.datetime64("2020"), np.datetime64("2020", "D"), np.datetime64("NaT"), np.timedelta64(1)),
    *(np.dtype("f8"), np.dtype("f4"), RECORD, np.float64, np.mean, np.std, np.add, np.subtract),
    *(
        np.zeros(0),
        np.zeros((0, 2)),
        np.zeros((2, 0)),
        np.zeros(()),
        np.ones(()),
        np.zeros(0, "i8"),
    ),
    *(np.zeros(2), np.zeros(2, "f4"), np.zeros(2, ">f8"), np.zeros(2, "i8"), np.zeros((2, 1))),
    *(np.zeros((1, 2)), np.array([0.0, -0.0]), np.array([0, 1]), np.array([1, 0])),
    *(np.array(["a", "b"]), np.array(["a", "b"], "U5"), np.array([b"a", b"b"]), np.array([True])),
    *(np.array([1, "a"], object), np.array([1, "b"], object), np.array([[1], [2]], object)),
    *(
        np.array([1, None], object),
        np.array(None, object),
        np.zeros(2, RECORD),
        np.zeros(3, RECORD),
    ),
    *(np.zeros(2, "V0"), np.zeros(3, "V0"), np.zeros(2, "V2"), np.array(["2020"], "M8[D]")),
    *(np.array(["2020"], "M8[s]"), np.array(["a"], np.dtypes.StringDType())),
    *(np.array(["b"], np.dtypes.StringDType()), np.arange(6).reshape(2, 3), np.arange(6)),
    *(
        np.arange(6).reshape(3, 2),
        np.arange(6).reshape(2, 3).T,
        np.arange(12)[::2],
        np.arange(5, -1, -1),
    ),
    *(
        np.ma.array([1, 2], mask=[0, 1]),
        np.ma.array([1, 2], mask=[1, 0]),
        np.array([[1]]).view(np.matrix),
    ),
    *(np.zeros(1, np.dtype({"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [0, 2]})),),
    *(
        pd.DataFrame(),
        pd.DataFrame({"a": [1]}),
        pd.DataFrame({"b": [1]}),
        pd.DataFrame({"a": [1.0]}),
    ),
    *(pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [1, 2]}, index=[1, 0])),
    *(pd.DataFrame({"a": ["x"]}), pd.DataFrame({"a": ["y"]}), pd.DataFrame({"a": [1], "b": ["x"]})),
    *(
        pd.Series([1]),
        pd.Series([1], name="a"),
        pd.Series(["x"]),
        pd.Series(["x"], dtype="category"),
    ),
    *(pd.Series([1, None], dtype="Int64"), pd.Index([1]), pd.Index(["a"]), pd.Timestamp("2020")),
    *(pd.Timestamp("2020", tz="UTC"), pd.date_range("2020", periods=2), pd.NaT, pd.NA),
]


def estimators() -> list[Any]:
    """Return more that are all different; scikit-learn takes a second to import."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return [
        Ridge(),
        Ridge(alpha=2),
        Ridge().fit(np.eye(3), np.arange(3.0)),
        LogisticRegression(),
        make_pipeline(StandardScaler(), Ridge()),
        make_pipeline(StandardScaler(), Ridge(alpha=2)),
        Ridge,
        StandardScaler(),
    ]


def frame() -> pd.DataFrame:
    return pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5], "c": ["x", "y"]})


# Equal though they were made in other ways.
EQUAL: list[tuple[Any, Any]] = [
    ({3, 1, 2}, {1, 2, 3}),
    (set("abcdefgh"), set("hgfedcba")),
    (Names("abcdefgh"), Names("hgfedcba")),
    (frozenset({(1,), (2,)}), frozenset({(2,), (1,)})),
    ([math.nan], [float("nan")]),
    (["ab"[:1]], ["a"]),
    ([(1,)] * 5, [tuple(item) for item in [[1]] * 5]),
    ([0] * 40 + [Holder(1)], [0] * 40 + [Holder(1)]),
    (Point([1]), Point(x=[1], y=0)),
    (adds(1), adds(1)),
    (Holder(1).get, Holder(1).get),
    (np.arange(10)[::2], np.arange(0, 10, 2)),
    (np.arange(6).reshape(2, 3).T, np.arange(6).reshape(2, 3).T.copy(order="F")),
    (threading.Lock(), threading.Lock()),
    ([[1]] * 40, [[1] for _ in range(40)]),
    ([Point()] * 40, [Point() for _ in range(40)]),
    (np.array([1, "a"], object), np.array([1, "a"], object)),
    (frame(), frame().copy()),
    (frame(), frame().iloc[::-1].iloc[::-1].copy()),
    (Path("a//b/./c"), Path("a/b/c")),
    (Fraction(2, 4), Fraction(1, 2)),
    (Model(x=1), Model(x="1")),
]
