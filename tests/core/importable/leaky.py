"""A module that somebody allows, and through which, as through most, others can be reached."""

from __future__ import annotations

import os
import pickle

__all__ = ["Point", "os", "pickle", "shift"]


class Point:
    """What results are allowed to be made of."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and self.x == other.x

    def __hash__(self) -> int:
        return hash(self.x)


def shift(point: Point, by: int) -> Point:
    """Return another point."""
    return Point(point.x + by)
