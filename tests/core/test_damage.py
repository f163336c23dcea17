"""Bytes that are not what was written: detected before anything is unpickled, whatever they are."""

from __future__ import annotations

import os
import pickle
import random
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from result_bytes import MAGIC, MemoryStore, header_of, of_pickle, rest_of, sealed
from xxhash import xxh3_128_digest, xxh3_128_hexdigest

from functionfuse.errors import (
    DamagedResultError,
    FunctionFuseError,
    NewerFormatError,
    UnreadableResultError,
    UntrustedResultError,
)
from functionfuse.storage import Storage, resultfile
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.header import IN_PIECES
from functionfuse.storage.upkeep import Verified

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
SEED = int(os.environ.get("FUNCTIONFUSE_SEED", "1"))
OURS = (DamagedResultError, NewerFormatError, UntrustedResultError, UnreadableResultError)
EXAMPLES = settings(max_examples=5000 if FULL else 60, deadline=None)


def bytes_of(value: Any, **options: Any) -> bytes:
    """Return the bytes of a value's result, as task "t" of workflow "w"."""
    store = MemoryStore()
    Storage(store, **options).save("w", "t", value, function="m.f", seconds=1.5)
    return store.blobs["w/t"][0]


SMALL = bytes_of({"a": 1})
LARGER = bytes_of({"a": np.arange(300), "b": [np.ones(129), "text"]})


def problem_of(data: bytes) -> FunctionFuseError | None:
    """Do everything with a blob that a storage does; nothing but our errors may come of it."""
    store = MemoryStore()
    storage = Storage(store)
    storage.new_workflow("w")
    store.put("w/t", [data])
    problem = None
    try:
        storage.read_task("w", "t")
    except OURS as error:
        problem = error
    header = None
    try:
        storage.task_info("w", "t")
    except OURS as error:
        header = error
    # Reading doesn't look at fields that it needs nothing of, if the header's digest is right.
    assert problem or header is None or "the header is not as specified" in str(header)
    (stored,) = storage.task_infos("w", ["t"])
    assert stored is not None
    assert ["t"] == storage.list_tasks("w")
    assert ["w"] == storage.list_workflows()
    (record,) = storage.verify()
    elsewhere = record.problem.startswith(("side data", "the header is not as specified"))
    if not (isinstance(problem, UnreadableResultError) or elsewhere):
        assert bool(problem) == bool(record.problem)
    assert [] == storage.gc()
    assert len(data) == storage.du()[0].size
    assert storage.file_exists("w", "t")
    storage.keep_damaged("w", "t")
    if MAGIC.startswith(data[: len(MAGIC)]):
        storage.remove_task("w", "t")
    else:
        with pytest.raises(DamagedResultError, match="is not a result of Function Fuse"):
            storage.remove_task("w", "t")
        store.delete(["w/t"])
    assert not storage.file_exists("w", "t")
    if problem is not None:
        assert "while reading task 't' of workflow 'w'" in problem.__notes__[0]
    return problem


# Damage: the bytes changed after they were written.


@pytest.mark.battery
@pytest.mark.parametrize("data", [SMALL, LARGER], ids=["small", "larger"])
def test_every_flipped_byte_and_every_cut_is_detected(data: bytes) -> None:
    """Each byte changed, each length cut; and bytes at the end."""
    assert problem_of(data) is None
    places = range(len(data)) if FULL or data is SMALL else range(0, len(data), 37)
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << (place % 8)
        with pytest.raises((DamagedResultError, NewerFormatError)):
            resultfile.check(damaged)
        with pytest.raises(DamagedResultError):
            resultfile.check(data[:place])
    with pytest.raises(DamagedResultError):
        resultfile.check(data + b"\0")
    print(f"{len(places)} flipped bytes and {len(places)} cuts, all detected")


@pytest.mark.battery
def test_random_damage_of_a_larger_result_is_detected(tmp_path: Path) -> None:
    """Bits, runs of bytes, cuts, insertions, moved blocks; read as a storage reads."""
    storage = FileStorage(tmp_path)
    storage.save("w", "t", {"a": np.arange(40_000), "b": list(range(5000)), "c": np.ones(9000)})
    path = tmp_path / "w" / "t"
    whole = path.read_bytes()
    chance = random.Random(SEED)
    rounds = 20_000 if FULL else 150
    changed = 0
    for _ in range(rounds):
        data = bytearray(whole)
        place, length = chance.randrange(len(data)), chance.randrange(1, 5000)
        match chance.randrange(6):
            case 0:
                data[place] ^= 1 << chance.randrange(8)
            case 1:
                data[place : place + length] = chance.randbytes(length)
            case 2:
                data[place : place + length] = bytes(length)
            case 3:
                del data[place : place + length]
            case 4:
                data[place:place] = chance.randbytes(length)
            case _:
                other = chance.randrange(len(data))
                data[place : place + length] = data[other : other + length]
        if data != whole:
            changed += 1
            path.write_bytes(data)
            with pytest.raises((DamagedResultError, NewerFormatError)):
                storage.read_task("w", "t")
    print(f"seed {SEED}: {changed} random damages, all detected")
    assert changed > 0.8 * rounds


def test_swapped_files_are_detected(tmp_path: Path) -> None:
    """Sound bytes under other names, of task or workflow, are damage; also to `verify`."""
    storage = FileStorage(tmp_path)
    names = [("w", "a"), ("w", "b"), ("v", "a"), ("w", "long" * 100)]
    for workflow, task in names:
        storage.save(workflow, task, f"{workflow}/{task}")
    paths = [path for path in tmp_path.rglob("*") if path.is_file() and path.name[0] != "."]
    blobs = {path: path.read_bytes() for path in paths}
    for path in paths:
        for other in paths:
            path.write_bytes(blobs[other])
        sound = [record.problem for record in storage.verify()].count("")
        assert (4 if path == paths[-1] else 3) == sound
        path.write_bytes(blobs[path])
    for path, other in zip(paths, [*paths[1:], paths[0]], strict=True):
        path.write_bytes(blobs[other])
    for workflow, task in names[:3]:
        with pytest.raises(DamagedResultError, match="the blob is the result of task"):
            storage.read_task(workflow, task)
        with pytest.raises(DamagedResultError, match="the blob is the result of task"):
            storage.task_info(workflow, task)


# Lies: the digest is right, and what it covers is not as specified.

numbers = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**31, 2**32, 2**63, 2**64, 10**30, -(2**63), len(SMALL), 1.0, 0.5, 1e400]),
    st.floats(allow_nan=True),
)
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@pytest.mark.battery
@EXAMPLES
@given(st.binary(max_size=300), st.sampled_from([b"", MAGIC, SMALL[:16], SMALL[:64]]))
def test_random_bytes(data: bytes, beginning: bytes) -> None:
    """Alone, and after the beginning of a result."""
    assert isinstance(problem_of(beginning + data), DamagedResultError | NewerFormatError)


@pytest.mark.battery
@EXAMPLES
@given(st.sampled_from([SMALL, LARGER]), st.data())
def test_mutated_results_with_a_valid_digest(data: bytes, draw: st.DataObject) -> None:
    """Bytes of the header or after it changed, and the header's digest computed anew."""
    header, rest = bytearray(data[64 : len(data) - len(rest_of(data))]), bytearray(rest_of(data))
    for _ in range(draw.draw(st.integers(1, 4))):
        part = header if draw.draw(st.booleans()) else rest
        place = draw.draw(st.integers(0, len(part)))
        part[place : place + draw.draw(st.integers(0, 3))] = draw.draw(st.binary(max_size=3))
    problem_of(sealed(bytes(header), bytes(rest)))


@pytest.mark.battery
@EXAMPLES
@given(
    st.dictionaries(st.sampled_from(sorted(header_of(SMALL))), anything, min_size=1, max_size=4),
    st.sets(st.sampled_from(sorted(header_of(SMALL))), max_size=2),
)
def test_headers_of_other_types(fields: dict[str, Any], missing: set[str]) -> None:
    """Fields of any JSON type, and missing ones."""
    header = {**header_of(SMALL), **fields}
    for name in missing:
        del header[name]
    problem_of(sealed(header, rest_of(SMALL)))


@pytest.mark.battery
@EXAMPLES
@given(st.lists(st.tuples(numbers, st.text("0123456789abcdef")), max_size=4), st.data())
def test_lying_sizes(buffers: list[Any], draw: st.DataObject) -> None:
    """Sizes of buffers, pickle and side data that are negative, huge, or no integers."""
    size = draw.draw(numbers)
    files = [["file", draw.draw(numbers), "0" * 32]] if draw.draw(st.booleans()) else []
    header = {**header_of(SMALL), "buffers": buffers, "side_data": [["s", "", files]]}
    header["pickle"] = draw.draw(st.sampled_from([header["pickle"], [size, "00"]]))
    problem = problem_of(sealed(header, rest_of(SMALL)))
    if buffers or header["pickle"][1] == "00":
        assert isinstance(problem, DamagedResultError)


@pytest.mark.parametrize("size", [0.0, -1, -64, True, "0", None, [0], 10**30])
def test_sizes_that_add_up_and_are_none(size: Any) -> None:
    """The digest of nothing is right, and the file is as long as all sizes together."""
    pickled = pickle.dumps(1)
    digest, nothing = xxh3_128_hexdigest(pickled), xxh3_128_hexdigest(b"")
    header = {**header_of(SMALL), "pickle": [len(pickled), digest], "buffers": [[size, nothing]]}
    end = len(sealed(header, pickled))
    if isinstance(size, int | float) and size < 64:
        end += -end % 64 + int(size)
    data = sealed(header, pickled)
    for found in (data, data.ljust(end, b"\0"), data[:end]):
        assert isinstance(problem_of(found), DamagedResultError)


def test_small_results_are_checked_as_others_are() -> None:
    """Those whose headers are as we write them are read in a shorter way."""
    rest = rest_of(SMALL)
    header = SMALL[64 : -len(rest)]
    for magic in (b"\x93FUSE\r\n\x1b", MAGIC.lower()):
        start = magic + SMALL[8:16]
        digest = xxh3_128_digest(start + SMALL[32:64] + header)
        assert isinstance(problem_of(start + digest + SMALL[32:]), DamagedResultError)
    assert isinstance(problem_of(sealed(header, rest, version=3)), NewerFormatError)
    for size in (len(rest) - 1, len(rest) + 1):
        lie = header.replace(b"[%d," % len(rest), b"[%d," % size)
        assert isinstance(problem_of(sealed(lie, rest)), DamagedResultError)


HEADERS = {
    "empty": b"",
    "no JSON": b"{",
    "no object": b"[]",
    "null": b"null",
    "number": b"1",
    "no text": b"\xff\xfe{}",
    "lists": b"[" * 500_000,
    "objects": b'{"a":' * 500_000,
    "one long number": b"9" * 100_000,
    "many numbers": b'{"buffers":[' + b"1," * 100_000 + b"1]}",
    "many buffers": b'{"buffers":[' + b'[0,""],' * 100_000 + b'[0,""]]}',
    "infinity": SMALL[64 : -len(rest_of(SMALL))].replace(b"1.5", b"Infinity"),
    "the same field twice": b'{"pickle":[0,""],"pickle":[-1,""]}',
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_headers_that_are_none(header: bytes) -> None:
    """Deep, long, empty or no JSON: an error of ours, and a result that can be removed."""
    problem = problem_of(sealed(header, rest_of(SMALL)))
    assert isinstance(problem, DamagedResultError) or b"Infinity" in header


NAMES = ["../../../outside", "/etc/outside", "..", ".", "", ".hidden", "a/b", "a\0b", "\ud800"]
NO_NAMES = ["x" * 999, 1, None, ["x"]]


@pytest.mark.parametrize("field", ["workflow", "task"])
@pytest.mark.parametrize("key", ["w/t", "w/.earlier/t-0"])
def test_names_that_nothing_can_have(key: str, field: str) -> None:
    """A header without a name is of no use; it stands in the way of no look, and of no removal."""
    storage = Storage(MemoryStore())
    storage.save("w", "t", 1)
    storage.store.put(key, [of_pickle(pickle.dumps(1), **{field: ""})])
    latest = key == "w/t"
    assert [latest] == [bool(found.problem) for found in storage.verify()]
    assert [] == storage.gc(-60)
    assert 1 == storage.du()[0].tasks
    assert [not latest] == [bool(storage.prune("w", bytes=0))]
    storage.remove_task("w", "t")
    assert ["w/.functionfuse"] == [blob.key for blob in storage.store.list("")]


@pytest.mark.parametrize("name", [*NAMES, *NO_NAMES])
def test_side_data_names_stay_in_the_store(tmp_path: Path, name: Any) -> None:
    """A header can't have files outside of its side data's folder removed, or read."""
    storage = FileStorage(tmp_path / "store")
    (tmp_path / "outside").write_text("mine")
    storage.store.put("w/.data/something", [b""])
    header = {**header_of(SMALL), "side_data": [["s", "", [[name, 4, "0" * 32]]]]}
    (tmp_path / "store" / "w" / "t").write_bytes(sealed(header, rest_of(SMALL)))
    with pytest.raises(DamagedResultError, match="the header is not as specified"):
        storage.read_task("w", "t")
    storage.remove_task("w", "t")
    storage.save("w", "t", 1)
    assert "mine" == (tmp_path / "outside").read_text()


@pytest.mark.parametrize("digest", ["../x", "0" * 31, "0" * 33, "F" * 32, "0" * 32 + "\n", "", 1])
def test_digests_of_side_data_are_digests(digest: Any) -> None:
    """Or the word for "in pieces": whoever uses one as a name gets no path."""
    for found, refused in (
        (digest, True),
        ("0" * 32, False),
        ("a" * 64, False),
        (IN_PIECES, False),
    ):
        header = {**header_of(SMALL), "side_data": [["s", "", [["name", 4, found]]]]}
        problem = problem_of(sealed(header, rest_of(SMALL)))
        assert refused == ("the header is not as specified" in str(problem))


BROKEN_PICKLES = {
    "empty": b"",
    "no end": b"\x80\x05K\x01",
    "unknown opcode": b"\x80\x05\xff.",
    "newer protocol": b"\x80\x63K\x01.",
    "empty stack": b"\x80\x05.",
    "nothing in the memo": b"\x80\x05h\x07.",
    "no buffers": b"\x80\x05\x97.",
    "persistent": b"\x80\x05K\x01Q.",
    "cut text": b"\x80\x05\x8c\x10abc.",
    "no text": b"\x80\x05\x8c\x01\xff.",
    "huge bytes": b"\x80\x05\x8e" + b"\xff" * 7 + b"\x7f.",
    "calls a number": b"\x80\x05K\x01)R.",
    "list as key": b"\x80\x05}]K\x01s.",
}


@pytest.mark.parametrize("pickled", BROKEN_PICKLES.values(), ids=BROKEN_PICKLES)
def test_sound_bytes_that_are_no_pickle(pickled: bytes) -> None:
    """A writer of something else: an error that says who wrote it."""
    problem = problem_of(of_pickle(pickled, packages={"numpy": "0.1"}))
    assert isinstance(problem, UnreadableResultError)
    assert "written by Python 3.11.0, numpy 0.1" in str(problem)


def test_lies_take_no_memory_beyond_the_file(tmp_path: Path) -> None:
    """In a process that has 300 MiB, lengths of gigabytes and deep headers end in our errors."""
    lies = {**HEADERS, **{f"size {size}": _lying(size) for size in (2**31, 2**40, 2**63, -1)}}
    for number, header in enumerate(lies.values()):
        path = tmp_path / f"w{number}" / "t"
        path.parent.mkdir()
        path.write_bytes(sealed(header, rest_of(SMALL)))
        length = tmp_path / f"long{number}" / "t"
        length.parent.mkdir()
        length.write_bytes(SMALL[:12] + (2**32 - 1 - number).to_bytes(4, "little") + SMALL[16:])
    script = """
        import resource, sys
        from functionfuse.errors import DamagedResultError
        from functionfuse.storage.filestorage import FileStorage

        storage = FileStorage(sys.argv[1])
        names = [storage.list_workflows(), storage.verify(), storage.du()][0]
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20), used + (300 << 20)))
        found = 0
        for name in names:
            for read in (storage.read_task, storage.task_info):
                try:
                    read(name, "t")
                except DamagedResultError:
                    found += 1
            assert len(list(storage.task_infos(name, ["t"]))) == 1
        problems = [record for record in storage.verify() if record.problem]
        for name in names:
            storage.remove_task(name, "t")
        print(len(names), found, len(problems))
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "" == result.stderr
    count, found, problems = map(int, re.findall(r"\d+", result.stdout))
    assert 2 * len(lies) == count
    assert (2 * count, count) == (found, problems)


def _lying(size: int) -> bytes:
    header = SMALL[64 : len(SMALL) - len(rest_of(SMALL))]
    return header.replace(b'"buffers":[]', b'"buffers":[[%d,"00"]]' % size)


def test_what_verify_tells_of_a_lie() -> None:
    """A record like any other, with the names of the key."""
    store = MemoryStore()
    store.put("w/a%2Fb", [sealed(b"[]")])
    (record,) = Storage(store).verify()
    assert Verified("w", "a/b", 0, record.problem) == record
    assert "not as specified" in record.problem
