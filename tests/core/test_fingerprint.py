"""Digests of values: equal for what is equal, different for what differs, in every process."""

from __future__ import annotations

import copy
import copyreg
import json
import math
import os
import pickle
import subprocess
import sys
import threading
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import fingerprint_values as values
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from functionfuse import workflow
from functionfuse.errors import FingerprintError, FunctionFuseError
from functionfuse.reuse.identity import Identities
from functionfuse.reuse.values import Writer, digest_of

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"

# Literals, nested.

numbers = st.one_of(
    st.sampled_from([0, 1, True, False, 0.0, -0.0, 1.0, math.nan, math.inf, -math.inf, 0j, -0j]),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
)
texts = st.one_of(
    st.sampled_from(["", "0", "1", "True", b"", b"0", b"1"]),
    st.text(st.characters(codec=None), max_size=4),
    st.binary(max_size=4),
)
keys = st.one_of(st.none(), numbers, texts, st.tuples(st.integers(0, 2)))
literals = st.recursive(
    st.one_of(st.none(), st.just(...), numbers, texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=2).map(tuple),
        st.lists(st.one_of(numbers, texts), min_size=30, max_size=34),
        st.dictionaries(keys, inner, max_size=3),
        st.sets(keys, max_size=3),
        st.frozensets(keys, max_size=3),
    ),
    max_leaves=8,
)


def exact(value: Any) -> Any:
    """Return something hashable that is equal for literals of equal types and bits only."""
    kind = type(value).__name__
    if isinstance(value, float):
        return kind, value.hex()
    if isinstance(value, complex):
        return kind, value.real.hex(), value.imag.hex()
    if isinstance(value, (list, tuple)):
        return kind, tuple(map(exact, value))
    if isinstance(value, (set, frozenset)):
        return kind, tuple(sorted(map(repr, map(exact, value))))
    if isinstance(value, dict):
        return kind, tuple((exact(key), exact(item)) for key, item in value.items())
    return kind, value


def mixed(value: Any, reverse: bool) -> Any:
    """Return a copy, with sets filled in another order."""
    step = -1 if reverse else 1
    if isinstance(value, dict):
        pairs = [(mixed(key, reverse), mixed(item, reverse)) for key, item in value.items()]
        return dict(pairs)
    if isinstance(value, (list, tuple)):
        return type(value)([mixed(item, reverse) for item in value])
    if isinstance(value, (set, frozenset)):
        return type(value)([mixed(item, reverse) for item in value][::step])
    return value


@pytest.mark.battery
@settings(
    max_examples=4000 if FULL else 120, deadline=None, suppress_health_check=list(HealthCheck)
)
@given(literals, literals)
def test_literals_are_equal_when_types_and_bits_are(first: Any, second: Any) -> None:
    """Never the same digest for two literals that differ, however deep."""
    assert (exact(first) == exact(second)) == (digest_of(first) == digest_of(second))


@pytest.mark.battery
@settings(max_examples=2000 if FULL else 80, deadline=None, suppress_health_check=list(HealthCheck))
@given(literals)
def test_copies_are_equal(value: Any) -> None:
    """Made again in another order of sets, a literal has the same digest."""
    assert digest_of(value) == digest_of(mixed(value, reverse=True))
    assert digest_of(value) == digest_of(copy.deepcopy(value))


small = st.sampled_from([0, 1, True, 1.0, -0.0, 0.0, "1", "", b"1", None, math.nan])


@pytest.mark.battery
@settings(max_examples=3000 if FULL else 120, deadline=None)
@given(st.lists(small, max_size=3), st.lists(small, max_size=3))
def test_typed_literals_never_collide(first: list[Any], second: list[Any]) -> None:
    """Short lists of what Python takes for equal."""
    for kind in (list, tuple, lambda items: dict(enumerate(items)), lambda items: [items] * 40):
        made = kind(first), kind(second)
        assert (exact(made[0]) == exact(made[1])) == (digest_of(made[0]) == digest_of(made[1]))


@pytest.mark.battery
@settings(max_examples=1000 if FULL else 50, deadline=None)
@given(st.dictionaries(st.text(max_size=3), st.integers(0, 2), max_size=3), st.data())
def test_arguments_never_run_into_each_other(arguments: dict[str, int], data: Any) -> None:
    """Whatever keywords are named, no two calls of different arguments are the same."""

    @workflow
    def function(*args: Any, **kwargs: Any) -> None: ...

    others = st.dictionaries(
        st.sampled_from(["", "a", "*0", "a=i1;b", "1:a=i1;1:b", *arguments]),
        st.integers(0, 2),
        max_size=3,
    )
    other, identities = data.draw(others), Identities({})
    same = identities.own(function(**arguments)) == identities.own(function(**other))
    assert (list(arguments.items()) == list(other.items())) == same
    assert identities.own(function(a=1, b=2)) != identities.own(function(**{"a=i1;b": 2}))
    other.pop("*0", None)
    assert identities.own(function(1, **arguments)) != identities.own(
        function(**other, **{"*0": 1})
    )


def test_arguments_by_place_are_no_keywords() -> None:
    """Not even one that is named as the place would be."""

    @workflow
    def function(*args: Any, **kwargs: Any) -> None: ...

    own = Identities({}).own
    calls = function(1, 2), function(1, **{"*1": 2}), function(**{"*0": 1, "*1": 2})
    assert 3 == len({own(call) for call in calls})


def test_an_argument_that_changed_is_found_in_any_order_of_the_call() -> None:
    """Also if an argument by keyword has the name of one by place."""

    @workflow
    def function(first: Any, /, b: Any, *, a: Any, **others: Any) -> None: ...

    for changed, name in enumerate(("first", "b", "a", "first")):
        for others in (0, [0]):
            arguments: list[Any] = [copy.copy(others) for _ in range(4)]
            arguments[changed] = [1]
            node = function(arguments[0], b=arguments[1], a=arguments[2], first=arguments[3])
            identities = Identities({})
            before = identities.own(node)
            assert "" == identities.changed(node)
            arguments[changed].append(2)
            assert f"argument {name!r}" == identities.changed(node)
            assert before != Identities({}).own(node)


# All other values.


def test_different_values_are_different() -> None:
    """Of all pairs in the table."""
    found = defaultdict(list)
    for value in [*values.DIFFERENT, *values.estimators()]:
        found[digest_of(value)].append(value)
    assert [] == [same for same in found.values() if len(same) > 1]


@pytest.mark.parametrize("pair", values.EQUAL, ids=[str(type(a).__name__) for a, _ in values.EQUAL])
def test_equal_values_are_equal(pair: tuple[Any, Any]) -> None:
    assert digest_of(pair[0]) == digest_of(pair[1])


def test_equal_estimators_are_equal() -> None:
    """In whichever way their parameters were set."""
    _, ridge, *_ = values.estimators()
    assert digest_of(ridge) == digest_of(type(ridge)().set_params(alpha=2))


def test_what_pickle_gives_back_is_equal() -> None:
    """As far as a value can be pickled, and is no code."""
    count = 0
    for value in [*values.DIFFERENT, *values.estimators()]:
        try:
            again = pickle.loads(pickle.dumps(value))
        except (pickle.PicklingError, AttributeError, TypeError):
            continue
        if np.ma.isMA(value) or getattr(value, "dtype", None) != getattr(again, "dtype", None):
            continue  # numpy's own doing, as is a masked array's fill value
        assert digest_of(value) == digest_of(again), value
        count += 1
    assert count > 200


def test_another_process_with_another_hash_seed_agrees() -> None:
    """The digests of the table are the same there."""
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    program = (
        "import json, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import fingerprint_values as values\n"
        "from functionfuse.reuse.values import Writer, digest_of\n"
        "different = [*values.DIFFERENT, *values.estimators()]\n"
        "print(json.dumps([digest_of(value).hex() for value in different]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(Path(values.__file__).parent)],
        capture_output=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": seed},
    )
    different = [*values.DIFFERENT, *values.estimators()]
    digests = [digest_of(value).hex() for value in different]
    assert json.loads(done.stdout) == digests


def test_exceptions_are_what_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has looked at their attributes, and whatever changes how they are pickled."""
    expected, seen = digest_of(ValueError("a")), ValueError("a")
    assert {} == vars(seen)
    assert expected == digest_of(seen)
    monkeypatch.setitem(copyreg.dispatch_table, ValueError, lambda error: (ValueError, ("b",)))
    assert expected == digest_of(ValueError("a"))
    seen.code = 1  # type: ignore[attr-defined]
    assert expected != digest_of(seen)


def test_sharing_makes_no_difference() -> None:
    """One object twice, or two equal ones."""
    shared = values.Holder([1])
    assert digest_of([shared, shared]) == digest_of([values.Holder([1]), values.Holder([1])])
    row = [0, (1,)]
    assert digest_of([row] * 30) == digest_of([[0, (1,)] for _ in range(30)])


def test_what_is_unordered_is_written_item_by_item() -> None:
    """No item is written otherwise because another one came before it."""
    first, second = values.Holder(1), values.Holder(2)
    for items in (
        [((first,) * 40,), ((second,) * 40,)],  # objects that are met again and again
        [values.one, (values.two, values.one), (values.one,)],  # code that both refer to
    ):
        found = set()
        for order in (items, items[::-1]):
            writer = Writer()
            writer._unordered(b"S", order)
            found.add(writer.digest())
        assert 1 == len(found)


# Shapes that could go wrong.


def test_cyclic_containers() -> None:
    """They end, and what differs behind a cycle still counts."""
    first, second, other = [1], [1], [2]
    for items in (first, second, other):
        items.append(items)
    assert digest_of(first) == digest_of(second) != digest_of(other)
    table: dict[str, Any] = {"a": 1}
    table["self"] = [table]
    assert digest_of(table) != digest_of({"a": 1, "self": [{"a": 1}]})
    holder = values.Holder(None)
    holder.content = {"me": holder}
    assert digest_of(holder) != digest_of(values.Holder(None))


def test_two_cycles_differ() -> None:
    """Where a cycle closes is part of the value."""
    outer: list[Any] = [[]]
    outer[0].append(outer)
    inner: list[Any] = [[]]
    inner[0].append(inner[0])
    assert digest_of(outer) != digest_of(inner)


def test_many_objects_that_refer_to_each_other() -> None:
    """Each is written some times, not once for each way that leads to it."""

    def graph(last: int) -> list[Any]:
        nodes = [values.Holder([number]) for number in range(40)]
        for node in nodes:
            node.content += [other for other in nodes if other is not node]
        nodes[-1].content[0] = last
        return nodes

    assert digest_of(graph(1)) == digest_of(graph(1)) != digest_of(graph(2))


def test_a_structure_that_shares_itself_over_and_over() -> None:
    """2**100 ways lead to the innermost list."""

    def tower(bottom: int) -> Any:
        value: Any = [bottom]
        for _ in range(100):
            value = [value, value]
        return value

    assert digest_of(tower(1)) == digest_of(tower(1)) != digest_of(tower(2))


def test_deep_nesting_is_refused() -> None:
    """By an error of our own, which makes a node be computed; not by a crash."""
    value: Any = 0
    for _ in range(100_000):
        value = [value]
    with pytest.raises(FingerprintError, match="nested too deeply"):
        digest_of(value)
    while value:  # one by one: freeing it at once recurses
        value = value[0]


def test_what_has_no_state_to_be_told() -> None:
    """The error says what it was."""
    with Path(__file__).open() as file:
        for value, name in (
            (file, "TextIOWrapper"),
            ((x for x in ()), "generator"),
            ({"a": [threading.local()]}, "local"),
            (partial(print, file=file), "TextIOWrapper"),
        ):
            with pytest.raises(FingerprintError, match=name):
                digest_of(value)


def test_whatever_an_object_raises_is_an_error_of_ours() -> None:
    """A plan must not end by what a value does when it is looked at."""

    class Hostile:
        def __reduce_ex__(self, protocol: Any) -> Any:
            raise RuntimeError("no")

    class Proxy:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("no")

        def __call__(self) -> None: ...

    released = memoryview(b"a")
    released.release()
    for value in (Hostile(), Proxy(), released, [Hostile()], {Hostile()}, {"a": Hostile()}):
        with pytest.raises(FunctionFuseError):
            digest_of(value)


def test_large_arrays_are_told_by_every_byte() -> None:
    array = np.zeros(1 << 20, "u1")
    before = digest_of(array)
    for place in (0, 1 << 19, (1 << 20) - 1):
        array[place] = 1
        assert digest_of(array) != before
        array[place] = 0
    assert digest_of(array) == before


def test_memoryviews_of_any_format() -> None:
    """Also those that memoryview itself can't cast."""
    record = np.zeros(3, values.RECORD)
    assert digest_of(memoryview(record)) != digest_of(memoryview(np.zeros(4, values.RECORD)))
    every = memoryview(np.arange(6))[::2]
    assert digest_of(every) == digest_of(memoryview(np.arange(0, 6, 2)))
    assert digest_of(memoryview(np.arange(3.0))) != digest_of(memoryview(np.arange(3)))


# Replaced functions.


def test_functions_that_replace_others_are_told_apart() -> None:
    """Also those without a hash; and what the decorator said stays with the node."""

    class Adder:
        __hash__ = None  # type: ignore[assignment]

        def __init__(self, n: int) -> None:
            self.n = n

        def __call__(self, x: int) -> int:
            return x + self.n

    @workflow
    def plain(x: int) -> int:
        return x

    @workflow(ignore=["x"])
    def careless(x: int) -> int:
        return x

    first, second, third = plain(1), plain(1), careless(1)
    one, two = Adder(1), Adder(2)
    own = Identities({first: one, second: two, third: one}).own
    assert 3 == len({own(first), own(second), own(third)})
    assert own(first) == Identities({first: Adder(1)}).own(first)
    careful = careless(2)
    assert own(third) == Identities({careful: one}).own(careful)


def test_numpy_s_lazy_modules_count_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they are loaded makes no difference, nor that their functions are Cython's."""

    def draw() -> Any:
        return np.random.default_rng(1).normal(), np.random.__all__

    loaded = np.random is not None and digest_of(draw)
    monkeypatch.delattr(np, "random")
    assert loaded == digest_of(draw)
