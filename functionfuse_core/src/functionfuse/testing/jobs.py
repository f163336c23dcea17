"""The jobs that the kits run in other processes, and the program of such a process.

A process runs this file by its path, so that it imports only the standard library and the modules
that its jobs need. It receives pickles of (search path, (job, arguments)), and answers with pickles
of (whether the job raised, the result or the error).
"""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, overload

__all__ = ["Blob", "Parts", "is_whole", "self_checking"]

_DIGEST = 16
_LATE = 300.0  # seconds


def self_checking(size: int, seed: int = 0) -> bytes:
    """Return a blob of `size` bytes, 16 or more, that begins with the digest of the rest."""
    rest = random.Random(f"{seed} {size}").randbytes(size - _DIGEST)
    return hashlib.blake2b(rest, digest_size=_DIGEST).digest() + rest


def is_whole(data: bytes | bytearray | memoryview) -> bool:
    """Return whether a blob is exactly one that `self_checking` made."""
    view = memoryview(data)
    digest = hashlib.blake2b(view[_DIGEST:], digest_size=_DIGEST).digest()
    return len(view) >= _DIGEST and digest == bytes(view[:_DIGEST])


class Blob:
    """A blob, or None, for assertions: its repr is short, even if the blob has megabytes."""

    def __init__(self, data: bytes | bytearray | memoryview | None) -> None:
        self.data = None if data is None else bytes(data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Blob) and self.data == other.data

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        if self.data is None:
            return "no blob"
        shown = self.data if len(self.data) <= 60 else self.data[:60] + b"..."
        return f"{len(self.data)} bytes, {shown!r}"


class Parts(Sequence[Any]):
    """The parts of a blob; `then` is called when a store reads the last part."""

    def __init__(self, parts: Sequence[Any], then: Callable[[], object]) -> None:
        self.parts = list(parts)
        self.then = then
        self.done = False

    def __len__(self) -> int:
        return len(self.parts)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[index] for index in range(*index.indices(len(self.parts)))]
        part = self.parts[index]
        if index in (-1, len(self.parts) - 1) and not self.done:
            self.done = True
            self.then()
        return part


def in_parts(data: bytes, count: int = 8) -> list[memoryview]:
    """Return a blob in parts of about the same size."""
    step = -(-len(data) // count) or 1
    return [memoryview(data)[start : start + step] for start in range(0, len(data), step)]


def call(owner: Any, method: str, *arguments: Any, **named: Any) -> Any:
    """Call a method; return its result in a form that pickles."""
    result = getattr(owner, method)(*arguments, **named)
    if isinstance(result, memoryview | bytearray):
        return bytes(result)
    return list(result) if isinstance(result, Iterator) else result


def save_again(storage: Any, names: tuple[str, str], new_names: tuple[str, str]) -> None:
    """Read a result, and save it under other names."""
    storage.save(*new_names, storage.read_task(*names))


def put_all(store: Any, blobs: dict[str, bytes]) -> None:
    """Put blobs, and get each of them right after."""
    for key, data in blobs.items():
        store.put(key, [data])
        if bytes(store.get(key)) != data:
            raise AssertionError(f"{key!r} is not what was put a moment ago")


def race(store: Any, keys: Sequence[str], data: bytes, start: float, step: float) -> list[str]:
    """Put a blob under each absent key, each at its own time; return the keys that were won."""
    won = []
    for number, key in enumerate(keys):
        while time.time() < start + number * step:
            pass
        try:
            store.put(key, in_parts(data), if_absent=True)
        except FileExistsError:
            continue
        won.append(key)
    return won


def replace(store: Any, key: str, blobs: Sequence[bytes], seconds: float) -> int:
    """Put blobs under one key in turn, for some seconds; return the number of puts."""
    count, end = 0, time.monotonic() + seconds
    while True:
        store.put(key, in_parts(blobs[count % len(blobs)]))
        count += 1
        if time.monotonic() > end:
            return count


def copy_all(store: Any, keys: Sequence[str], to: str, seconds: float) -> int:
    """Copy blobs to one key in turn, for some seconds; return the number of copies."""
    count, end = 0, time.monotonic() + seconds
    while True:
        store.copy(keys[count % len(keys)], to)
        count += 1
        if time.monotonic() > end:
            return count


def watch(store: Any, key: str, seconds: float, *, absent: bool = False) -> int:
    """Get one blob for some seconds, and check that it is whole; return the number of gets."""
    count, end = 0, time.monotonic() + seconds
    while True:
        try:
            data = store.get(key)
        except FileNotFoundError:
            if not absent:
                raise
        else:
            if not is_whole(data):
                raise AssertionError(f"get returned {len(data)} bytes that nobody has put: torn")
        count += 1
        if time.monotonic() > end:
            return count


def killed(store: Any, key: str, blobs: Sequence[bytes], delays: Sequence[float]) -> None:
    """Kill processes, one at a time, that put blobs under one key; check the blob after each."""
    for delay in delays:
        _kill_after(delay, partial(replace, store, key, blobs, _LATE))
        _wait(_child(lambda: watch(store, key, 0, absent=True)))


def killed_copies(store: Any, keys: Sequence[str], to: str, delays: Sequence[float]) -> None:
    """Kill processes, one at a time, that copy blobs to one key; check it and them after each."""
    for delay in delays:
        _kill_after(delay, partial(copy_all, store, keys, to, _LATE))
        _wait(_child(lambda: [watch(store, key, 0) for key in (*keys, to)]))


def killed_in_put(store: Any, key: str, data: bytes) -> None:
    """Kill a process that puts a blob, when the store reads the blob's last part."""

    def end() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    process = _child(lambda: store.put(key, Parts(in_parts(data), end)))
    _, status = os.waitpid(process, 0)
    if not os.WIFSIGNALED(status):
        raise AssertionError("the store returned from put without having read the last part")


def forked(store: Any, key: str, count: int) -> None:
    """Use a store, fork, and use it in all processes at the same time."""
    store.put(key, [self_checking(1000)])
    if not is_whole(store.get(key)):
        raise AssertionError("the blob is not whole before the fork")
    children = [_child(partial(_use, store, f"{key}-{number}", count)) for number in range(3)]
    try:
        _use(store, key, count)
    finally:
        for child in children:
            _wait(child)
    _use(store, key, 1)


def save_results(
    storage: Any, names: tuple[str, str], values: Sequence[Any], seconds: float
) -> int:
    """Save values under one name in turn, for some seconds; return the number of saves."""
    count, end = 0, time.monotonic() + seconds
    while True:
        storage.save(*names, values[count % len(values)])
        count += 1
        if time.monotonic() > end:
            return count


def read_results(
    storage: Any, names: tuple[str, str], values: Sequence[Any], seconds: float
) -> int:
    """Read one result for some seconds; check that it is one of the values; return the number."""
    count, end = 0, time.monotonic() + seconds
    while True:
        if storage.read_task(*names) not in values:
            raise AssertionError("read_task returned what nobody has saved")
        count += 1
        if time.monotonic() > end:
            return count


def killed_saves(
    storage: Any, names: tuple[str, str], made: Callable[[], Sequence[Any]], delays: Sequence[float]
) -> None:
    """Kill processes, one at a time, that save values under one name; read it after each."""
    values = made()
    for delay in delays:
        _kill_after(delay, partial(save_results, storage, names, values, _LATE))
        _wait(_child(partial(read_results, storage, names, values, 0)))


def _use(store: Any, key: str, count: int) -> None:
    """Put and get blobs that only this key has."""
    for number in range(count):
        data = key.encode() * (1 + 97 * number % 1000)
        store.put(key, [data])
        for _ in range(10):
            found = bytes(store.get(key))
            if found != data:
                raise AssertionError(
                    f"get({key!r}) returned {len(found)} bytes {found[:20]!r}… and not the"
                    f" {len(data)} that this process has put: is a client shared over the fork?"
                )
        if [key] != [blob.key for blob in store.list(key) if blob.key == key]:
            raise AssertionError(f"{key!r} is not in the listing of this process")


def _child(action: Callable[[], object]) -> int:
    """Fork a process that calls `action` and ends; return its id."""
    process = os.fork()
    if process:
        return process
    try:
        # If it hangs, the alarm ends it without a traceback; `_wait` reports that.
        signal.alarm(int(_LATE))
        action()
    except BaseException:  # noqa: BLE001  # this process must end here, after any error
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _kill_after(delay: float, action: Callable[[], object]) -> None:
    """Fork a process that calls `action`, and kill it `delay` seconds after it has begun."""
    ready, begun = os.pipe()
    process = _child(lambda: (os.write(begun, b"."), action()))
    os.close(begun)
    os.read(ready, 1)
    os.close(ready)
    time.sleep(delay)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def _wait(process: int) -> None:
    _, status = os.waitpid(process, 0)
    if status:
        raise AssertionError(f"a forked process failed (wait status {status}); see its traceback")


def main() -> None:
    """Run the jobs that arrive on standard input, until it ends."""
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # output that a store prints must not mix with the answers
    while True:
        try:
            sys.path[:], question = pickle.load(questions)
        except EOFError:
            return
        try:
            job, arguments = pickle.loads(question)
            answer = pickle.dumps((False, globals()[job](*arguments)))
        except BaseException as error:  # noqa: BLE001  # raised in the process that sent the job
            error.add_note(f"in another process:\n{traceback.format_exc()}")
            try:
                answer = pickle.dumps((True, error))
                pickle.loads(answer)
            except Exception:  # noqa: BLE001  # some exceptions can't be pickled or unpickled
                answer = pickle.dumps((True, AssertionError(traceback.format_exc())))
        answers.write(answer)
        answers.flush()


if __name__ == "__main__":
    main()
