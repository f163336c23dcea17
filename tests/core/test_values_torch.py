"""Values of torch: storages as buffers, small views as copies, and what hostile results can't do.

Without torch they are skipped; the reason says how to install it.
"""

from __future__ import annotations

import ctypes
import pickle
import subprocess
import sys
from operator import attrgetter
from pathlib import Path
from typing import Any

import library_values
import pytest
from library_values import digests, trip, trusting
from result_bytes import of_pickle

from functionfuse import LocalWorkflow, workflow
from functionfuse.errors import DamagedResultError, UnreadableResultError, UntrustedResultError
from functionfuse.storage import values
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.pickling import dumps

torch: Any = None


@pytest.fixture(autouse=True, scope="module")
def imported() -> None:
    """Import torch for these tests only, because it is big."""
    how = "run: .venv/bin/python -m pip install torch --constraint constraints.txt"
    globals()["torch"] = pytest.importorskip("torch", reason=how)


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "store")


def assert_same(expected: Any, found: Any) -> None:
    assert type(expected) is type(found)
    for each in "dtype", "shape", "requires_grad", "is_leaf", "layout", "device":
        assert getattr(expected, each) == getattr(found, each)
    assert expected.is_conj() == found.is_conj()
    assert expected.is_neg() == found.is_neg()
    assert torch.equal(expected.detach(), found.detach())


def test_tensors_come_back(storage: FileStorage) -> None:
    """Each type of elements; views, in any order; parameters. The memory is in one buffer."""
    for expected in library_values.tensors().values():
        found, info = trip(storage, expected)
        assert_same(expected, found)
        assert expected.stride() == found.stride()
        assert torch.__version__ == info.packages["torch"]
        size = expected.untyped_storage().nbytes()
        assert ([size] if size >= 1024 else []) == [size for size, _ in info.buffers]


@pytest.mark.parametrize("elements", [10, 10_000, 5_000_000])
def test_a_tensor_that_is_read_may_change(storage: FileStorage, elements: int) -> None:
    """In place, whether it is in the pickle, in memory or in a map; its file stays as it is."""
    expected = torch.arange(elements)
    storage.save("w", "t", expected)
    found = storage.read_task("w", "t")
    found.mul_(2).add_(1)
    assert torch.equal(2 * expected + 1, found)
    assert torch.equal(expected, storage.read_task("w", "t"))
    assert [None] == [checked.problem or None for checked in storage.verify()]


def test_read_only_memory_is_copied() -> None:
    """Writing to it would end the process."""
    storage = values.torch_storage(memoryview(bytes(2000)))
    storage.fill_(7)
    assert bytes([7] * 2000) == bytes(storage.tolist())


def test_tensors_share_memory_as_before(storage: FileStorage) -> None:
    """Views of one storage, tied weights, and the parameters that an optimizer has."""
    base = torch.arange(10_000.0)
    found, info = trip(storage, {"base": base, "view": base[10:-10], "again": base})
    assert [40_000] == [size for size, _ in info.buffers]
    assert found["base"] is found["again"]
    found["base"][10] = -1
    assert -1 == found["view"][0]
    found, info = trip(storage, library_values.module())
    first, second = found["model"]
    assert first.weight is second.weight
    assert first.weight is found["optimizer"].param_groups[0]["params"][0]
    # The weights, and the two averages that the optimizer has of them.
    assert [160_000] * 3 == [size for size, _ in info.buffers if size > 100_000]


def test_a_module_works_as_before(storage: FileStorage) -> None:
    """A module, and its state, give the same results and can be trained."""
    made = library_values.module()
    model, given = made["model"], torch.ones(200)
    found, _ = trip(storage, made)
    torch.testing.assert_close(model(given), found["model"](given))
    for each in made, found:
        each["optimizer"].zero_grad()
        each["model"](given).sum().backward()
        each["optimizer"].step()
    torch.testing.assert_close(model(given), found["model"](given))
    state, _ = trip(storage, model.state_dict())
    assert list(model.state_dict()) == list(state)
    found["model"].load_state_dict(state)


def test_a_small_view_is_stored_without_the_rest(storage: FileStorage) -> None:
    """It is a copy then, with what belongs to it; a view of half is stored with all its storage."""
    base = torch.arange(10_000.0)
    for view in (base[:10], base[::1000], base[5], base.reshape(100, 100).T[3:5]):
        found, info = trip(storage, view)
        assert_same(view, found)
        assert info.size < 2500
    _, info = trip(storage, base[5000:])
    assert [40_000] == [size for size, _ in info.buffers]
    view = base[:10].requires_grad_()
    view.note = "of mine"
    found, info = trip(storage, view)
    assert_same(view, found)
    assert "of mine" == found.note
    assert info.size < 2500
    found, info = trip(storage, {"base": base, "view": base[:10]})
    found["base"][0] = -1
    assert 0 == found["view"][0]
    (first, second), _ = trip(storage, [base[:10], base[:10].view(5, 2)])
    first[0] = -1
    assert 0 == second[0, 0]
    conjugate = torch.complex(base, base)[:10].conj()
    assert torch.equal(conjugate, trip(storage, conjugate)[0])
    assert base.untyped_storage().nbytes() == base[:10].untyped_storage().nbytes()  # as before


def test_a_buffer_keeps_its_storage() -> None:
    """The copy of a small view is nobody else's, and is written after it was pickled."""
    expected = torch.arange(1_000_000)[:200_000]
    [view] = dumps(expected).views
    memory: Any = view.obj
    assert ctypes.addressof(memory) == memory.owner.data_ptr()
    assert expected.numpy().tobytes() == view.tobytes()


def test_memory_of_a_small_tensor_may_move_after_it_was_pickled() -> None:
    """As a queue of torch.multiprocessing moves it, in a thread. More than 1 MiB isn't copied."""
    for elements in (10, 3000, 1 << 18):
        tensor = torch.arange(elements, dtype=torch.int32)
        expected = tensor.clone()
        pickled = dumps(tensor)
        tensor.zero_()
        tensor.resize_(1 << 22)
        found = pickle.loads(b"".join(pickled.frames), buffers=pickled.views)
        assert torch.equal(expected, found)
    big = torch.ones((1 << 18) + 1)
    [view] = dumps(big).views
    big[-1] = 2
    assert [1, 2] == view.cast("f").tolist()[-2:]


@pytest.mark.filterwarnings("ignore")  # torch's own, of types that are in beta or on their way out
def test_other_layouts_and_devices_come_back(storage: FileStorage) -> None:
    """Sparse, quantized and nested tensors, those without memory, and storages by themselves."""
    sparse = torch.eye(100).to_sparse()
    rows = torch.eye(100).to_sparse_csr()
    for value in (sparse, rows):
        found, _ = trip(storage, value)
        assert value.layout is found.layout
        assert torch.equal(value.to_dense(), found.to_dense())
    quantized = torch.quantize_per_tensor(torch.arange(3000.0), 0.5, 1, torch.qint8)
    found, info = trip(storage, quantized)
    assert torch.equal(quantized.dequantize(), found.dequantize())
    assert [3000] == [size for size, _ in info.buffers]
    found, info = trip(storage, torch.empty(3000, device="meta"))
    assert ("meta", (3000,), []) == (found.device.type, found.shape, info.buffers)
    for value in (torch.ones(3000).untyped_storage(), torch.UntypedStorage(0)):
        found, _ = trip(storage, value)
        assert type(value) is type(found)
        assert value.tolist() == found.tolist()


def test_tensors_in_closures_are_buffers(storage: FileStorage) -> None:
    """Where cloudpickle writes the value, too."""
    base = torch.arange(10_000.0)
    found, info = trip(storage, lambda: base)
    assert info.by_value
    assert torch.equal(base, found())
    assert [40_000] == [size for size, _ in info.buffers]


def with_gradient() -> Any:
    layer = torch.nn.Linear(2, 1)
    layer(torch.ones(2)).sum().backward()
    return layer


# What a node returns, and whether later nodes get it as it is read.
RETURNED: dict[str, tuple[Any, bool]] = {
    "a small part": (lambda: torch.arange(10.0)[:3], True),
    "a gradient": (with_gradient, True),
    "a graph": (lambda: torch.ones(3, requires_grad=True) * 2, True),
    "a module": (lambda: torch.nn.Linear(2, 1), False),
    "a part": (lambda: torch.arange(10.0)[:6], False),
    "of another layout": (lambda: torch.eye(3).to_sparse(), False),
}


@pytest.mark.parametrize("kind", RETURNED)
def test_what_is_not_stored_reaches_no_later_node(storage: FileStorage, kind: str) -> None:
    """A node gets the same from a computed result as from one that is read, in a later run."""
    make, is_read = RETURNED[kind]
    value = make()

    @workflow(version="1")
    def made() -> Any:
        return value

    @workflow(version="1")
    def taken(found: Any) -> bool:
        return found is value

    flow = LocalWorkflow(taken(made()), workflow_name="w")
    flow.set_storage(storage)
    assert is_read != flow.run()


def test_small_parts_no_longer_share_memory(storage: FileStorage) -> None:
    """Neither for a node whose parent was just computed, nor for one whose parent is read."""

    @workflow(version="1")
    def parts() -> Any:
        base = torch.arange(10.0)
        return {"all": base, "first": base[:3]}

    @workflow(version="1")
    def halved(found: Any) -> float:
        found["first"] /= 2
        return float(found["all"].sum())

    for _ in range(2):
        flow = LocalWorkflow(halved(parts()).set_name("halved"), workflow_name="w")
        flow.set_storage(storage)
        assert 45 == flow.run()
        storage.remove_task("w", "halved")


def test_subclasses_are_stored_as_torch_does(storage: FileStorage) -> None:
    """Only exact types have reducers; memory of subclasses is in buffers nevertheless."""
    assert values.reducer_of(type("Own", (torch.Tensor,), {})) is None
    assert values.reducer_of(torch.Tensor) is not None


def test_equal_values_have_equal_digests(tmp_path: Path) -> None:
    """Tensors, modules and optimizers, in two processes."""
    first = digests(tmp_path, "torch", "torch, module", seed=1)
    assert 18 == len(first)
    assert first == digests(tmp_path, "torch", "torch, module", seed=2)


# Allow-lists.

ALLOWED = "torch", "collections.OrderedDict", "builtins.bytearray"


def test_an_allow_list_names_torch(storage: FileStorage) -> None:
    """Tensors and parameters are read if their package is allowed, and not by our functions."""
    value = {name: each for name, each in library_values.tensors().items() if name != "float8"}
    storage.save("w", "t", value)
    found = trusting(storage, *ALLOWED).read_task("w", "t")
    for name, each in value.items():
        assert_same(each, found[name])
    for entries in ([], ["functionfuse", "collections"], ["torch._utils", "collections"]):
        with pytest.raises(UntrustedResultError, match="torch"):
            trusting(storage, *entries).read_task("w", "t")


def test_only_data_of_torch_is_allowed_by_its_package(storage: FileStorage) -> None:
    """A class that opens files or loads code when it is made needs an entry of its own."""
    for value in (torch.Size([1]), torch.float32, torch.ones(3).size()):
        storage.save("w", "t", value)
        assert value == trusting(storage, "torch").read_task("w", "t")
    names = "PyTorchFileReader", "package.PackageImporter", "utils.data.DataLoader"
    for value in (*(attrgetter(name)(torch) for name in names), torch.nn.Linear):
        storage.save("w", "t", value)
        with pytest.raises(UntrustedResultError, match="needs an entry of its own"):
            trusting(storage, "torch").read_task("w", "t")


def plain(*arguments: Any) -> bytes:
    return b"".join(pickle.dumps(each, 3)[2:-1] for each in arguments)


def call(path: str, *arguments: bytes) -> bytes:
    module, _, name = path.rpartition(".")
    return f"c{module}\n{name}\n(".encode() + b"".join(arguments) + b"tR"


def ours(name: str, *arguments: bytes) -> bytes:
    return call(f"{values.__name__}.{name}", *arguments)


def storage_of(data: bytes, dtype: str = "float32") -> bytes:
    memory = ours("torch_storage", call("builtins.bytearray", plain(data)))
    return ours("torch_typed_storage", memory, f"ctorch\n{dtype}\n".encode())


def tensor(
    size: Any,
    stride: Any,
    offset: int = 0,
    *,
    dtype: str = "float32",
    data: bytes = b"1" * 40,
    bits: Any = None,
) -> bytes:
    """Return the opcodes of a tensor, by default over 40 bytes."""
    rest = plain(offset, size, stride, False), call("collections.OrderedDict"), plain(bits)
    return call("torch._utils._rebuild_tensor_v2", storage_of(data, dtype), *rest)


def made(kind: str, *arguments: Any, **keywords: Any) -> bytes:
    """Return the opcodes of an object that a class makes: NEWOBJ_EX."""
    module, _, name = kind.rpartition(".")
    return f"c{module}\n{name}\n".encode() + plain(arguments, keywords) + b"\x92"


def read(folder: Path, pickled: bytes, *allow: str) -> Any:
    (folder / "w").mkdir(exist_ok=True)
    (folder / "w" / "t").write_bytes(of_pickle(b"\x80\x05" + pickled + b"."))
    return FileStorage(folder, trust={"allow": list(allow or ALLOWED)}).read_task("w", "t")


HOSTILE = {
    "more elements than memory": tensor((11,), (1,)),
    "an offset beyond it": tensor((10,), (1,), 1),
    "an offset before it": tensor((10,), (1,), -1),
    "steps beyond it": tensor((10,), (2,)),
    "steps backwards": tensor((10,), (-1,), 9),
    "a size that overflows": tensor((2**62, 4), (1, 1)),
    "steps that overflow": tensor((5,), (2**62,)),
    "an offset that overflows": tensor((1,), (1,), 2**61),
    "steps of another number": tensor((10,), (1, 1)),
    "sizes that are none": tensor("x", (1,)),
    "wider elements": tensor((10,), (1,), dtype="float64"),
    "a type that is none": tensor((10,), (1,), dtype="zeros"),
    "memory that is none": ours("torch_storage", plain(9)),
    "a text": ours("torch_storage", plain("text")),
    "a type of another kind": ours("torch_typed_storage", plain(1, None)),
    "a file": call("torch.storage._load_from_bytes", plain(b"")),
    "what runs code": call("torch.load", plain("/dev/null")),
    "bits of other types": tensor((10,), (1,), dtype="int32", bits={"neg": True}),
    "bits of complex numbers": tensor((10,), (1,), bits={"conj": True}),
    "elements without memory": tensor((1000,), (1,), data=b""),
    "a storage that is none": call("torch._utils._rebuild_tensor_v2", plain(1, 0, 1, 1, 0, 0)),
    # A bytearray that grows would leave a tensor with memory that is free.
    "memory that grows": call("builtins.bytearray", plain(b"1" * 10**6))
    + b"q\xf00"
    + ours("torch_storage", b"h\xf0")
    + b"q\xf10h\xf0("
    + plain(*range(99))
    + b"e0h\xf1",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tensors_are_refused(tmp_path: Path, name: str) -> None:
    """A tensor sees its own memory only, and our functions take memory and types only."""
    with pytest.raises((DamagedResultError, UnreadableResultError, UntrustedResultError)):
        read(tmp_path, HOSTILE[name])


def test_a_sound_tensor_is_read(tmp_path: Path) -> None:
    """The table above isn't refused for another reason."""
    expected = torch.frombuffer(bytearray(b"1" * 40), dtype=torch.float32)
    assert torch.equal(expected, read(tmp_path, tensor((10,), (1,))))


CLASSES = {
    "torch.Tensor": {"cdata": 0x4141414141},
    "torch.storage.UntypedStorage": {"allocator": 0x4141414141},
    "torch.FloatStorage": {"allocator": 0x4141414141},
    "torch.nn.parameter.Parameter": {},
}
CRASHING = {
    **{f"{kind} at an address": made(kind, **given) for kind, given in CLASSES.items()},
    "memory of others": made("torch.storage.UntypedStorage", 1000),
    "a storage that changes": storage_of(b"1") + b"}X\5\0\0\0dtypectorch\nquint8\nsb",
    "a tensor that changes": tensor((1,), (1,))
    + b"("
    + ours("torch_storage", call("builtins.bytearray", plain(b"")))
    + plain(0, (1000,), (1,))
    + b"tb",
    "a quantized type": tensor((10,), (1,), dtype="quint8"),
    "a quantized type with bits": tensor((10,), (1,), dtype="quint8", bits={"neg": True}),
}
CHILD = """
import pickle, sys, torch
from functionfuse.errors import DamagedResultError, UnreadableResultError, UntrustedResultError
from functionfuse.storage.unpickling import loads
for name, pickled in pickle.load(sys.stdin.buffer).items():
    print(name, flush=True)
    for allow in pickle.loads(bytes.fromhex(sys.argv[1])):
        try:
            loads(memoryview(pickled), [], allow=allow).clone()
        except (DamagedResultError, UnreadableResultError, UntrustedResultError):
            continue
        sys.exit("it is read")
"""


def test_torch_s_classes_are_not_called() -> None:
    """They take addresses from a pickle. An entry of their own doesn't allow it, either."""
    pickles = {name: b"\x80\x05" + pickled + b"." for name, pickled in CRASHING.items()}
    allowed = [list(ALLOWED), [*ALLOWED, *CLASSES]]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, pickle.dumps(allowed).hex()],
        input=pickle.dumps(pickles),
        capture_output=True,
        check=False,
    )
    assert list(pickles) == done.stdout.decode().splitlines()
    assert (0, b"") == (done.returncode, done.stderr)


def test_a_class_of_torch_may_be_named(storage: FileStorage) -> None:
    """As a value. Storages by themselves are read, too."""
    for value in (torch.Tensor, torch.storage.UntypedStorage):
        storage.save("w", "t", value)
        assert value is trusting(storage, "torch").read_task("w", "t")
    storage.save("w", "t", torch.ones(3000).untyped_storage())
    assert 12_000 == trusting(storage, "torch", "builtins").read_task("w", "t").nbytes()
