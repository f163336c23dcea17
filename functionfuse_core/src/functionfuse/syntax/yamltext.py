"""YAML texts as data, with the position of every key and value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .marks import DEEPEST, Mark, Marks, Parsed, Path, SyntaxProblem, add_key, position

__all__ = ["parse_yaml"]


def parse_yaml(text: str) -> Parsed:
    """Parse YAML with the scalars of its core schema 1.2: https://yaml.org/spec/1.2.2/#103.

    `on`, `010` and `22:22` are not what YAML 1.1 made of them. Keys are texts, and different.

    Raises:
        SyntaxProblem: it is no YAML, or has what no config needs: tags, several documents.
    """
    import yaml

    # The events have all that is needed; the composer's recursion in C has no limit.
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
    except ValueError:  # more digits than Python takes
        raise SyntaxProblem("a number with too many digits", mark) from None
    return float(text) if _is_yaml_float(text) else text


def _mark(mark: Any) -> Mark:
    return mark.line + 1, mark.column + 1
