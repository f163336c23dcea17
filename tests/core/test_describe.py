"""What a result refers to: the project's names in its pickle, and a digest of the value."""

from __future__ import annotations

import os
import pickle
import pickletools
import subprocess
import sys
from collections import OrderedDict
from datetime import date
from fractions import Fraction
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import described_values as values
import kept_values
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functionfuse.reuse.described import described, describing
from functionfuse.reuse.values import digest_of
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.named import names_in
from functionfuse.storage.pickling import dumps

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
HERE = values.__name__
OF_PROJECT = {HERE, kept_values.__name__}


def exactly(data: bytes) -> list[tuple[str, str]]:
    """Return the globals that a pickle loads, by reading all of it."""
    memo: list[Any] = []
    pushed: list[Any] = []
    found = []
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "MEMOIZE":
            memo.append(pushed[-1])
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            pushed.append(memo[argument])
        elif opcode.name == "STACK_GLOBAL":
            found.append((pushed[-2], pushed[-1]))
            pushed.append(None)
        elif opcode.name != "FRAME":
            pushed.append(argument if "UNICODE" in opcode.name else None)
    return found


def missed(value: Any) -> set[str]:
    """Return which of the project's names in a value aren't found; a class has its nested ones."""
    pickled = dumps(value)
    found, _ = described(value, pickled)
    expected = {
        (module, name) for module, name in exactly(b"".join(pickled.frames)) if module in OF_PROJECT
    }
    return {
        f"{module}:{name}"
        for module, name in expected
        if not {f"{module}:{name}", f"{module}:{name.partition('.')[0]}"}.intersection(found)
    }


# Where texts are one object with a name of a class, the name is fetched from the memo.
words = st.sampled_from(
    [
        HERE,
        "Model",
        "Other",
        "Graph",
        "Color",
        "Outer",
        "Outer.Inner",
        "double",
        "MISSING",
        "NAMELESS",
    ]
    + [getattr(values, name).__module__ for name in ("Model", "double")]
    + [getattr(values, name).__qualname__ for name in ("Model", "Other", "Ìndice", "Color")]
    + [values.Outer.Inner.__qualname__, values.long_name.__qualname__]
) | st.just("x").map(lambda text: text * 70_000)
noise = st.builds(
    lambda parts, count: b"".join(parts) * count,
    st.lists(
        st.sampled_from([b"\x93\x94", b"\x94", b"\x93", b"\x8c\x05Model\x94", b"h\x01", b"\x95"])
        | st.binary(max_size=9),
        max_size=9,
    ),
    st.sampled_from([1, 300, 20_000]),
)
plain = (
    words
    | noise
    | noise.map(lambda data: data.decode("latin-1"))
    | st.integers()
    | st.text()
    | st.sampled_from([0x9394, -0x6B6C, 0x93949394])
    | st.sampled_from([Fraction(1, 3), date(2026, 1, 31), OrderedDict(a=1)])
)
single = st.sampled_from(
    [
        *(*values.Color, values.double, values.Outer.method, values.Model, values.Outer.Inner),
        *(values.Outer.Inner.Innermost(), values.MISSING, values.NAMELESS, values.Table(a=1)),
        *(values.long_name(), kept_values.Kept),
        *(np.arange(5), np.arange(500.0), np.array([values.Graph()], object)),
    ]
)
kinds = st.sampled_from([values.Model, values.Other, values.Graph, values.Ìndice])
anything = st.recursive(
    plain | single | st.builds(lambda kind: kind(), kinds),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.lists(inner, min_size=1, max_size=2).map(
            lambda items: [(items, n) for n in range(300)]
        )
        | st.dictionaries(words | st.text(), inner, max_size=6)
        | st.builds(lambda kind, state: kind(state), kinds, inner)
        | st.tuples(plain, inner, single)
    ),
    max_leaves=12,
)


@pytest.mark.battery
@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@settings(max_examples=1000 if FULL else 40, deadline=None)
@given(anything)
def test_no_name_of_the_project_is_missed(value: Any) -> None:
    """Whatever a value is made of: all that reading the whole pickle finds, the scan finds."""
    assert set() == missed(value)


def test_a_frame_may_begin_anywhere() -> None:
    """Pickles are written in frames of 64 KiB; one begins at each place around a name."""
    places = set()
    for padding in range(64_900, 65_600):
        value = [bytes(padding // 2), bytes(padding - padding // 2), values.Other()]
        data = b"".join(dumps(value).frames)
        places.add(data[data.index(b"\x8c\x05Other\x94\x93") - 9] == 0x95)
        names, _ = described(value, dumps(value))
        assert [f"{HERE}:Other"] == names
    assert {True, False} == places


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, "text", {"a": None}], []),
        ([np.arange(9), np.arange(900.0), Fraction(1, 3)], []),
        ({"Model": values.Model()}, ["Model"]),
        ([HERE, "Model", "Other", values.Graph()], ["Graph"]),
        ({"Model": values.Model(values.Other()), "Other": values.Color.RED}, "Color Model Other"),
        ([values.double, values.Outer.Inner(), values.MISSING], "MISSING Outer.Inner double"),
        ({"kind": values.Outer.Inner.__qualname__, "it": values.Outer.Inner()}, ["Outer"]),
        (np.array([values.Graph()], object), ["Graph"]),
    ],
)
def test_names_are_those_of_the_project(value: Any, expected: list[str] | str) -> None:
    """Of classes, functions and single objects, and of no package; also of texts that repeat."""
    names, digest = described(value, dumps(value))
    expected = expected.split() if isinstance(expected, str) else expected
    assert [f"{HERE}:{name}" for name in expected] == names
    assert "" == digest


def test_a_package_can_be_declared_the_project_s() -> None:
    """`own` has top-level packages that count as well, wherever they are installed."""
    value = [Fraction(1, 3), np.arange(3)]
    assert [] == described(value, dumps(value))[0]
    names, _ = described(value, dumps(value), frozenset({"fractions"}))
    assert ["fractions:Fraction"] == names


SCRIPT = """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import storage_factory

class Base: pass

class Model(Base):
    class Part: pass
    def predict(self): return helper()

def helper(): return 1

@workflow
def train(): return {"Model": Model(), "part": Model.Part(), "call": helper, "local": local()}

@workflow
def words(): return {"alpha", "beta", "gamma", "delta"}

def local():
    class Local: pass
    return [Local(), lambda: 1]

if __name__ == "__main__":
    flow = LocalWorkflow(train().set_name("t"), words().set_name("w"), workflow_name="script")
    flow.set_storage(storage_factory({"kind": "file", "options": {"path": sys.argv[1]}}))
    if sys.argv[2:]:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            flow.run(pool)
    else:
        flow.run()
"""


def run_script(folder: Path, *arguments: str, seed: str = "0") -> FileStorage:
    script = folder / "learn.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(folder / seed), *arguments]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed})
    return FileStorage(folder / seed)


@pytest.mark.parametrize("arguments", [(), ("in a worker",)])
def test_what_a_script_defines_is_named(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """By the name that others import it by, also where a worker saves; without local classes."""
    info = run_script(tmp_path, *arguments).task_info("script", "t")
    # Of a nested class, cloudpickle brings only the last part of its name to a worker.
    part = "Model.Part"
    expected = sorted(["Base", "Model", part, "helper"])
    assert tuple(f"learn:{name}" for name in expected) == info.own
    assert info.by_value


def test_equal_sets_have_one_digest_in_all_processes(tmp_path: Path) -> None:
    """The bytes follow the seed of hashes, the digest of the value doesn't."""
    infos = [run_script(tmp_path, seed=seed).task_info("script", "w") for seed in "12"]
    assert infos[0].digest != infos[1].digest
    assert infos[0].value == infos[1].value != ""
    assert digest_of({"alpha", "beta", "gamma", "delta"}).hex() == infos[0].value


def holds_a_set(data: bytes) -> bool:
    """Tell whether a pickle has a set with items, by reading all of it."""
    before = ""
    for opcode, _, _ in pickletools.genops(data):
        if opcode.name == "ADDITEMS" or (opcode.name == "FROZENSET" and before != "MARK"):
            return True
        before = opcode.name
    return False


hashable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(2**900), max_value=2**900)
    | st.floats()
    | st.text()
    | st.binary()
    | st.sampled_from([b"x", "x"]).map(lambda text: text * 70_000)
    | st.sampled_from([values.double, values.Color.RED, Fraction(1)])
    | st.sampled_from([frozenset(), (), Path("a"), date(2026, 1, 31)]),
    lambda inner: st.tuples(inner) | st.frozensets(inner) | st.tuples(inner, inner, inner, inner),
    max_leaves=8,
)


@pytest.mark.battery
@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@settings(max_examples=1000 if FULL else 30, deadline=None)
@given(st.lists(hashable | st.sets(hashable) | noise, max_size=5), st.integers(0, 400))
def test_no_set_is_missed(value: list[Any], repeats: int) -> None:
    """Whatever its items are, wherever a frame begins, however long the memo is."""
    value = [[str(number) for number in range(repeats)], value]
    data = b"".join(dumps(value).frames)
    assert names_in([data]).unordered or not holds_a_set(data)


@pytest.mark.parametrize(
    "items",
    [
        *({1, 2}, {300, 301}, {70_000, 70_001}, {2**70, 2**71}, {0.5, 1.5}, {True, None}),
        *(
            {"a", "b"},
            {b"a", b"b"},
            {Fraction(1, 3), Fraction(2, 3)},
            set(values.Color),
            {(), (1,)},
        ),
    ],
)
@pytest.mark.parametrize("before", [0, 300])
def test_sets_of_every_kind_of_item_are_found(items: set[Any], before: int) -> None:
    """Also where the items were met before, and are fetched from the memo."""
    memoized = [str(number) for number in range(before)]
    for value in (items, frozenset(items)):
        assert names_in(dumps([memoized, value]).frames).unordered
        assert names_in(dumps([memoized, list(items), value]).frames).unordered


def test_bytes_that_look_like_sets_are_none() -> None:
    """The canonical digest takes long; numbers and texts don't bring it about."""
    numbers = list(range(3_000_000))
    texts = "".join(Random(1).choices([chr(code) for code in range(0x4E00, 0x9FA5)], k=3_000_000))
    for value in (numbers, texts, [set(), frozenset()], [38031, 38033, "n"], 38033):
        assert not names_in(dumps(value).frames).unordered


def test_a_set_that_has_no_digest_has_none() -> None:
    """What has no state that could be told counts by its bytes."""
    value = [{1, 2}, Stateless()]
    assert ([f"{Stateless.__module__}:Stateless"], "") == described(value, dumps(value))


class Stateless:
    calls = 0

    def __reduce_ex__(self, protocol: Any) -> Any:
        if protocol == 4:  # as a fingerprint asks
            raise TypeError("no state")
        return Stateless, ()


def test_tensors_have_a_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """What names torch has other bytes in each process."""
    torch = ModuleType("torch.tensors")
    torch.Tensor = type("Tensor", (), {"__module__": "torch.tensors"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    monkeypatch.setitem(sys.modules, "torch.tensors", torch)
    value = [torch.Tensor()]
    assert digest_of(value).hex() == described(value, dumps(value))[1]


def test_it_goes_to_workers() -> None:
    """It is pickled by name, with the name of the script that made it."""
    one, other = describing(frozenset({"fractions"})), [Fraction(1, 2), {1, 2}]
    again = pickle.loads(pickle.dumps(one))
    assert one(other, dumps(other)) == again(other, dumps(other))
    assert ["fractions:Fraction"] == again(other, dumps(other))[0]
