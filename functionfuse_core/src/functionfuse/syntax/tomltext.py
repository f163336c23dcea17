"""TOML texts as data, with the position of every key and value."""

from __future__ import annotations

import re

from .marks import Marks, Parsed, Path, SyntaxProblem, position

__all__ = ["parse_toml"]


def parse_toml(text: str) -> Parsed:
    """Parse TOML 1.0. Raises SyntaxProblem: it is none."""
    import tomllib

    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"^(.*) \(at (?:line (\d+), column (\d+)|end of document)\)$", str(error))
        mark = (int(found[2]), int(found[3])) if found and found[2] else position(text, len(text))
        message = re.sub(r" ?['\"].*['\"]", "", found[1] if found else "no TOML")
        problem = SyntaxProblem(message, mark)
    except (RecursionError, ValueError):
        problem = SyntaxProblem("nested too deeply, or a number with too many digits", (1, 1))
    else:
        # tomllib joins "\r\n"; in the text, it is white space like any other.
        return Parsed(data, _Toml(text).document())
    raise problem


class _Toml:
    """Goes through a text that is known to be TOML, for the positions: https://toml.io/en/v1.0.0."""

    blank = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
    spaces = re.compile(r"[ \t]*")
    bare = re.compile(r"[A-Za-z0-9_-]+")
    string = re.compile(
        r'"""(?:\\.|[^\\])*?"{3,5}(?!")'
        r"|'''.*?'{3,5}(?!')"
        r'|"(?:\\.|[^"\\])*"'
        r"|'[^']*'",
        re.DOTALL,
    )
    scalar = re.compile(r"\d{4}-\d\d-\d\d \d\d:[^\s,\]}#]+|[^\s,\]}#]+")

    def __init__(self, text: str) -> None:
        self.text = text
        self.marks: Marks = {(): ((1, 1), (1, 1))}
        self.lengths: dict[Path, int] = {}  # of arrays of tables

    def document(self) -> Marks:
        text, table, place = self.text, (), self.after(self.blank, 0)
        base: Path = table
        while place < len(text):
            if text[place] == "[":
                base, place = self.header(place)
            else:
                place = self.pair(place, base)
            place = self.after(self.blank, place)
        return self.marks

    def after(self, pattern: re.Pattern[str], place: int) -> int:
        found = pattern.match(self.text, place)
        assert found is not None, f"no TOML at {place}"
        return found.end()

    def header(self, place: int) -> tuple[Path, int]:
        several = self.text.startswith("[[", place)
        mark = position(self.text, place)
        keys, place = self.keys(place + 1 + several)
        base: Path = ()
        for number, key in enumerate(keys):
            base = (*base, key)
            self.marks.setdefault(base, (mark, mark))
            if several and number == len(keys) - 1:
                self.lengths[base] = self.lengths.get(base, 0) + 1
            if base in self.lengths:
                base = (*base, self.lengths[base] - 1)
                self.marks.setdefault(base, (mark, mark))
        return base, self.after(self.spaces, place) + 1 + several

    def keys(self, place: int) -> tuple[list[str], int]:
        """Read a dotted key; return its parts, and where it ends."""
        import tomllib

        keys = []
        while True:
            place = self.after(self.spaces, place)
            quoted = self.text[place] in "\"'"
            end = self.after(self.string if quoted else self.bare, place)
            part = self.text[place:end]
            keys.append(next(iter(tomllib.loads(f"{part} = 0"))) if quoted else part)
            place = self.after(self.spaces, end)
            if self.text[place] != ".":
                return keys, place
            place += 1

    def pair(self, place: int, base: Path) -> int:
        mark = position(self.text, place)
        keys, place = self.keys(place)
        for key in keys:
            base = (*base, key)
            self.marks.setdefault(base, (mark, mark))
        return self.value(self.after(self.spaces, place + 1), base)  # after the "="

    def value(self, place: int, path: Path) -> int:
        text, mark = self.text, position(self.text, place)
        self.marks[path] = self.marks.get(path, (mark,))[0], mark
        if text[place] in "\"'":
            return self.after(self.string, place)
        if text[place] not in "[{":
            return self.after(self.scalar, place)
        count, is_list = 0, text[place] == "["
        place = self.after(self.blank, place + 1)
        while text[place] not in "]}":
            place = self.value(place, (*path, count)) if is_list else self.pair(place, path)
            count += 1
            place = self.after(self.blank, place)
            if text[place] == ",":
                place = self.after(self.blank, place + 1)
        return place + 1
