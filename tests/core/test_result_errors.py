"""A result that can't be pickled, or read: the error says which part, why, and what to do."""

from __future__ import annotations

import errno
import importlib
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from result_bytes import MemoryStore

from functionfuse.errors import FunctionFuseError, UnpicklableResultError, UnreadableResultError
from functionfuse.storage import Storage
from functionfuse.storage.filestorage import FileStorage


class Model:
    """Has attributes, and a lock among them if it is told so."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


class Slots:
    __slots__ = ("lock", "x")

    def __init__(self) -> None:
        self.x, self.lock = 1, threading.Lock()


class Careful(Model):
    """Leaves its lock out, and has something else that can't be pickled."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: part for name, part in vars(self).items() if name != "lock"}


class Refuses:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("not me")


def lock() -> Any:
    return threading.Lock()


def looped() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    value["lock"] = lock()
    return value


@pytest.mark.parametrize(
    ("make", "place", "kind"),
    [
        (lambda: {"model": Model(lock=lock())}, "result['model'].lock", "_thread.lock"),
        (lock, "result", "_thread.lock"),
        (lambda: [0, (1, {"a": lock()})], "result[1][1]['a']", "_thread.lock"),
        (lambda: {1: {2.5: lock()}}, "result[1][2.5]", "_thread.lock"),
        (lambda: {lock()}, "result (an item)", "_thread.lock"),
        (lambda: [Slots()], "result[0].lock", "_thread.lock"),
        (lambda: Careful(lock=lock(), f=lock()), "result.f", "_thread.lock"),
        (lambda: (item for item in ()), "result", "builtins.generator"),
        (lambda: {"a": [1, Refuses()]}, "result['a'][1]", f"{__name__}.Refuses"),
        (lambda: [Model(inner=Model(x=1, y=[Refuses()]))], "result[0].inner.y[0]", "Refuses"),
        (looped, "result['lock']", "_thread.lock"),
        (lambda: np.array([1, lock()], object), "result", "numpy.ndarray"),
        (lambda: [*range(100_000), lock(), *range(100_000)], "result[100000]", "_thread.lock"),
        (lambda: [*[Model(x=np.ones(1000))] * 20_000, lock()], "result[20000]", "_thread.lock"),
    ],
)
def test_the_place_of_the_culprit(make: Any, place: str, kind: str) -> None:
    """As an expression, with its type, the cause, and what to do; and nothing was stored."""
    store = MemoryStore()
    with pytest.raises(UnpicklableResultError) as caught:
        Storage(store).save("w", "t", make())
    text = str(caught.value)
    assert text.startswith(f"{place} is a ")
    assert kind in text.partition(" and can't be pickled: ")[0]
    assert "log_nodes" in text
    assert isinstance(caught.value, TypeError)
    assert caught.value.__cause__ is not None
    assert ["while saving task 't' of workflow 'w' in Storage("] == [
        note[:49] for note in caught.value.__notes__
    ]
    assert {} == store.blobs


def test_what_a_serializer_keeps_is_no_culprit() -> None:
    """The place is that of what nobody can keep."""

    class Keeps:
        name = "keeps"
        serializer_class = Slots

        def pickle(self, obj: Any, protocols: dict[str, Any]) -> tuple[str, Any]:
            return self.name, 1

        def unpickle(self, pid: Any, protocols: dict[str, Any]) -> Any:
            return Slots()

        def remove(self, pid: Any, protocols: dict[str, Any]) -> None:
            """Remove nothing."""

    storage = Storage(MemoryStore())
    storage.register_persistent_serializers(Keeps())
    with pytest.raises(UnpicklableResultError, match=r"^result\['b'\] is a _thread\.lock"):
        storage.save("w", "t", {"a": Slots(), "b": lock()})


@pytest.mark.parametrize("kind", [MemoryError, OSError])
def test_a_fault_of_the_machine_is_not_the_value_s(kind: type[Exception]) -> None:
    """It comes through as what it is, with the task's name."""

    class Fails:
        def __reduce__(self) -> Any:
            raise kind(errno.ENOSPC, "no more")

    with pytest.raises(kind, match="no more") as caught:
        Storage(MemoryStore()).save("w", "t", [Fails()])
    assert not isinstance(caught.value, FunctionFuseError)
    assert "task 't'" in caught.value.__notes__[0]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a version, that tests change under the stored results' feet."""
    folder = tmp_path / "site" / "shapes_of_yore"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("__version__ = '1.2'\n")
    (folder / "flat.py").write_text(
        "class Square:\n    side = 3\n\n    class Corner:\n        pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return folder


def forget() -> None:
    for name in [name for name in sys.modules if name.startswith("shapes_of_yore")]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.mark.parametrize(
    ("name", "change", "missing"),
    [
        (
            "Square",
            lambda folder: (folder / "flat.py").write_text(""),
            "Can't get attribute 'Square'",
        ),
        (
            "Square.Corner",
            lambda folder: (folder / "flat.py").write_text(""),
            "Can't get attribute",
        ),
        ("Square", lambda folder: (folder / "flat.py").unlink(), "No module named"),
        ("Square", lambda folder: folder.rename(folder.parent / "gone"), "No module named"),
        (
            "Square",
            lambda folder: (folder / "flat.py").write_text("raise ValueError('broken')"),
            "broken",
        ),
    ],
)
@pytest.mark.parametrize("options", [{}, {"trust": {"allow": ["shapes_of_yore"]}}])
def test_a_class_that_has_moved(
    package: Path, tmp_path: Path, name: str, change: Any, missing: str, options: Any
) -> None:
    """The error names module, attribute and the version at the time of writing."""
    forget()
    kind = importlib.import_module("shapes_of_yore.flat").Square
    for part in name.split(".")[1:]:
        kind = getattr(kind, part)
    storage = FileStorage(tmp_path / "store", **options)
    storage.save("w", "t", [kind(), np.arange(3) if not options else 1])
    assert "1.2" == storage.task_info("w", "t").packages["shapes_of_yore"]
    forget()
    change(package)
    with pytest.raises(UnreadableResultError) as caught:
        storage.read_task("w", "t")
    text = str(caught.value)
    if missing == "broken":
        assert "ValueError: broken" in text
    else:
        assert f"{name!r} of module 'shapes_of_yore.flat': {missing}" in text
    assert "shapes_of_yore 1.2" in text
    assert f"Python {sys.version.split()[0]}" in text
    assert isinstance(caught.value, ImportError)
    assert "task 't' of workflow 'w'" in caught.value.__notes__[0]
    assert [""] == [record.problem for record in storage.verify()]
    forget()


def test_a_class_that_takes_no_more_what_was_stored(package: Path, tmp_path: Path) -> None:
    """Whatever its unpickling raises, the error says that the bytes are sound, and who wrote."""
    forget()
    flat = importlib.import_module("shapes_of_yore.flat")
    storage = FileStorage(tmp_path / "store")
    square = flat.Square()
    square.side = 4
    storage.save("w", "t", square)
    for body, told in (
        ("    def __setstate__(self, state):\n        raise KeyError('side')", "KeyError: 'side'"),
        (
            "    def __setstate__(self, state):\n        self.area.x",
            "AttributeError: 'Square' object",
        ),
    ):
        forget()
        (package / "flat.py").write_text(f"class Square:\n{body}\n")
        with pytest.raises(UnreadableResultError, match=told) as caught:
            storage.read_task("w", "t")
        assert "its bytes are sound" in str(caught.value)
        assert "shapes_of_yore 1.2" in str(caught.value)
    forget()
    body = "    def __setstate__(self, state):\n        raise MemoryError('full')"
    (package / "flat.py").write_text(f"class Square:\n{body}\n")
    with pytest.raises(MemoryError, match="full"):
        storage.read_task("w", "t")
    forget()


def test_an_open_file_is_no_result(tmp_path: Path) -> None:
    """Cloudpickle would store its text in its place."""
    (tmp_path / "text").write_text("lines")
    storage = FileStorage(tmp_path / "store")
    with (tmp_path / "text").open() as file:
        for value in file, [file, lambda: 1]:
            with pytest.raises(UnpicklableResultError, match="open file"):
                storage.save("w", "t", value)
