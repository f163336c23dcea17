"""A module that somebody allows: with what a hostile result could change in it."""

from __future__ import annotations

import enum
from collections import OrderedDict, UserDict
from types import ModuleType
from typing import Any, Self

PRICES = {"tea": 1}
NAMES = ["tea"]
WEIGHTS = bytearray(3)


class Cart:
    """A class with a method and attributes."""

    limits = [3]  # noqa: RUF012
    rules: dict[str, int] = {"most": 3}  # noqa: RUF012

    def total(self) -> int:
        return 1

    @classmethod
    def made(cls) -> Cart:
        return cls()


class Slotted:
    """A class with slots."""

    __slots__ = ("price",)


class Color(enum.Enum):
    """Its members are shared."""

    RED = 1


class Registry(OrderedDict[str, int]):
    """A dictionary of which there is one."""

    def __new__(cls) -> Self:
        return REGISTRY  # type: ignore[return-value]


class Only:
    """A class with one object."""

    def __new__(cls) -> Self:
        return ONLY  # type: ignore[return-value]


class Prices:
    """A class that gives another's dictionary."""

    def __new__(cls) -> Any:
        return PRICES


class Names(list[str]):
    """A list of an own class."""


class Settings(UserDict[str, int]):
    """Keeps its items in another dictionary."""


class Forwards:
    """An object that has what is put into it also as its `append`."""

    put: Any

    def __getattr__(self, name: str) -> Any:
        if name == "append":
            return self.put
        raise AttributeError(name)


class Counted(dict[str, Any]):
    """A dictionary with attributes."""


REGISTRY: Registry = OrderedDict.__new__(Registry)
ONLY = object.__new__(Only)
CART = Cart()
SETTINGS = Settings()
add = NAMES.append
put = SETTINGS.update


def price(count: int, factor: int = 2) -> int:
    return count * factor


def price_list() -> dict[str, int]:
    return PRICES


def names() -> list[str]:
    return NAMES


def weights() -> bytearray:
    return WEIGHTS


def pairs(*pair: Any) -> list[Any]:
    return [pair]


def cart() -> Cart:
    return CART


def kind() -> type[Cart]:
    return Cart


def pricing() -> Any:
    return price


def module() -> ModuleType:
    import shop

    return shop


def same(given: Any) -> Any:
    return given


def fresh() -> Any:
    return [{}, Cart()][1]


def state() -> str:
    """Return all that a hostile result could have changed."""
    classes = [
        {name: repr(value) for name, value in vars(one).items() if name != "__doc__"}
        for one in (Cart, Slotted, Color, Registry, Only, Names, Settings)
    ]
    functions = [(one.__defaults__, one.__code__, one.__name__, vars(one)) for one in (price, same)]
    held = [PRICES, NAMES, WEIGHTS, dict(REGISTRY), vars(ONLY), vars(CART), SETTINGS.data]
    members = {k: v for k, v in vars(Color.RED).items() if k != "__objclass__"}
    return repr([classes, functions, held, members, price(10), Cart().total(), sorted(globals())])
