"""Comparisons of real runs against a model: random edits of random graphs."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from result_bytes import MemoryStore

from functionfuse import workflow
from functionfuse.storage import Storage
from functionfuse.storage.runs import RunRecord
from run_records import last, made

FUNCTIONS: list[Callable[..., Any]] = []
for _number in range(4):
    _space: dict[str, Any] = {}
    exec(
        f"def step(x, *others, a=0, b=0):\n    return x * {_number + 2} + a - b + sum(others)\n",
        _space,
    )
    _space["step"].__module__ = __name__
    FUNCTIONS.append(_space["step"])


def evaluated(spec: dict[str, Any]) -> dict[str, int]:
    values: dict[str, int] = {}
    for name, (function, parents, arguments) in spec.items():
        values[name] = FUNCTIONS[function](1, *(values[p] for p in parents), **arguments)
    return values


def run_of(spec: dict[str, Any], storage: Storage) -> RunRecord:
    nodes: dict[str, Any] = {}
    for name, (function, parents, arguments) in spec.items():
        called = STEPS[function]
        nodes[name] = called(1, *(nodes[p] for p in parents), **arguments).set_name(name)
    flow = made(storage, *nodes.values())
    values = evaluated(spec)
    found = flow.run()
    assert list(values.values()) == (found if len(nodes) > 1 else [found])
    return last(storage)


STEPS = [workflow(function) for function in FUNCTIONS]


def edited(spec: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    new = {name: (f, list(p), dict(a)) for name, (f, p, a) in spec.items()}
    for _ in range(chance.randrange(3)):
        name = chance.choice(list(new))
        _, parents, arguments = new[name]
        kind = chance.randrange(5)
        if kind == 0:
            arguments[chance.choice("ab")] = chance.randrange(3)
        elif kind == 1:
            new[name] = chance.randrange(4), parents, arguments
        elif kind == 2 and parents:
            earlier = list(new)[: list(new).index(name)]
            parents[0] = chance.choice(earlier)
        elif kind == 3:
            new[f"n{chance.randrange(100)}x"] = 0, [name], {"a": 1}
        elif kind == 4:
            needed = {parent for _, others, _ in new.values() for parent in others}
            new = {other: given for other, given in new.items() if other != name or name in needed}
    return new


@pytest.mark.parametrize("seed", range(12))
def test_what_changed_is_what_is_named(seed: int) -> None:
    """Random edits of random graphs: arguments, code and results are named, and nothing else."""
    chance, storage = random.Random(seed), Storage(MemoryStore())
    spec: dict[str, Any] = {}
    for number in range(6):
        parents = chance.sample(list(spec), min(len(spec), chance.randrange(3)))
        spec[f"n{number}"] = chance.randrange(4), parents, {"a": chance.randrange(3)}
    before = run_of(spec, storage)
    for _ in range(8):
        new = edited(spec, chance)
        after = run_of(new, storage)
        expected = set()
        was, now = evaluated(spec), evaluated(new)
        for name in {**new, **spec}:
            if name not in new or name not in spec:
                expected.add((name, "action", ""))
                continue
            (f1, p1, a1), (f2, p2, a2) = spec[name], new[name]
            expected |= {
                (name, "argument", key) for key in "ab" if a1.get(key, 0) != a2.get(key, 0)
            }
            longest = max(len(p1), len(p2))
            both = [[*p, *[None] * (longest - len(p))] for p in (p1, p2)]
            pairs = enumerate(zip(*both, strict=True))
            expected |= {(name, "argument", f"*{n}") for n, (x, y) in pairs if x != y}
            if f1 != f2:
                expected.add((name, "code", ""))
            if was[name] != now[name]:
                expected.add((name, "result", ""))
            if before[name].action != after[name].action:
                expected.add((name, "action", ""))
        changes = before.compare(after)
        assert expected == {(c.node, c.what, c.name) for c in changes}
        assert len(expected) == len(changes)
        for name in new:
            assert now[name] == after.read(name)
        for name in spec:
            assert was[name] == before.read(name)
        spec, before = new, after
