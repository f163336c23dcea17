"""KeyboardInterrupt at every line that a save, a restore or a removal executes."""

from __future__ import annotations

import gc
import linecache
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from kept_values import Kept, KeptSerializer

import functionfuse
from functionfuse.config.options import StorageOptions
from functionfuse.errors import ResultNotFoundError
from functionfuse.storage import BlobStore, Storage
from functionfuse.storage.catalog import info_of, is_earlier, is_result
from functionfuse.storage.filestore import FileStore

CORE = os.path.dirname(functionfuse.__file__) + os.sep
OLD, NEW, OTHER = "1" * 32, "2" * 32, "3" * 32
# Here only a tracer can interrupt: Python looks for signals after calls, and the call before these
# lines was the one that opened, or the last one of a `try`.
TRACERS_ONLY = (
    *("try:", "os.close(", "flush_and_close(", "return directory", "return file"),
    *("return (first, second)", "for directory in opened", "except BaseException as error:"),
    *("if first >= 0:", "if file >= 0:"),
)
# A staged file is closed, and put, when Python removes its object at the latest.
STAGED = "blobstore.py"


class Tracer:
    """Raises KeyboardInterrupt before the `number`-th line of Function Fuse."""

    def __init__(self, folders: tuple[str, ...], number: int) -> None:
        self.folders, self.left, self.frame = folders, number, ("", 0)

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        return self.line if frame.f_code.co_filename.startswith(self.folders) else None

    def line(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            self.left -= 1
            if self.left == 0:
                self.frame = frame.f_code.co_filename, frame.f_lineno
                raise KeyboardInterrupt
        return self.line

    @property
    def code(self) -> str:
        """The line that was interrupted."""
        return linecache.getline(*self.frame).strip()

    @property
    def where(self) -> str:
        path, number = self.frame
        return f"{os.path.basename(path)}:{number}: {self.code}"

    @contextmanager
    def tracing(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self)
        try:
            yield
        finally:
            sys.settrace(before)


def opened(store: str, path: Path) -> Storage:
    blobs: BlobStore
    if store == "sqlite":
        blobs = pytest.importorskip("functionfuse_sqlite").SqliteStore(str(path / "results.db"))
    else:
        blobs = FileStore(str(path))
    storage = Storage(blobs, StorageOptions.model_validate({"earlier": {"days": 3}}))
    storage.register_persistent_serializers(KeptSerializer)
    return storage


def save(
    storage: Storage, call: str, *, side: bool = True, size: int = 300, **options: Any
) -> None:
    data = call[:1].encode() * size
    value = [call, Kept(data) if side else data]
    storage.save("w", "t", value, fingerprint={"call": call}, **options)


def found(storage: Storage, call: str = "") -> str | None:
    """Return the call of what is stored, whole; None if nothing is."""
    try:
        stored, data = storage.read_task("w", "t", call=call)
    except ResultNotFoundError:
        return None
    data = data.data if isinstance(data, Kept) else data
    assert not bytes(data).strip(stored[:1].encode()), "it is torn"
    return str(stored)


def restore(storage: Storage) -> None:
    [latest] = storage.task_infos("w", ["t"])
    assert {} == storage.restore("w", {"t": (OTHER, latest)})


# name: (what is there, what is interrupted, and what must be there if it ends)
Act = Callable[[Storage], None]
ACTS: dict[str, tuple[list[str], Act, str | None]] = {
    "first save": ([], lambda s: save(s, NEW), NEW),
    "without side data": ([OLD], lambda s: save(s, NEW, side=False), NEW),
    "another call": ([OTHER, OLD], lambda s: save(s, NEW), NEW),
    "the same call": ([OTHER, OLD], lambda s: save(s, OLD), OLD),
    "durable": ([OLD], lambda s: save(s, NEW, durable=True), NEW),
    "if absent": ([], lambda s: save(s, NEW, if_absent=True, durable=True), NEW),
    "20 MB": ([OLD], lambda s: save(s, NEW, side=False, size=20 << 20), NEW),
    "restore": ([OTHER, OLD], restore, OTHER),
    "remove": ([OTHER, OLD], lambda s: s.remove_task("w", "t"), None),
}


def descriptors() -> set[str]:
    """Return the open ones, without that of the listing itself."""
    return {
        name for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")
    }


def left_over(storage: Storage) -> list[str]:
    """Collect, and return what nothing refers to and is there all the same."""
    storage.gc(older_than=-1)
    keys = [blob.key for blob in storage.store.list("w/")]
    results = [key for key in keys if is_result(key) or is_earlier(key)]
    sides = [
        side for key in results for side in info_of(storage.store, key, signed_by=None).side_data
    ]
    needed = {f"w/.data/{name}" for side in sides for name, *_ in side.files}
    return [key for key in keys if "/.data/" in key and key not in needed]


def problems(storage: Storage, before: str | None, after: str | None, *, ended: bool) -> list[str]:
    """Return what is wrong after an operation that was interrupted, or ended."""
    state, wrong = found(storage), []
    if state != after and (ended or state != before):
        wrong.append(f"the result is of {state}")
    if after is not None and before is not None and found(storage, before) != before:
        wrong.append("what was replaced can't be read any more")
    wrong += [record.problem for record in storage.verify() if record.problem]
    wrong += [f"{key} is left over" for key in left_over(storage)]
    save(storage, "4" * 32)
    if found(storage) != "4" * 32:
        wrong.append("the next save does not work")
    return wrong


# A tracer comes between the opening of a file and its `with`.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("store", ["files", "sqlite"])
def test_an_interrupt_at_any_line(
    store: str, act: str, full: bool, tmp_path: Path, counts: Any
) -> None:
    """The old result or the new one is whole, no descriptor is open, and the next save works."""
    # In a thread of its own: a tracer can leave what a signal can't, such as an exception that
    # counts as being handled.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(interrupt_at_any_line, store, act, full, tmp_path, counts).result()


def interrupt_at_any_line(store: str, act: str, full: bool, tmp_path: Path, counts: Any) -> None:
    there, operation, after = ACTS[act]
    before = there[-1] if there else None
    storage = opened(store, tmp_path)
    folders = (CORE, os.path.dirname(sys.modules[type(storage.store).__module__].__file__) + os.sep)
    number, step = 0, 50 if act != "20 MB" else 200
    wrong: dict[str, int] = {}
    while True:
        number += 1 if full else counts.random.randint(1, step)
        with suppress(ResultNotFoundError):
            storage.remove_task("w", "t")
        for call in there:
            save(storage, call)
        tracer, had, ended = Tracer(folders, number), descriptors(), False
        try:
            with tracer.tracing():
                operation(storage)
                ended = True
        except KeyboardInterrupt:
            counts.add("interrupts")
        where = "at the end" if ended else tracer.where
        if where.startswith(STAGED) or descriptors() - had:
            gc.collect()  # a file object in a traceback is closed with it
        for file in descriptors() - had:
            if not where.startswith(STAGED):
                os.close(int(file))
                if not tracer.code.startswith(TRACERS_ONLY):
                    wrong[f"{where}: a descriptor is left open"] = number
        for problem in problems(storage, before, after, ended=ended):
            wrong[f"{where}: {problem}"] = number
        if ended:
            break
    assert "" == "\n".join(f"{what} (line {number})" for what, number in wrong.items())
