"""What reading may run: nothing that the options don't allow; everything else runs nothing."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import sys
import traceback
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pytest
from leaky import Point, shift
from result_bytes import header_of, of_pickle, rest_of, sealed

from functionfuse.errors import (
    DamagedResultError,
    FunctionFuseError,
    UnreadableResultError,
    UntrustedResultError,
)
from functionfuse.storage import Storage, storage_factory
from functionfuse.storage.filestorage import FileStorage

KEY = "canary-5e77ab1e"

WAYS = ("REDUCE", "INST", "OBJ", "STACK_GLOBAL")
MARK = "MARK"  # stands for the path of what is there afterwards if anything ran
CODE = "open('MARK', 'x').close()"
CALLS: list[tuple[str, str, tuple[Any, ...]]] = [
    ("os", "mkdir", (MARK,)),
    ("os", "system", (f"touch {MARK}",)),
    ("posix", "system", (f"touch {MARK}",)),
    ("subprocess", "getoutput", (f"touch {MARK}",)),
    ("os", "symlink", ("x", MARK)),
    ("builtins", "eval", (CODE,)),
    ("builtins", "exec", (CODE,)),
    ("os", "mkfifo", (MARK,)),
    ("posix", "mkdir", (MARK,)),
    ("shutil", "copyfile", (__file__, MARK)),
]
DOTTED: list[tuple[str, str, tuple[Any, ...]]] = [
    ("leaky", "os.mkdir", (MARK,)),
    ("leaky", "os.system", (f"touch {MARK}",)),
    ("leaky", "os.path.os.mkdir", (MARK,)),
]


def call(module: str, name: str, arguments: bytes, way: str = "STACK_GLOBAL") -> bytes:
    """Return opcodes that call a global with what other opcodes leave on the stack."""
    match way:
        case "REDUCE":
            return f"c{module}\n{name}\n(".encode() + arguments + b"tR"
        case "INST":
            return b"(" + arguments + f"i{module}\n{name}\n".encode()
        case "OBJ":
            return f"(c{module}\n{name}\n".encode() + arguments + b"o"
        case _:
            return global_of(module, name) + b"(" + arguments + b"tR"


def global_of(module: str, name: str) -> bytes:
    """Return opcodes that put a global on the stack; its name may have dots."""
    texts = [b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name)]
    return b"\x80\x04" + b"".join(texts) + b"\x93"


def plain(*values: Any) -> bytes:
    """Return opcodes that put plain values on the stack."""
    return b"".join(pickle.dumps(value, 2)[2:-1] for value in values)


class ByValue:
    """Runs code that cloudpickle writes by value."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (lambda code: exec(code) or 1), (CODE,)


def hostile() -> dict[str, bytes]:
    """Return pickles that make the file MARK when they are unpickled."""
    found = {
        f"{module}.{name} {way}": call(module, name, plain(*arguments), way) + b"."
        for module, name, arguments in CALLS
        for way in WAYS
    }
    found |= {
        f"{module}.{name}": call(module, name, plain(*arguments)) + b"."
        for module, name, arguments in DOTTED
    }
    inner = found["builtins.exec REDUCE"]
    for module in ("pickle", "_pickle", "cloudpickle", "functionfuse.storage.pickling"):
        name = "pickle.loads" if "." in module else "loads"
        found[f"{name} of {module}"] = call(module, name, plain(inner)) + b"."
    for name in ("__builtins__.get", "shift.__builtins__.get", "shift.__globals__.get"):
        evaluate = call("leaky", name, plain("eval" if "builtins" in name else "shift"))
        if name == "shift.__globals__.get":
            evaluate += b"0" + call("leaky", "__builtins__.get", plain("eval"))
        found[f"leaky.{name}"] = evaluate + b"(" + plain(CODE) + b"tR."
    found["by value"] = cloudpickle.dumps(ByValue())
    return found


HOSTILE = hostile()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "store" / "w").mkdir(parents=True)
    return tmp_path / "store"


def test_there_are_forty() -> None:
    """The number that the reliability page gives."""
    assert len(HOSTILE) >= 40


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles(store: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """They are run by reading with trust in pickles, and by nothing else."""
    monkeypatch.chdir(store.parent)
    path, mark = store / "w" / "t", store.parent / MARK
    storage = FileStorage(store)

    def put(key: bytes | None = None) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(of_pickle(HOSTILE[name], key=key))

    operations: list[Callable[[], Any]] = [
        storage.list_workflows,
        lambda: storage.list_tasks("w", "t*"),
        lambda: storage.task_info("w", "t"),
        lambda: list(storage.task_infos("w", ["t"])),
        lambda: storage.file_exists("w", "t"),
        storage.verify,
        lambda: storage.gc(-1),
        storage.du,
        lambda: storage.keep_damaged("w", "t"),
        lambda: storage.new_workflow("w"),
        lambda: storage.save("w", "t", "over it"),
        lambda: storage.remove_task("w", "t"),
        lambda: storage.remove_task("w", pattern="*"),
        lambda: storage.remove_workflow("w"),
    ]
    for operation in operations:
        put()
        operation()
        assert not os.path.lexists(mark)

    for trust in ([], ["leaky", "numpy", "collections"]):
        put()
        with pytest.raises(UntrustedResultError, match="does not allow"):
            FileStorage(store, trust={"allow": trust}).read_task("w", "t")
    for key, match in ((None, "not signed"), (b"another", "another key")):
        put(key)
        with pytest.raises(UntrustedResultError, match=match):
            FileStorage(store, key=KEY).read_task("w", "t")
    assert not os.path.lexists(mark)

    with contextlib.suppress(UnreadableResultError):
        storage.read_task("w", "t")
    assert os.path.lexists(mark)


# The allow-list.


def allowing(store: Path, *names: str) -> FileStorage:
    return FileStorage(store, trust={"allow": names})


def test_what_is_allowed_is_read(store: Path) -> None:
    """A module with all below it, or a single name; plain values need nothing."""
    plain = {"a": [1, 2.5, "x", b"y", None, (True,), {1}, frozenset({2}), bytearray(b"z"), 2**70]}
    arrays = [np.arange(5), np.ones((50, 50), order="F"), np.float32(1), np.dtype("M8[s]")]
    storage = FileStorage(store)
    storage.save("w", "plain", plain)
    storage.save("w", "arrays", arrays)
    storage.save("w", "masked", np.ma.masked_array([1, 2], [True, False]))
    storage.save("w", "ordered", OrderedDict(a=1))
    storage.save("w", "counter", Counter("aab"))
    storage.save("w", "points", [Point(1), Point, shift])
    storage.save("w", "frame", pd.DataFrame({"a": range(2000), "b": 0.5}))

    assert plain == allowing(store).read_task("w", "plain")
    for expected, actual in zip(
        arrays, allowing(store, "numpy").read_task("w", "arrays"), strict=True
    ):
        np.testing.assert_array_equal(expected, actual)
    assert 1 == allowing(store, "numpy").read_task("w", "masked").mask.sum()
    only = allowing(store, "collections.OrderedDict")
    assert OrderedDict(a=1) == only.read_task("w", "ordered")
    with pytest.raises(UntrustedResultError, match=r"'collections\.Counter'.*'trust'.*Ordered"):
        only.read_task("w", "counter")
    assert Counter("aab") == allowing(store, "collections").read_task("w", "counter")
    assert [Point(1), Point, shift] == allowing(store, "leaky").read_task("w", "points")
    # pandas keeps texts, such as the columns' names, in pyarrow's memory where that is installed.
    frames = allowing(store, "numpy", "pandas", "pyarrow.lib", "builtins.slice")
    assert 2000 == len(frames.read_task("w", "frame"))
    for names in [(), ("nump",), ("numpy.",), ("numpyx",), ("numpy.ndarray",), ("",), ("*",)]:
        with pytest.raises(UntrustedResultError, match="'numpy"):
            allowing(store, *names).read_task("w", "arrays")


def test_what_is_not_allowed_is_not_even_imported(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import runs the module."""
    mark = store.parent / MARK
    (store.parent / "runs_when_imported.py").write_text(f"open({str(mark)!r}, 'x').close()\nx = 1")
    monkeypatch.syspath_prepend(store.parent)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (store / "w" / "t").write_bytes(of_pickle(global_of("runs_when_imported", "x") + b"."))
    with pytest.raises(UntrustedResultError, match=r"'runs_when_imported\.x'"):
        allowing(store, "numpy").read_task("w", "t")
    assert not mark.exists()
    assert 1 == FileStorage(store).read_task("w", "t")
    assert mark.exists()


def test_cloudpickle_is_not_allowed_by_itself(store: Path) -> None:
    """Code by value is refused unless cloudpickle itself is allowed."""
    FileStorage(store).save("w", "t", lambda: 1)
    with pytest.raises(UntrustedResultError, match="'cloudpickle"):
        allowing(store, "numpy").read_task("w", "t")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("leaky", "os"),
        ("leaky", "os.environ"),
        ("leaky", "pickle.loads"),
        ("leaky", "__builtins__"),
        ("leaky", "__dict__"),
        ("leaky", "__loader__.load_module"),
        ("leaky", "shift.__globals__"),
        ("leaky", "shift.__class__"),
        ("leaky", "Point.__base__"),
        ("leaky", "Point.__base__.__subclasses__"),
        ("leaky", "Point.__init__.__globals__.get"),
        ("numpy", "__builtins__.get"),
        ("numpy", "ndarray.tofile"),
        ("functionfuse.storage.pickling", "restore"),
        ("functionfuse.storage.pickling", "restore.__globals__"),
        ("functionfuse.storage.pickling", "pickle.loads"),
    ],
)
def test_names_that_lead_elsewhere(store: Path, module: str, name: str) -> None:
    """A name below an allowed module that stands for something else is refused."""
    (store / "w" / "t").write_bytes(of_pickle(global_of(module, name) + b"."))
    assert FileStorage(store).read_task("w", "t") is not None
    with pytest.raises(UntrustedResultError, match="does not allow"):
        allowing(store, "leaky", "numpy").read_task("w", "t")


def test_persistent_ids_are_refused(store: Path) -> None:
    """The format has none."""
    for pickled in (b"Pos.system\n.", b"\x80\x04K\x01Q."):
        (store / "w" / "t").write_bytes(of_pickle(pickled))
        with pytest.raises(UnreadableResultError, match="persistent"):
            FileStorage(store).read_task("w", "t")
        with pytest.raises(UnreadableResultError, match="persistent"):
            allowing(store, "numpy").read_task("w", "t")


def test_restore_without_side_data_is_refused(store: Path) -> None:
    """Our own global does nothing in a result that has no side data, or in another program."""
    arguments = plain("name", "pid")
    pickled = call("functionfuse.storage.pickling", "restore", arguments, "REDUCE") + b"."
    (store / "w" / "t").write_bytes(of_pickle(pickled))
    for storage in (FileStorage(store), allowing(store, "functionfuse"), allowing(store)):
        with pytest.raises(UntrustedResultError):
            storage.read_task("w", "t")
    with pytest.raises(UntrustedResultError, match="only be read through a storage"):
        pickle.loads(pickled)


# Signatures.


@pytest.fixture
def signed(store: Path) -> FileStorage:
    storage = FileStorage(store, key=KEY)
    storage.save("w", "t", {"a": np.arange(500)})
    storage.save("w", "other", "other")
    return storage


def assert_untrusted(storage: Storage, match: str) -> None:
    with pytest.raises(UntrustedResultError, match=match):
        storage.read_task("w", "t")
    assert [match] == [match for record in storage.verify("w") if match in record.problem]


def test_signed_results_are_read(signed: FileStorage, store: Path) -> None:
    """With the key; and without one by who doesn't ask for it."""
    assert 499 == signed.read_task("w", "t")["a"][-1]
    assert signed.task_info("w", "t").signed
    assert 499 == FileStorage(store).read_task("w", "t")["a"][-1]
    assert ["", ""] == [record.problem for record in signed.verify()]


def test_unsigned_results_and_other_keys_are_refused(signed: FileStorage, store: Path) -> None:
    """And so is a copy of the signature of another result."""
    FileStorage(store).save("w", "t", 1)
    assert not FileStorage(store).task_info("w", "t").signed
    with pytest.raises(UntrustedResultError, match="not signed"):
        signed.task_info("w", "t")
    assert_untrusted(signed, "not signed")
    FileStorage(store, key="another").save("w", "t", 1)
    assert_untrusted(signed, "signed with another key, or changed")
    data, other = (store / "w" / "t").read_bytes(), (store / "w" / "other").read_bytes()
    forged = bytearray(sealed(header_of(data), rest_of(data)))
    forged[32:64] = other[32:64]
    (store / "w" / "t").write_bytes(forged)
    with pytest.raises(DamagedResultError):
        signed.read_task("w", "t")


def test_altered_results_are_refused(signed: FileStorage, store: Path) -> None:
    """Even where all digests were computed anew: each field of the header, and the value."""
    path = store / "w" / "t"
    data = path.read_bytes()
    signature = data[32:64]
    whole = header_of(data)
    for name in whole:
        header = {**whole, name: None}
        path.write_bytes(_resigned(sealed(header, rest_of(data)), signature))
        with pytest.raises((UntrustedResultError, DamagedResultError)):
            signed.read_task("w", "t")
    for changes in ({"by_value": True}, {"seconds": 2.0}, {"packages": {}}, {"task": "other"}):
        path.write_bytes(_resigned(sealed({**whole, **changes}, rest_of(data)), signature))
        assert_untrusted(signed, "signed with another key, or changed")
    path.write_bytes(_resigned(sealed(whole, rest_of(data)), bytes(32)))
    assert_untrusted(signed, "not signed")
    path.write_bytes(data[:-1] + b"x")
    with pytest.raises(DamagedResultError, match="buffer 0"):
        signed.read_task("w", "t")


def test_every_byte_of_the_signature_counts(signed: FileStorage, store: Path) -> None:
    """A part of it can be guessed, or found by trying."""
    path = store / "w" / "t"
    data = path.read_bytes()
    for place in range(32):
        signature = bytearray(data[32:64])
        signature[place] ^= 1
        path.write_bytes(_resigned(data, bytes(signature)))
        assert_untrusted(signed, "signed with another key, or changed")


def _resigned(data: bytes, signature: bytes) -> bytes:
    from xxhash import xxh3_128_digest

    length = int.from_bytes(data[12:16], "little")
    digest = xxh3_128_digest(data[:16] + signature + data[64 : 64 + length])
    return data[:16] + digest + signature + data[64:]


def test_moved_results_are_refused_and_old_ones_are_not(signed: FileStorage, store: Path) -> None:
    """A signature holds for one task; that it's the latest result of it, it can't tell."""
    path = store / "w" / "t"
    earlier = path.read_bytes()
    path.write_bytes((store / "w" / "other").read_bytes())
    with pytest.raises(DamagedResultError, match="the result of task 'other'"):
        signed.read_task("w", "t")
    path.write_bytes(earlier)
    signed.save("w", "t", "later")
    path.write_bytes(earlier)  # a roll-back: not covered, and docs/format.md says so
    assert 499 == signed.read_task("w", "t")["a"][-1]


def test_an_empty_key_is_refused() -> None:
    """An unset variable must not mean that nothing is checked."""
    with pytest.raises(ValueError, match="key"):
        storage_factory({"kind": "file", "options": {"path": "x", "key": ""}})


# Secrets.


def told(error: BaseException) -> str:
    """Return all that an error shows anywhere."""
    texts = []
    seen: BaseException | None = error
    while seen is not None:
        texts += [str(seen), repr(seen), *getattr(seen, "__notes__", ())]
        texts += traceback.format_exception(seen)
        seen = seen.__cause__ or seen.__context__
    return "\n".join(texts)


def test_the_key_is_nowhere(
    store: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """In no repr, log, error, header or file."""
    caplog.set_level(logging.DEBUG)
    storage = FileStorage(store, key=KEY)
    info = storage.save("w", "t", {"a": 1})
    shown = [repr(storage), str(storage), f"{storage}", repr(storage.store), repr(info)]
    shown += [repr(storage.task_info("w", "t")), repr(storage.verify()), repr(storage.du())]
    FileStorage(store, key="another").save("w", "u", 1)
    attempts: list[Callable[[], Any]] = [
        lambda: storage.read_task("w", "u"),
        lambda: storage.read_task("w", "missing"),
        lambda: storage.save("w", "t", (iter([]) for _ in ())),
        lambda: storage.save("w", "t", 1, if_absent=True),
    ]
    for attempt in attempts:
        with pytest.raises((FunctionFuseError, OSError)) as caught:
            attempt()
        shown.append(told(caught.value))
    assert KEY not in "\n".join([*shown, caplog.text, *capsys.readouterr()])
    assert not [
        path for path in store.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"key": KEY},
        {"path": "x", "key": KEY, "durability": "nonsense"},
        {"path": "x", "key": [KEY]},
        {"path": "x", "key": {"value": KEY}},
        {"path": "x", "keyy": KEY},
        {"path": [KEY], "key": KEY},
        {"path": "x", "key": KEY, "trust": {"allow": 1}},
        {"path": "x", "key": KEY, "trust": {"allow": [], "key": KEY}},
        {"path": "x", "key": KEY, "private": "perhaps"},
    ],
)
def test_wrong_options_don_t_show_the_key(options: dict[str, Any]) -> None:
    """What is wrong is told without what was given."""
    attempts: list[Callable[[], Any]] = [
        lambda: storage_factory({"kind": "file", "options": options}),
        lambda: FileStorage(**{"path": "x", **options, **({} if len(options) > 1 else {"y": 1})}),
    ]
    for attempt in attempts:
        with pytest.raises(ValueError) as caught:  # noqa: PT011  # its text is what is tested
            attempt()
        assert KEY not in told(caught.value)
