"""The base of the tests of a storage: its fixture, capabilities, and the values that they save."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from ..config.options import StorageOptions
from ..serializers import FILE_PROTOCOL, generate_name
from ..storage import Storage
from ..storage.keys import MARKER, folder_of, key_of
from .suite import Suite

__all__ = ["Grid", "Grids", "Results", "Trap", "Unpicklable", "grids_and_bytes", "sprung"]

sprung: list[str] = []


def spring(name: str) -> str:
    """Note that a value was unpickled."""
    sprung.append(name)
    return name


class Trap:
    """A value that notes when it is unpickled."""

    def __reduce__(self) -> Any:
        return spring, ("trap",)


class Unpicklable:
    """A value that can't be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("this can't be pickled")


class Grid:
    """A value that only a serializer can store."""

    def __init__(self, *rows: int) -> None:
        self.rows = rows

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grid) and self.rows == other.rows

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> Any:
        raise TypeError("only a serializer can keep a grid")


class Grids:
    """A serializer that writes two files for each grid."""

    name: str = "grids of the conformance kit"
    serializer_class: type = Grid

    def pickle(self, obj: Grid, protocols: dict[str, Any]) -> tuple[str, Any]:
        """Write the grid."""
        name = generate_name()
        with protocols[FILE_PROTOCOL].open(f"{name}.rows", "wb") as file:
            file.write(repr(obj.rows).encode())
        with protocols[FILE_PROTOCOL].open(f"{name}.size", "w") as file:
            file.write(str(len(obj.rows)))
        return self.name, name

    def unpickle(self, pid: Any, protocols: dict[str, Any]) -> Grid:
        """Read the grid."""
        with protocols[FILE_PROTOCOL].open(f"{pid}.rows", "rb") as file:
            text = file.read().decode()
        return Grid(*(int(number) for number in text.strip("(,)").split(",") if number.strip()))

    def remove(self, pid: Any, protocols: dict[str, Any]) -> None:
        """Remove both files."""
        for end in ("rows", "size"):
            protocols[FILE_PROTOCOL].remove(f"{pid}.{end}")


def grids_and_bytes() -> list[Any]:
    """Return values with side data, in the process that saves them: they don't pickle."""
    return [[Grid(number), bytes([number]) * 500_000] for number in range(3)]


class Results(Suite):
    """See `StorageSuite`."""

    processes = True
    forks = True
    conditional_put = True
    many = 1000

    @pytest.fixture
    def storage(self) -> Storage:
        """Return a fresh, empty storage."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `storage`: an empty one")

    def reopen(self, storage: Storage) -> Storage:
        """Return a second storage of the same results, which shares nothing else with the first."""
        if not self.processes:
            return storage
        copy: Storage = pickle.loads(pickle.dumps(storage))
        return copy

    def with_options(self, storage: Storage, **options: Any) -> Storage:
        """Return a storage of the same results with other `StorageOptions`."""
        return Storage(storage.store, StorageOptions.model_validate(options))

    def keys(self, storage: Storage) -> list[str]:
        """Return the keys of all blobs, without the markers of workflows."""
        keys = (blob.key for blob in self.reopen(storage).store.list(""))
        return [key for key in keys if not key.endswith(f"/{MARKER}")]

    def side_data(self, storage: Storage, workflow_name: str = "w") -> list[str]:
        """Return the keys of all side data of a workflow."""
        prefix = folder_of(workflow_name) + ".data/"
        return [key for key in self.keys(storage) if key.startswith(prefix)]

    def bytes_of(self, storage: Storage, task_name: str, workflow_name: str = "w") -> bytearray:
        """Return the bytes of a stored result."""
        return bytearray(storage.store.get(key_of(workflow_name, task_name)))

    def overwrite(self, storage: Storage, task_name: str, data: bytes | bytearray) -> None:
        """Replace the bytes of a result of workflow "w"."""
        storage.store.put(key_of("w", task_name), [data])
