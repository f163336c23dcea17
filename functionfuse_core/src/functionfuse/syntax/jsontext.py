"""JSON texts as data, with the position of every key and value."""

from __future__ import annotations

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, NoReturn

from .marks import DEEPEST, Marks, Parsed, Path, SyntaxProblem, add_key, position

__all__ = ["parse_json"]


def parse_json(text: str) -> Parsed:
    """Parse JSON (RFC 8259). Raises SyntaxProblem: it is none, or has a key twice."""
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        problem = SyntaxProblem(error.msg, (error.lineno, error.colno))
    except RecursionError:
        problem = SyntaxProblem("nested too deeply", (1, 1))
    except ValueError:
        problem = SyntaxProblem("a number that JSON does not have", (1, 1))
    else:
        return _Json(text).document()
    raise problem


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError


class _Json:
    """Goes through a text that is known to be JSON, for the positions."""

    space = re.compile(r"[ \t\n\r]*")
    scalar = re.compile(r"[^\s,\]}]+")

    def __init__(self, text: str) -> None:
        self.text = text
        self.marks: Marks = {}

    def document(self) -> Parsed:
        data, _ = self.value(self.skip(0), ())
        return Parsed(data, self.marks)

    def skip(self, place: int) -> int:
        found = self.space.match(self.text, place)
        return found.end() if found else place

    def value(self, place: int, path: Path) -> tuple[Any, int]:
        text, mark = self.text, position(self.text, place)
        self.marks[path] = self.marks.get(path, (mark,))[0], mark
        if len(path) > DEEPEST:
            raise SyntaxProblem("nested too deeply", mark)
        if text[place] == '"':
            string: tuple[str, int] = scanstring(text, place + 1, True)
            return string
        if text[place] not in "[{":
            scalar = self.scalar.match(text, place)
            assert scalar is not None
            return json.loads(scalar.group()), scalar.end()
        items: list[Any] = []
        found: dict[str, Any] = {}
        is_list = text[place] == "["
        place = self.skip(place + 1)
        while text[place] not in "]}":
            if is_list:
                value, place = self.value(place, (*path, len(items)))
                items.append(value)
            else:
                key, end = scanstring(text, place + 1, True)
                add_key(self.marks, found, (*path, key), position(text, place))
                place = self.skip(self.skip(end) + 1)  # the colon
                found[key], place = self.value(place, (*path, key))
            place = self.skip(place)
            if text[place] == ",":
                place = self.skip(place + 1)
        return (items if is_list else found), place + 1
