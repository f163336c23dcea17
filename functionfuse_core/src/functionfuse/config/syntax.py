"""Parse JSON, YAML and TOML into data, with the position of every key and value.

The parsers of JSON and TOML in the standard library give no positions. They check the text first.
Then `_Json` and `_Toml` walk through the valid text and record the positions, so they need not
check the syntax. PyYAML's events have positions: `_Yaml` builds the data from them, with the
scalars of YAML 1.2. `_Json` and `_Yaml` also refuse duplicate keys, as TOML does itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, NamedTuple, NoReturn

__all__ = [
    "DEEPEST",
    "Mark",
    "Marks",
    "Parsed",
    "Path",
    "SyntaxProblem",
    "add_key",
    "parse_json",
    "parse_toml",
    "parse_yaml",
    "position",
]


Path = tuple[str | int, ...]  # keys and indices that lead to a value
Mark = tuple[int, int]  # line and column, both from 1
Marks = dict[Path, tuple[Mark, Mark]]  # of the key (or the item itself), and of the value

DEEPEST = 100  # nested containers


class Parsed(NamedTuple):
    """The data of a text, and the positions of its parts."""

    data: Any
    marks: Marks


class SyntaxProblem(Exception):  # noqa: N818  # never leaves `source`
    """A text is not valid in its format. The message quotes only keys."""

    def __init__(self, message: str, mark: Mark) -> None:
        super().__init__(message)
        self.message = message
        self.mark = mark


def add_key(marks: Marks, found: dict[str, Any], path: Path, mark: Mark) -> None:
    """Record the position of a key. Raises SyntaxProblem if `found` has the key already."""
    key = path[-1]
    if key in found:
        line = marks[path][0][0]
        raise SyntaxProblem(f"the key {key!r} stands here again, after line {line}", mark)
    marks[path] = mark, mark


def position(text: str, offset: int) -> Mark:
    """Return the line and column of an offset in a text."""
    before = text[:offset]
    return before.count("\n") + 1, offset - before.rfind("\n")


def parse_json(text: str) -> Parsed:
    """Parse JSON (RFC 8259). Raises SyntaxProblem if it is invalid or has a key twice."""
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
    """Builds the data of valid JSON, and records the positions."""

    space = re.compile(r"[ \t\n\r]*")
    scalar = re.compile(r"[^\s,\]}]+")

    def __init__(self, text: str) -> None:
        self.text = text
        self.marks: Marks = {}

    def document(self) -> Parsed:
        data, _ = self.value(self.skip(0), ())
        return Parsed(data, self.marks)

    def skip(self, offset: int) -> int:
        found = self.space.match(self.text, offset)
        return found.end() if found else offset

    def value(self, offset: int, path: Path) -> tuple[Any, int]:
        text, mark = self.text, position(self.text, offset)
        self.marks[path] = self.marks.get(path, (mark,))[0], mark
        if len(path) > DEEPEST:
            raise SyntaxProblem("nested too deeply", mark)
        if text[offset] == '"':
            string: tuple[str, int] = scanstring(text, offset + 1, True)
            return string
        if text[offset] not in "[{":
            scalar = self.scalar.match(text, offset)
            assert scalar is not None
            return json.loads(scalar.group()), scalar.end()
        items: list[Any] = []
        found: dict[str, Any] = {}
        is_list = text[offset] == "["
        offset = self.skip(offset + 1)
        while text[offset] not in "]}":
            if is_list:
                value, offset = self.value(offset, (*path, len(items)))
                items.append(value)
            else:
                key, end = scanstring(text, offset + 1, True)
                add_key(self.marks, found, (*path, key), position(text, offset))
                offset = self.skip(self.skip(end) + 1)  # the colon
                found[key], offset = self.value(offset, (*path, key))
            offset = self.skip(offset)
            if text[offset] == ",":
                offset = self.skip(offset + 1)
        return (items if is_list else found), offset + 1


def parse_yaml(text: str) -> Parsed:
    """Parse YAML with the scalars of its core schema 1.2: https://yaml.org/spec/1.2.2/#103.

    So `on` and `22:22` are strings and `010` is 10, unlike in YAML 1.1. Keys are unique strings.

    Raises:
        SyntaxProblem: it is invalid, or has parts that no config needs: tags, several documents.
    """
    import yaml

    # The events are enough, and the composer's recursion in C has no limit.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _Yaml(yaml.parse(text, Loader=loader)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = re.sub(r" ['\"](?!<)[^'\"]{2,}['\"]", "", error.problem or "no YAML")
        problem = SyntaxProblem(message, _mark(mark))
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        problem = SyntaxProblem("a character that YAML does not allow", position(text, len(before)))
    raise problem


class _Yaml:
    def __init__(self, events: Iterator[Any]) -> None:
        self.events = events
        self.marks: Marks = {}
        self.anchors: dict[str, Any] = {}
        self.anchored = 0

    def document(self) -> Parsed:
        import yaml

        next(self.events)
        event = next(self.events)
        if isinstance(event, yaml.StreamEndEvent):
            raise SyntaxProblem("the file is empty", (1, 1))
        data = self.value(next(self.events), ())
        next(self.events)
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise SyntaxProblem("a second document begins here", _mark(event.start_mark))
        return Parsed(data, self.marks)

    def value(self, event: Any, path: Path) -> Any:
        import yaml

        mark = _mark(event.start_mark)
        self.marks[path] = self.marks.get(path, (mark,))[0], mark
        if isinstance(event, yaml.AliasEvent):
            if self.anchored:
                raise SyntaxProblem("an alias within what has an anchor", mark)
            if event.anchor not in self.anchors:
                raise SyntaxProblem("an alias without an anchor (a text is quoted)", mark)
            return self.anchors[event.anchor]
        if event.tag is not None:
            raise SyntaxProblem("a tag, which no config needs (a text is quoted)", mark)
        if len(path) > DEEPEST:
            raise SyntaxProblem("nested too deeply", mark)
        self.anchored += event.anchor is not None
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = _yaml_scalar(event.value, mark) if event.implicit[0] else event.value
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self.sequence(path)
        else:
            value = self.mapping(path)
        if event.anchor is not None:
            self.anchored -= 1
            self.anchors[event.anchor] = value
        return value

    def sequence(self, path: Path) -> list[Any]:
        import yaml

        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.value(event, (*path, len(items))))
        return items

    def mapping(self, path: Path) -> dict[str, Any]:
        import yaml

        found: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            mark = _mark(event.start_mark)
            if not isinstance(event, yaml.ScalarEvent):
                raise SyntaxProblem("a key is a text", mark)
            add_key(self.marks, found, (*path, event.value), mark)
            found[event.value] = self.value(next(self.events), (*path, event.value))
        return found


_YAML_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_is_yaml_int = re.compile(r"[-+]?[0-9]+").fullmatch
_is_yaml_based = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+").fullmatch
_is_yaml_float = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?").fullmatch


def _yaml_scalar(text: str, mark: Mark) -> Any:
    if text in _YAML_WORDS:
        return _YAML_WORDS[text]
    try:
        if _is_yaml_int(text):
            return int(text)
        if _is_yaml_based(text):
            return int(text, 0)
    except ValueError:  # more digits than `int` accepts
        raise SyntaxProblem("a number with too many digits", mark) from None
    return float(text) if _is_yaml_float(text) else text


def _mark(mark: Any) -> Mark:
    return mark.line + 1, mark.column + 1


def parse_toml(text: str) -> Parsed:
    """Parse TOML 1.0. Raises SyntaxProblem if it is invalid."""
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
        # tomllib turns "\r\n" into "\n". `_Toml` skips both as white space.
        return Parsed(data, _Toml(text).document())
    raise problem


class _Toml:
    """Records the positions in valid TOML: https://toml.io/en/v1.0.0."""

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
        text, table, offset = self.text, (), self.after(self.blank, 0)
        base: Path = table
        while offset < len(text):
            if text[offset] == "[":
                base, offset = self.header(offset)
            else:
                offset = self.pair(offset, base)
            offset = self.after(self.blank, offset)
        return self.marks

    def after(self, pattern: re.Pattern[str], offset: int) -> int:
        found = pattern.match(self.text, offset)
        assert found is not None, f"no TOML at {offset}"
        return found.end()

    def header(self, offset: int) -> tuple[Path, int]:
        several = self.text.startswith("[[", offset)
        mark = position(self.text, offset)
        keys, offset = self.keys(offset + 1 + several)
        base: Path = ()
        for number, key in enumerate(keys):
            base = (*base, key)
            self.marks.setdefault(base, (mark, mark))
            if several and number == len(keys) - 1:
                self.lengths[base] = self.lengths.get(base, 0) + 1
            if base in self.lengths:
                base = (*base, self.lengths[base] - 1)
                self.marks.setdefault(base, (mark, mark))
        return base, self.after(self.spaces, offset) + 1 + several

    def keys(self, offset: int) -> tuple[list[str], int]:
        """Read a dotted key; return its parts and its end offset."""
        import tomllib

        keys = []
        while True:
            offset = self.after(self.spaces, offset)
            quoted = self.text[offset] in "\"'"
            end = self.after(self.string if quoted else self.bare, offset)
            part = self.text[offset:end]
            keys.append(next(iter(tomllib.loads(f"{part} = 0"))) if quoted else part)
            offset = self.after(self.spaces, end)
            if self.text[offset] != ".":
                return keys, offset
            offset += 1

    def pair(self, offset: int, base: Path) -> int:
        mark = position(self.text, offset)
        keys, offset = self.keys(offset)
        for key in keys:
            base = (*base, key)
            self.marks.setdefault(base, (mark, mark))
        return self.value(self.after(self.spaces, offset + 1), base)  # after the "="

    def value(self, offset: int, path: Path) -> int:
        text, mark = self.text, position(self.text, offset)
        self.marks[path] = self.marks.get(path, (mark,))[0], mark
        if text[offset] in "\"'":
            return self.after(self.string, offset)
        if text[offset] not in "[{":
            return self.after(self.scalar, offset)
        count, is_list = 0, text[offset] == "["
        offset = self.after(self.blank, offset + 1)
        while text[offset] not in "]}":
            offset = self.value(offset, (*path, count)) if is_list else self.pair(offset, path)
            count += 1
            offset = self.after(self.blank, offset)
            if text[offset] == ",":
                offset = self.after(self.blank, offset + 1)
        return offset + 1
