"""Classes and functions of a project, for results that refer to them."""

from __future__ import annotations

import enum
from collections import UserDict
from dataclasses import dataclass


@dataclass
class Model:
    weight: object = None


@dataclass
class Other:
    weight: object = None


@dataclass
class Graph:
    """Its name ends in a byte that is an opcode."""

    nodes: object = None


@dataclass
class Ìndice:  # noqa: PLC2401  # in its UTF-8 there is a byte that is the opcode of a text
    """Its name is not ASCII."""

    weight: object = None


class Outer:
    class Inner:
        class Innermost:
            pass

    @staticmethod
    def method(number: int) -> int:
        return number


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Table(UserDict[object, object]):
    pass


class _Missing:
    def __reduce__(self) -> str:
        return "MISSING"


class _Nameless(_Missing):
    __module__ = None  # type: ignore[assignment]  # then pickle looks for who has it

    def __reduce__(self) -> str:
        return "NAMELESS"


MISSING = _Missing()
NAMELESS = _Nameless()


def double(number: int) -> int:
    return 2 * number


long_name = type("Long" + 300 * "g", (), {"__module__": __name__})
globals()[long_name.__name__] = long_name
