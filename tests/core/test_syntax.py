"""Texts as data with positions: YAML with the scalars of version 1.2, JSON, TOML."""

from __future__ import annotations

import datetime as dt
import json
import math
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from functionfuse.config.syntax import Parsed, SyntaxProblem, parse_json, parse_toml, parse_yaml

YAML = """\
# a comment
storage:
  kind: file   # ü
  "options": {path: results, private: true}
serializers:
- a
-  b: [1, 2]
text: |
  two
  lines
"""
TOML = """\
reuse = "never"  # [no.table]
a.b = 'x'
[storage]
kind = "file"
options = { path = "x ] }", n = [1, [2,
  3], { z = 1979-05-27 07:32:00 }] }
[[many]]
"quo ted" = \"\"\"a
[b]\"\"\"\"\"
[[many]]
[many.sub]
z = 1
"""
JSON = """{"storage": {
  "kind": "f\\u00fc\\"e", "n": [1, {"b": -1.5e3}, []]},
"t": true}
"""


def paths(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(data, (dict, list)):
        for step, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from paths(value, (*path, step))


@pytest.mark.parametrize(
    ("parse", "text", "load"),
    [
        (parse_yaml, YAML, yaml.safe_load),
        (parse_toml, TOML, tomllib.loads),
        (parse_json, JSON, json.loads),
    ],
)
def test_everything_has_a_position(
    parse: Callable[[str], Parsed], text: str, load: Callable[[str], Any]
) -> None:
    """The data is what the usual libraries give, and every path of it stands somewhere."""
    data, marks = parse(text)
    assert load(text) == data
    assert sorted(paths(data), key=repr) == sorted(marks, key=repr)


@pytest.mark.parametrize(
    ("parse", "text", "path", "key", "value"),
    [
        (parse_yaml, YAML, ("storage",), (2, 1), (3, 3)),
        (parse_yaml, YAML, ("storage", "kind"), (3, 3), (3, 9)),
        (parse_yaml, YAML, ("storage", "options", "private"), (4, 30), (4, 39)),
        (parse_yaml, YAML, ("serializers", 0), (6, 3), (6, 3)),
        (parse_yaml, YAML, ("serializers", 1, "b", 1), (7, 11), (7, 11)),
        (parse_yaml, YAML, ("text",), (8, 1), (8, 7)),
        (parse_toml, TOML, ("reuse",), (1, 1), (1, 9)),
        (parse_toml, TOML, ("a", "b"), (2, 1), (2, 7)),
        (parse_toml, TOML, ("storage",), (3, 1), (3, 1)),
        (parse_toml, TOML, ("storage", "options", "n", 1, 1), (6, 3), (6, 3)),
        (parse_toml, TOML, ("storage", "options", "n", 2, "z"), (6, 9), (6, 13)),
        (parse_toml, TOML, ("many", 0, "quo ted"), (8, 1), (8, 13)),
        (parse_toml, TOML, ("many", 1, "sub", "z"), (12, 1), (12, 5)),
        (parse_json, JSON, ("storage", "kind"), (2, 3), (2, 11)),
        (parse_json, JSON, ("storage", "n", 1, "b"), (2, 35), (2, 40)),
        (parse_json, JSON, ("t",), (3, 1), (3, 6)),
    ],
)
def test_positions_are_lines_and_columns_from_one(
    parse: Callable[[str], Parsed], text: str, path: Any, key: Any, value: Any
) -> None:
    """Of the key, and of the value; of an item both are the same."""
    assert (key, value) == parse(text).marks[path]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("No", "No"),
        ("010", 10),
        ("22:22", "22:22"),
        ("1_000", "1_000"),
        ("2026-01-31", "2026-01-31"),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-1.", -1.0),
        ("0x1F", 31),
        ("0o17", 15),
        ("+12", 12),
        ("0b1", "0b1"),
        ("=", "="),
        ("<<", "<<"),
        ("true", True),
        ("FALSE", False),
        ("tRue", "tRue"),
        ("~", None),
        ("", None),
        ("null", None),
        ("-.INF", -math.inf),
        ("'1'", "1"),
        ('"true"', "true"),
    ],
)
def test_yaml_scalars_are_those_of_version_1_2(text: str, value: Any) -> None:
    """Nothing that looks like a text is something else."""
    data = parse_yaml(f"a: {text}\n").data["a"]
    assert (type(value), value) == (type(data), data)
    assert math.isnan(parse_yaml("a: .nan").data["a"])


def test_an_alias_stands_for_what_its_anchor_has() -> None:
    """Its parts have the alias's position; `<<` is a key like any other."""
    data, marks = parse_yaml("a: &x {b: 1}\nc: *x\nd: {<<: *x}\n")
    assert {"a": {"b": 1}, "c": {"b": 1}, "d": {"<<": {"b": 1}}} == data
    assert (2, 4) == marks["c",][1]


@pytest.mark.parametrize(
    ("parse", "text", "mark", "message"),
    [
        (parse_yaml, "", (1, 1), "the file is empty"),
        (parse_yaml, "# nothing\n", (1, 1), "the file is empty"),
        (parse_yaml, "a: 1\nb: 2\na: 3", (3, 1), "the key 'a' stands here again, after line 1"),
        (parse_yaml, "a: {b: 1, b: 2}", (1, 11), "the key 'b' stands here again, after line 1"),
        (parse_yaml, "a: [1\nb: 2", (2, 2), "did not find expected"),
        (parse_yaml, "ü: b: c", (1, 5), "mapping values are not allowed"),
        (parse_yaml, "a:\n\tb: 1", (2, 1), "found character that cannot start any token"),
        (parse_yaml, "a: *hunter2", (1, 4), "an alias without an anchor (a text is quoted)"),
        (parse_yaml, "a: !hunter2 x", (1, 4), "a tag, which no config needs (a text is quoted)"),
        (parse_yaml, "a: !!python/name:os.system x", (1, 4), "a tag, which no config"),
        (parse_yaml, "a: &x [*x]", (1, 8), "an alias within what has an anchor"),
        (parse_yaml, "? [a]\n: 1", (1, 3), "a key is a text"),
        (parse_yaml, "a: 1\n---\nb: 2", (2, 1), "a second document begins here"),
        (parse_yaml, "a: b\x01", (1, 5), "a character that YAML does not allow"),
        (parse_yaml, "[" * 200_000, (1, 102), "nested too deeply"),
        (parse_yaml, "a: " + "1" * 5000, (1, 4), "a number with too many digits"),
        (parse_json, "", (1, 1), "Expecting value"),
        (parse_json, '{"a": 1,\n"b": tru}', (2, 6), "Expecting value"),
        (parse_json, '{"a": 1,\n"a": 2}', (2, 1), "the key 'a' stands here again, after line 1"),
        (parse_json, '{"a": NaN}', (1, 1), "a number that JSON does not have"),
        (parse_json, "[" * 102 + "]" * 102, (1, 102), "nested too deeply"),
        (parse_json, "[" * 100_000, (1, 1), "nested too deeply"),
        (parse_toml, "a = 1\nb = ", (2, 5), "Invalid value"),
        (parse_toml, "a = 1\na = 2", (2, 6), "Cannot overwrite a value"),
        (parse_toml, "a = 'hunter2", (1, 13), "Expected"),
        (parse_toml, "a = " + "[" * 100_000, (1, 1), "nested too deeply"),
    ],
)
def test_problems_have_a_position_and_quote_no_values(
    parse: Callable[[str], Parsed], text: str, mark: Any, message: str
) -> None:
    """Whatever is wrong; a password without quotes is not in the message."""
    with pytest.raises(SyntaxProblem) as caught:
        parse(text)
    assert mark == caught.value.mark
    assert caught.value.message.startswith(message)
    assert "hunter2" not in str(caught.value)


keys = st.text(st.characters(codec="utf-8", exclude_characters="\x85"), max_size=5)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), keys)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)
)


@given(values, st.sampled_from([None, 1, "\t"]))
def test_any_json_is_read_as_json_reads_it(data: Any, indent: Any) -> None:
    """And everything in it has a position, at which it stands."""
    text = json.dumps(data, indent=indent)
    if "Infinity" in text:
        return
    parsed = parse_json(text)
    assert data == parsed.data
    assert set(paths(data)) == set(parsed.marks)
    lines = text.split("\n")
    for path, (_, (line, column)) in parsed.marks.items():
        value = data
        for step in path:
            value = value[step]
        assert lines[line - 1][column - 1 :].startswith(json.dumps(value)[:1])


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[\n" + ", # ]\n".join(map(toml, value)) + "]"
    return str(value) if isinstance(value, dt.datetime) else json.dumps(value)


words = st.text("ab\"'[]{}#=.,\\ \n", max_size=5)
toml_values = st.recursive(
    st.one_of(st.booleans(), st.integers(-9, 9), words, st.datetimes()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
)


@given(
    st.dictionaries(words, toml_values, max_size=4), st.dictionaries(words, toml_values, max_size=3)
)
def test_any_toml_has_positions(top: dict[str, Any], table: dict[str, Any]) -> None:
    """Keys, tables, arrays over several lines, and all kinds of strings."""
    lines = [f"{json.dumps(key)} = {toml(value)}" for key, value in top.items()]
    for _ in range(2):
        lines += ["[[tables]] # ]", *(f"{json.dumps(k)} = {toml(v)}" for k, v in table.items())]
    data, marks = parse_toml("\n".join(lines))
    assert {**top, "tables": [table, table]} == data
    assert set(paths(data)) == set(marks)
