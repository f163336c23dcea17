"""Objects that are in no stored result: recipes, references, and parts of our own storages."""

from __future__ import annotations

import copy
import functools
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import numpy as np
import pytest
from pydantic import SecretStr

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import UnpicklableResultError
from functionfuse.serializers import generate_name
from functionfuse.serializers.refused import refusal_of
from functionfuse.storage import Storage
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.filestore import FileStore
from functionfuse.storage.options import Secret, StorageOptions

KEY = "KEY-OF-MINE"


@dataclass
class Holder:
    part: Any


class PickledInside:
    """Keeps a pickle of its part in its own."""

    def __init__(self, part: Any) -> None:
        self.part = part

    def __reduce__(self) -> Any:
        return pickle.loads, (pickle.dumps(self.part),)


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "store")


@pytest.fixture
def signed(tmp_path: Path) -> Storage:
    return Storage(FileStore(tmp_path / "signed"), StorageOptions(key=KEY))  # type: ignore[arg-type]


def closure(part: Any) -> Any:
    return lambda: part


SHAPES = [
    (lambda part: part, "result is a "),
    (lambda part: {"t": [part]}, r"result\['t'\]\[0\] is a "),
    (lambda part: Holder({part}), r"result\.part \(an item\) is a "),
    (closure, r"result \(its variable 'part'\) is a "),
    (lambda part: functools.partial(print, part), "result holds a "),
    (lambda part: np.array([part, 1], dtype=object), "result holds a "),
    (PickledInside, r"result\.part is a "),
    (lambda part: ValueError("wrong", part), "result holds a "),
]


@pytest.mark.parametrize(("shape", "told"), SHAPES)
def test_our_own_storages_are_in_no_result(
    storage: Storage, signed: Storage, shape: Any, told: str
) -> None:
    """At any depth, in closures, and in pickles within pickles. Nothing is stored."""
    told += "functionfuse.storage Storage: part of a storage or its options, .* log_nodes"
    with pytest.raises(UnpicklableResultError, match=told):
        storage.save("w", "t", shape(signed))
    assert [] == list(storage.store.list(""))


def test_stores_options_and_secrets_are_in_no_result(storage: Storage, signed: Storage) -> None:
    """Neither the parts of a storage, nor what can be taken out of its options."""
    options = StorageOptions(key=KEY)  # type: ignore[arg-type]
    assert isinstance(options.key, Secret)
    for part in (signed.store, options, options.key, signed.store.protocols("w/"), options.copy):
        assert KEY not in repr(part)
    files = storage.protocols["file_protocol"]
    for part in (signed.store, options, options.key, files, files.folder):
        with pytest.raises(UnpicklableResultError, match="part of a storage or its options"):
            storage.save("w", "t", [part])
    storage.save("w", "t", SecretStr("yours"))
    assert "yours" == storage.read_task("w", "t").get_secret_value()


def test_what_goes_to_workers_is_pickled(storage: Storage, signed: Storage) -> None:
    """Before a save, during a save by a serializer, and after a save that was refused."""

    class Sends:
        name, serializer_class = "sends", Holder

        def pickle(self, obj: Holder, protocols: dict[str, Any]) -> tuple[str, Any]:
            name = generate_name()
            with protocols["file_protocol"].open(name, "wb") as file:
                file.write(pickle.dumps(obj.part))
            return self.name, name

        def unpickle(self, pid: Any, protocols: dict[str, Any]) -> Holder:
            with protocols["file_protocol"].open(pid) as file:
                return Holder(pickle.loads(file.read()))

        def remove(self, pid: Any, protocols: dict[str, Any]) -> None:
            protocols["file_protocol"].remove(pid)

    storage.register_persistent_serializers(Sends())  # type: ignore[arg-type]
    storage.save("w", "t", Holder(signed))
    assert isinstance(storage.read_task("w", "t").part, Storage)
    with pytest.raises(UnpicklableResultError, match="part of a storage"):
        storage.save("w", "u", [Holder(1), signed])
    for dumps in (pickle.dumps, cloudpickle.dumps):
        assert isinstance(pickle.loads(dumps([signed, signed.store]))[0], Storage)
    assert isinstance(copy.deepcopy(signed), Storage)


def test_a_node_that_returns_its_storage_is_named(storage: Storage) -> None:
    """If the node is in `log_nodes`, its result is not stored, and passes."""

    @workflow
    def give() -> Any:
        return storage

    flow = LocalWorkflow(give().set_name("give"), workflow_name="w")
    flow.set_storage(storage)
    with pytest.raises(UnpicklableResultError, match="part of a storage") as raised:
        flow.run()
    assert any("node 'give'" in note for note in raised.value.__notes__)


@pytest.mark.parametrize(
    ("module", "name", "cure"),
    [
        ("polars.lazyframe.frame", "LazyFrame", r"\.collect\(\) of it"),
        ("ray", "ObjectRef", r"ray\.get\(\) of it"),
        ("zarr.storage._obstore", "ObjectStore", "its path"),
        ("distributed.client", "Future", r"\.result\(\) of it"),
    ],
)
def test_types_are_known_by_name(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, module: str, name: str, cure: str
) -> None:
    """Libraries that core's tests do without: a class of the same name stands in."""
    library = sys.modules.get(module) or ModuleType(module)
    if module not in sys.modules:
        top = module.partition(".")[0]
        monkeypatch.setitem(sys.modules, top, sys.modules.get(top) or ModuleType(top))
        monkeypatch.setitem(sys.modules, module, library)
    kind = type(name, (), {"__module__": module})
    monkeypatch.setattr(library, name, kind, raising=False)
    for value in ([kind()], [type("Mine", (kind,), {})()]):
        with pytest.raises(UnpicklableResultError, match=rf"result\[0\] is a .*{cure}, or"):
            storage.save("w", "t", value)


def test_datasets_of_pyarrow_are_refused(storage: Storage, tmp_path: Path) -> None:
    """And their parts. A table is stored."""
    pyarrow = pytest.importorskip("pyarrow")
    dataset = pytest.importorskip("pyarrow.dataset")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"a": [1, 2]})
    parquet.write_table(table, tmp_path / "a.parquet")
    found = dataset.dataset(tmp_path / "a.parquet")
    fragment = next(iter(found.get_fragments()))
    lazy = [found, fragment, found.scanner(), dataset.dataset(table)]
    for value in (*lazy, parquet.ParquetDataset(tmp_path / "a.parquet")):
        with pytest.raises(UnpicklableResultError, match=r"pyarrow .* recipe.*\.to_table\(\)"):
            storage.save("w", "t", {"x": value})
    storage.save("w", "t", found.to_table())
    assert table.equals(storage.read_task("w", "t"))


def test_usual_types_are_not_refused() -> None:
    """Nor classes themselves."""
    assert {""} == {refusal_of(kind) for kind in (int, type, np.ndarray, Holder, Path)}
