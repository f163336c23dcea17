"""Configs: each is accepted as the schema says, or is an error of ours that says where."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from functionfuse import config, workflow
from functionfuse.backends import workflow_factory
from functionfuse.errors import FunctionFuseError

SOUND: list[Any] = [
    {"kind": "file", "options": {"path": "x", "private": True}},
    {"storage": {"kind": "file", "options": {"path": "x", "durability": "fsync", "key": "k"}}},
    {"storage": {"kind": "file", "options": {"path": "x", "trust": {"allow": ["numpy"]}}}},
    {
        "storage": {"kind": "file", "options": {"path": "${SET}/x", "trust": "pickle"}},
        "serializers": [],
        "backend": {"kind": "local", "options": {"executor": "none", "workers": 2}},
        "reuse": "always",
    },
]
WORDS = ["", "file", "local", "kind", "options", "pth", "path", "${SET}", "${GONE:-x}", "$$", "on"]
WORDS += ["${GONE}", "$", "é\n\t", "true", "1e3", "always", "threads", "\0", "~", "x" * 300]
VALUES = [None, True, False, 0, -1, 2, 1.5, 10**40, [], {}, [1], {"a": {}}, ["x", None]]
LETTERS = "{}[]:,'\"\\\n\t &*!|>-?#%@`${}0aé\0\x7f\ud800"
PLACE = re.compile(r"c\.(yaml|json|toml):\d+:\d+: |the config file 'c\.")


@workflow
def one() -> int:
    return 1


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Iterate (container, key) of everything in a config."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        yield value, key
        if isinstance(item, (dict, list)):
            yield from places(item)


def change(rng: random.Random, data: Any) -> None:
    """Take something out of a config, rename it, put something else there, or something more."""
    container, key = rng.choice(list(places(data)))
    value = rng.choice([rng.choice(WORDS), copy.deepcopy(rng.choice(VALUES))])
    what = rng.randrange(4)
    if what == 0:
        del container[key]
    elif what == 1 and isinstance(container, dict):
        container[rng.choice([*WORDS, key[:-1], key.upper()])] = container.pop(key)
    elif what == 2 and isinstance(container, dict):
        container[rng.choice(WORDS)] = value
    else:
        container[key] = value


def toml(data: dict[str, Any]) -> str:
    """Write a config as TOML, as far as TOML has that."""

    def inline(value: Any) -> str:
        if isinstance(value, dict):
            pairs = (f"{json.dumps(key)} = {inline(item)}" for key, item in value.items())
            return "{" + ", ".join(pairs) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(inline, value)) + "]"
        return json.dumps(value)

    return "".join(f"{json.dumps(key)} = {inline(value)}\n" for key, value in data.items())


def test_configs_are_accepted_or_explained(
    full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: Any
) -> None:
    """Sound ones, changed in up to three places, or in up to three letters of their text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SET", "value")
    monkeypatch.delenv("GONE", raising=False)
    valid = jsonschema.Draft7Validator(config.schema()).is_valid
    rng: random.Random = counts.random
    for _ in range(100_000 if full else 400):
        data = copy.deepcopy(rng.choice(SOUND))
        for _ in range(rng.randrange(4)):
            if data:
                change(rng, data)
        suffix = rng.choice(["yaml", "json", "toml"])
        text = toml(data) if suffix == "toml" else json.dumps(data, indent=rng.choice([None, 1]))
        by_letter = rng.random() < 0.4
        for _ in range(rng.randrange(1, 4) if by_letter else 0):
            at = rng.randrange(len(text) + 1)
            text = text[:at] + rng.choice(["", rng.choice(LETTERS)]) + text[at + rng.randrange(2) :]
        path = tmp_path / f"c.{suffix}"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        counts.add("configs")
        problem = ""
        try:
            workflow_factory(path.name, one(), workflow_name="w")
        except FunctionFuseError as error:
            problem = str(error)
        # A variable can be unset, and what it holds is not in the schema.
        sound = not by_letter and "$" not in text and suffix != "toml" and valid(data)
        assert not (sound and problem), f"{problem}\n{text}"
        assert not problem or PLACE.match(problem), f"{problem}\n{text}"
        counts.add("explained" if problem else "accepted")
