"""A big pickle in pieces: none is copied, none is missed, and the file is as if it were one."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import sys
import threading
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from result_bytes import MemoryStore, section_digest
from xxhash import xxh3_128_hexdigest

from functionfuse.serializers import generate_name
from functionfuse.storage import Storage, header, resultfile
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.named import names_in
from functionfuse.storage.pickling import OUT_OF_BAND_FROM, Pickled, dumps
from functionfuse.storage.signing import Key, section_hexdigest
from functionfuse.storage.unpickling import loads

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
MIB = 1 << 20
LIMIT = 1 << 16  # bytes; an object of this size is a piece
NAME = generate_name()


class Kept:
    """What the extractor takes out."""


class Keeper:
    failed = ()

    def claims(self, kind: type) -> bool:
        return kind is Kept

    def extract(self, obj: Any) -> tuple[str, Any]:
        return "keeper", [NAME, f"{NAME}.table"]


WAYS: dict[str, Callable[[Any], Pickled]] = {
    "pickle": lambda value: dumps([value]),
    "an extractor": lambda value: dumps([value, Kept()], Keeper()),
    "cloudpickle": lambda value: dumps([value, lambda: 0]),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Callable[[Any], Pickled]:
    return WAYS[request.param]


class Frozen(bytes):
    """A subclass of bytes."""


def big_parts() -> list[Any]:
    return [os.urandom(size) for size in (LIMIT, LIMIT + 1, 3 * LIMIT)]


# The pieces.


def test_big_bytes_are_pieces_themselves(way: Callable[[Any], Pickled]) -> None:
    """At any depth, and once each; smaller ones are copied into the pickle."""
    big, small = big_parts(), os.urandom(LIMIT - 1)
    value = {"a": [big[0], {"b": (big[1], {"c": big})}], "d": small, "e": Frozen(big[0])}
    frames = way(value).frames
    for part in big:
        assert [part] == [frame for frame in frames if frame is part]
    assert not any(frame is small for frame in frames)
    assert {bytes} == set(map(type, frames))


def test_the_pieces_are_the_pickle(way: Callable[[Any], Pickled]) -> None:
    """The bytes are those that earlier releases wrote: equal values keep their digests."""
    texts = ["a" * LIMIT, "ü" * LIMIT, "\ud800" * LIMIT, "b" * (LIMIT - 1)]
    value = [big_parts(), texts, bytearray(3 * LIMIT), np.arange(9), 7**99999, [*range(99999)]]
    [read, *_] = pickle.loads(whole(dumps([value]))[0])
    assert value[:3] == read[:3]
    assert whole(dumps([value]))[0] == pickle.dumps([value], 5, buffer_callback=in_band)
    pickled = way(value)
    again = Pickled(whole(pickled), pickled.views, by_value=False)
    for key in (None, Key("secret")):
        assert sections(pickled, key) == sections(again, key)


def in_band(buffer: pickle.PickleBuffer) -> bool:
    return buffer.raw().nbytes < OUT_OF_BAND_FROM


def whole(pickled: Pickled) -> list[bytes]:
    return [b"".join(pickled.frames)]


def sections(pickled: Pickled, key: Key | None) -> tuple[Any, ...]:
    """Return what the header tells of a value's bytes, once with side data."""
    found: list[Any] = []
    digest = "0" * (64 if key else 32)
    for side in ((), [header.SideData("keeper", "", ((NAME, 1, digest),))]):
        parts, told = resultfile.pack(pickled, "w", "t", side_data=side, key=key)
        info, contents = resultfile.check(b"".join(parts), key)
        assert isinstance(parts, resultfile.DigestedAside) or info == told
        assert whole(pickled) == [bytes(contents[0])]
        found += [info.digest, info.pickle, info.buffers]
    return tuple(found)


def test_the_digest_of_pieces() -> None:
    """That of the bytes, wherever they are cut."""
    data = os.urandom(MIB) * 9 + b"rest"
    for cuts in ([], [1], [4 * MIB], [4 * MIB - 1, 4 * MIB + 1], [5, 5, 8 * MIB + 3]):
        ends = [0, *cuts, len(data)]
        parts = [data[start:end] for start, end in pairwise(ends)]
        assert section_digest(data) == section_hexdigest(*parts, strong=True)
        assert xxh3_128_hexdigest(data) == section_hexdigest(*parts, strong=False)


def test_a_big_pickle_is_digested_while_it_is_written() -> None:
    """As big buffers are; its pieces are the parts that are written."""
    big = bytes(16 * MIB)
    parts, _ = resultfile.pack(dumps([big, "end"]), "w", "t")
    assert isinstance(parts, resultfile.DigestedAside)
    assert any(part is big for part in parts)
    parts, info = resultfile.pack(dumps([big[:-99], "end"]), "w", "t")
    assert isinstance(parts, list)
    assert info == resultfile.check(b"".join(parts))[0]


@pytest.mark.parametrize("before", [False, True])
def test_equal_values_have_equal_digests(before: bool) -> None:
    """Although names of side data are fresh, before or after a piece of its own."""
    digests = set()
    for _ in range(2):
        name, big = generate_name(), b"x" * LIMIT
        frames = dumps([name, big, "end"] if before else [big, name, "end"]).frames
        side = header.SideData("keeper", "", ((f"{name}.table", 1, "0" * 32),))
        pickled = Pickled(frames, [], by_value=False)
        digests.add(resultfile.pack(pickled, "w", "t", side_data=[side])[1].digest)
        assert 3 == len(frames)
    assert 1 == len(digests)


class Emptied:
    """Its pickling empties a buffer, which was pickled before."""

    def __init__(self, buffer: bytearray) -> None:
        self.buffer = buffer

    def __reduce__(self) -> Any:
        self.buffer.clear()
        return Fraction, (1, 2)


def test_a_bytearray_may_change_once_it_is_pickled() -> None:
    """It is no part of the result's bytes: those are a copy."""
    buffer = bytearray(os.urandom(2 * LIMIT))
    before = bytes(buffer)
    [read, half] = pickle.loads(whole(dumps([buffer, Emptied(buffer)]))[0])
    assert (before, Fraction(1, 2), 0) == (read, half, len(buffer))


# What is looked at.


def objects_of(data: bytes) -> list[bytes]:
    """Return the texts and bytes in a pickle that have 64 KiB or more, by reading all of it."""
    texts = (bytes, bytearray, str)
    found = [each for _, each, _ in pickletools.genops(data) if isinstance(each, texts)]
    encoded = [e.encode("utf-8", "surrogatepass") if isinstance(e, str) else e for e in found]
    return [bytes(each) for each in encoded if len(each) >= LIMIT]


around = st.sampled_from([0, 9, 30_000, LIMIT - 20, LIMIT - 1, LIMIT, LIMIT + 1, 200_000])
parts = st.one_of(
    around.map(lambda size: b"\x94" * size),
    around.map(lambda size: b"\x95" + bytes(size)),
    around.map(bytearray),
    around.map(lambda size: "\x93" * (size // 2)),
    around.map(lambda size: 1 << (8 * size)),
    around.map(lambda size: list(range(size))),
    st.sampled_from([Fraction(1, 3), b"\x8e" + bytes(8), 1e300, {1}, {}]),
)


@pytest.mark.battery
@settings(max_examples=1000 if FULL else 60, deadline=None)
@given(st.lists(parts | st.lists(parts), max_size=6), st.sampled_from(list(WAYS)))
def test_only_objects_are_left_out(value: list[Any], way: str) -> None:
    """Nothing else: no big number, no long frame, whatever its bytes look like."""
    pickled = WAYS[way](value)
    kept = list(pickled.opcodes)
    left = [frame for frame in pickled.frames if not any(frame is each for each in kept)]
    objects = objects_of(whole(pickled)[0])
    assert [each for each in objects if each[:1] != b"\x95"] == left
    assert pickle.Pickler is type(pickle.Pickler(io.BytesIO())) is cloudpickle.Pickler.__mro__[1]


class Noting(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.names: set[tuple[str, str]] = set()

    def find_class(self, module: str, name: str) -> Any:
        self.names.add((module, name))
        return super().find_class(module, name)


@pytest.mark.parametrize(
    "named",
    [
        lambda: Fraction(1, 3),
        lambda: ["Fraction", "fractions", Fraction],  # fetched from the memo
        lambda: [*(str(n) for n in range(300)), "Fraction", "fractions", Fraction],
    ],
)
def test_no_name_is_missed_at_the_end_of_a_frame(named: Callable[[], Any]) -> None:
    """Wherever the pickler begins a new frame: within a name's texts, and after them."""
    size = len(pickle.dumps([b"", named()], 5))
    ended = set()
    for pad in range(LIMIT - size - 20, LIMIT):
        frames = dumps([b"x" * pad, named(), {1}, "end"]).frames
        ended.add(len(frames[0]))
        noting = Noting(b"".join(frames))
        noting.load()
        found = names_in(frames)
        for module, name in noting.names:
            assert {(module, name), (None, name), (module, None), (None, None)} & set(found.names)
        assert found.unordered
        assert ("fractions", "Fraction") in noting.names
    assert len(ended) > 5


def test_a_frame_that_ends_with_a_set() -> None:
    """The set's items begin the next one."""
    for pad in range(LIMIT - 60, LIMIT):
        for items in ({1, 2}, frozenset({1, 2}), {"a" * 70}):
            assert names_in(dumps([b"x" * pad, items]).frames).unordered
        assert not names_in(dumps([b"x" * pad, set(), "end" * 9]).frames).unordered


def test_big_objects_are_no_names() -> None:
    """Bytes in them that look like a name don't count: they are not the pickle's own."""
    inner = pickle.dumps([Fraction(1, 3), "__main__"], 5)
    pickled = dumps([inner + bytes(LIMIT), "\x93\x94__main__" * LIMIT])
    assert not pickled.by_value
    assert () == pickled.named.names


# What it takes.


def peak_of(function: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


BIG = 40 * MIB
VALUES: dict[str, tuple[Callable[[], Any], float]] = {  # pickle's own copies of texts
    "bytes": (lambda: os.urandom(BIG), 0),
    "bytes like a frame": (lambda: b"\x95\x93\x94" + bytes(BIG), 0),
    "nested bytes": (lambda: {"a": [(os.urandom(BIG // 2),), {"b": os.urandom(BIG // 2)}]}, 0),
    "text": (lambda: "a" * BIG, 1),
    "text beyond ASCII": (lambda: "ü" * (BIG // 2), 2),
    "small arrays": (lambda: [np.full(1024, n) for n in range(BIG // 8192)], 0),
}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("value", VALUES)
def test_memory_beyond_the_value(tmp_path: Path, value: str, signed: bool) -> None:
    """No copy is made of bytes, and of texts only pickle's own."""
    make, copies = VALUES[value]
    storage = FileStorage(tmp_path, **({"key": "secret"} if signed else {}))
    storage.save("w", "t", b"what is imported and kept")
    made = make()
    peak = peak_of(lambda: storage.save("w", "t", made))
    assert peak <= copies * BIG + 8 * MIB
    assert value == "small arrays" or made == storage.read_task("w", "t")
    assert [""] == [record.problem for record in storage.verify()]


@pytest.mark.parametrize("options", [{}, {"restore": lambda name, pid: pid}, {"scripts": True}])
def test_reading_copies_nothing_first(options: dict[str, Any]) -> None:
    """Whichever unpickler reads it."""
    data = memoryview(b"".join(dumps([os.urandom(BIG), "end"]).frames))
    assert peak_of(lambda: loads(data, [], **options)) <= BIG + MIB


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("count", [0, 1, 100_000])
def test_pickles_of_every_protocol_are_read(protocol: int, count: int) -> None:
    """Lines that end beyond what the unpickler has taken, too."""
    value = [bytes(count), "x" * count, list(range(count)), Fraction(1, 3), bytearray(count)]
    long = [b"cfractions\nFraction\n" * count, Fraction]
    for each in (value, value * 2, long):
        data = memoryview(pickle.dumps(each, protocol))
        assert each == loads(data, [], restore=lambda name, pid: pid)
    cut = memoryview(pickle.dumps(value, protocol)[:-9])
    with pytest.raises((EOFError, pickle.UnpicklingError)):
        loads(cut, [], restore=lambda name, pid: pid)


def calls_of(function: Callable[[], object]) -> int:
    """Count the calls, of functions in C too, in all threads."""
    counts: list[int] = []

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event in ("call", "c_call"):
            counts.append(1)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return len(counts)


@pytest.fixture(params=["files", "a store that takes parts in order"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return FileStorage(tmp_path) if request.param == "files" else Storage(MemoryStore())


def test_twice_the_arrays_take_twice_the_calls(
    any_store: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saving, digesting aside and reading: nothing goes through all parts for each part."""
    monkeypatch.setattr(resultfile, "_DIGESTED_ASIDE_FROM", 1)
    monkeypatch.delattr(resultfile.FirstPartLast, "__getitem__")  # a list of all parts each time
    few, many = ([np.full(200, n) for n in range(count)] for count in (1000, 2000))
    any_store.save("w", "t", few)
    saves = [calls_of(lambda v=v: any_store.save("w", "t", v)) for v in (few, many)]  # type: ignore[misc]
    reads = [calls_of(lambda: any_store.read_task("w", "t"))]
    any_store.save("w", "t", few)
    reads.insert(0, calls_of(lambda: any_store.read_task("w", "t")))
    for counts in (saves, reads):
        assert counts[1] <= 2.1 * counts[0]
