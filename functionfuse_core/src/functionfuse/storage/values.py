"""Pickle the values of torch, polars and pyarrow by their own memory.

These libraries' own pickles join and copy all bytes, or keep memory that a small value only shares.
So `reducer_of` gives other reducers for their types, and only for exactly these. A pickle then
names one of the functions in `READERS`, which makes the value again of buffers and plain data.
Their names stay as they are: stored results have them.

Arrow data is written as streams, see `arrow`. Each column of a polars frame has a stream of its
own, so a column of numbers without nulls is read as it lies in the file.

Under an allow-list, the pickle may be hostile. Arrow doesn't check its data when it uses them. So
they are copied, lest another part of the result changes them later, and then validated in full.
Extension types are refused, because some of them run code when they are read.
"""

from __future__ import annotations

import ctypes
import pickle
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from importlib import import_module
from pickle import PickleBuffer
from typing import Any, NamedTuple

from ..errors import DamagedResultError
from . import arrow
from .arrow import Pieces, library

__all__ = ["READERS", "Reader", "checked_of", "reducer_of"]

Reducer = Callable[[Any], Any]

_PROTOCOL = 5
_SHARED = 2  # a value whose buffers have this many times its own bytes shows a part of them
_COPIED = 1 << 20  # bytes of a storage of torch; others can move it later, as `share_memory_` does
_SMALL = 16 << 10  # bytes of a chunk; polars' own pickle of a frame of such chunks is quicker

_have_no_width = re.compile(r"shape=\([\d, ]*\b0\b").search  # types of `polars.Array`

# Of an address and a size: a bytearray. ctypes keeps the GIL.
_copy = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(
    ("PyByteArray_FromStringAndSize", ctypes.pythonapi)
)


class Reader(NamedTuple):
    """A function that pickles name.

    Attributes:
        read: makes the value.
        checked: makes it of what a hostile pickle passes; raises any error, and doesn't crash.
        type: the value's type, which an allow-list must allow.
    """

    read: Callable[..., Any]
    checked: Callable[..., Any]
    type: str


def reducer_of(kind: type) -> Callable[[Any], tuple[Any, bool]] | None:
    """Return the reducer of a type that is stored in its own way; None for other types.

    It returns the reduced form, and whether that leaves something out: see `Pickled.read`.
    """
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name in _TENSORS:
        return lambda tensor: (_TENSORS[name](tensor), _is_more(tensor))
    reducer = _REDUCERS.get(name)
    if reducer is None and kind.__module__ == "pyarrow.lib":  # its arrays have many types
        reducer = _shown if any(base.__name__ == "Array" for base in kind.__mro__) else None
    return None if reducer is None else lambda value: (reducer(value), False)


# torch.


def _tensor(tensor: Any) -> Any:
    torch = sys.modules["torch"]
    if not _is_plain(tensor):
        return tensor.__reduce_ex__(_PROTOCOL)
    if _is_part(tensor):
        copy = tensor.detach().clone().requires_grad_(tensor.requires_grad)
        copy.__dict__.update(tensor.__dict__)
        tensor = copy
    make, arguments = tensor.__reduce_ex__(_PROTOCOL)
    if type(arguments[0]) is torch.UntypedStorage:  # torch can't read this: `_rebuild_tensor_v3`
        storage, *rest, dtype = arguments
        return torch._utils._rebuild_tensor_v2, (torch_typed_storage(storage, dtype), *rest)
    return make, arguments


def _is_plain(tensor: Any) -> bool:
    strided = tensor.layout is sys.modules["torch"].strided
    return bool(strided and tensor.device.type == "cpu" and not tensor.is_quantized)


def _is_part(tensor: Any) -> bool:
    """Return whether a tensor on the CPU shows a small part of its storage, and can be copied."""
    shown = tensor.numel() * tensor.element_size()
    return bool(tensor.is_leaf and shown * _SHARED < tensor.untyped_storage().nbytes())


def _is_more(tensor: Any) -> bool:
    """Return whether a tensor has a gradient, or comes from others, or shares memory."""
    if not tensor.is_leaf or tensor.grad is not None:
        return True
    return _is_plain(tensor) and _is_part(tensor)


def _parameter(parameter: Any) -> Any:
    return parameter.__reduce_ex__(_PROTOCOL)


def _storage(storage: Any) -> Any:
    size = storage.nbytes()
    if storage.device.type != "cpu" or (size and not storage.data_ptr()):
        return storage.__reduce_ex__(_PROTOCOL)
    if size <= _COPIED:
        # Functions in C call each other here, so no other thread gets the GIL between them.
        kind, one = type(storage), [storage]
        memory = next(map(_copy, map(kind.data_ptr, one), map(kind.nbytes, one)))
    else:
        memory = (ctypes.c_ubyte * size).from_address(storage.data_ptr())
        memory.owner = storage  # which keeps the memory
    return torch_storage, (PickleBuffer(memory),)


def _typed_storage(storage: Any) -> Any:
    if storage._untyped_storage.device.type != "cpu":
        return storage.__reduce_ex__(_PROTOCOL)
    return torch_typed_storage, (storage._untyped_storage, storage.dtype)


def torch_storage(data: Any) -> Any:
    """Return an `UntypedStorage`; it is `data`, or a copy if that is read-only."""
    torch = library("torch")
    view = memoryview(data).cast("B")
    if not view:
        return torch.UntypedStorage(0, device="cpu")
    if view.readonly:
        view = memoryview(bytearray(view))
    # Of a view, and not of the object: torch doesn't keep a bytearray from being resized.
    return torch.frombuffer(view, dtype=torch.uint8).untyped_storage()


def torch_typed_storage(storage: Any, dtype: Any) -> Any:
    """Return a `TypedStorage`: an `UntypedStorage` with the type of its elements."""
    torch = library("torch")
    return torch.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)


def _checked_tensor(storage: Any, *others: Any) -> Any:
    """Do the same as torch's `_rebuild_tensor_v2`, with checks, and without hooks.

    torch would take the memory of a longer tensor from the heap, as it is, if a storage is empty.
    """
    torch = sys.modules["torch"]
    if type(storage) is not torch.TypedStorage:
        raise DamagedResultError(f"a tensor has no storage, but {storage!r}")
    offset, size, stride, requires_grad, _, *rest = others
    memory, dtype, bits = storage._untyped_storage, storage.dtype, dict(*filter(None, rest))
    before = memory.nbytes()
    known = {"conj", "neg"} if dtype.is_complex else {"neg"} if dtype.is_floating_point else set()
    if bits.keys() - known:
        raise DamagedResultError(f"no tensor of {dtype} has {bits}")
    arguments = offset, size, stride, requires_grad, OrderedDict[Any, Any]()
    tensor = torch._utils._rebuild_tensor_v2(storage, *arguments, bits)
    if memory.nbytes() != before:
        raise DamagedResultError("a tensor is bigger than its memory")
    return tensor


def _checked_typed_storage(storage: Any, dtype: Any) -> Any:
    torch = library("torch")
    if type(storage) is not torch.UntypedStorage or str(dtype).startswith("torch.q"):  # quantized
        raise DamagedResultError(f"no memory of {dtype} is stored like this")
    return torch_typed_storage(storage, dtype)


def checked_of(found: Any) -> Any:
    """Return what a hostile pickle gets in place of a function; it is itself, except for one."""
    rebuild = getattr(sys.modules.get("torch._utils"), "_rebuild_tensor_v2", None)
    return _checked_tensor if rebuild is not None and found is rebuild else found


# pyarrow: only values that show a small part of their buffers, and rows without columns.


def _shown(value: Any) -> Any:
    pyarrow = sys.modules["pyarrow"]
    shares = value.get_total_buffer_size() > _SHARED * value.nbytes
    is_bare = getattr(value, "num_columns", 1) == 0  # its own pickle forgets the number of rows
    if not arrow.is_new(pyarrow) or not (shares or is_bare):
        return value.__reduce_ex__(_PROTOCOL)
    if isinstance(value, pyarrow.Table):
        read, schema, batches = pyarrow_table, value.schema, value.to_batches()
    elif isinstance(value, pyarrow.RecordBatch):
        read, schema, batches = pyarrow_record_batch, value.schema, [value]
    else:
        whole = isinstance(value, pyarrow.ChunkedArray)
        read = pyarrow_chunked_array if whole else pyarrow_array
        schema = pyarrow.schema([("", value.type)])
        arrays = value.chunks if whole else [value]
        batches = [pyarrow.RecordBatch.from_arrays([array], schema=schema) for array in arrays]
    if arrow.is_extended(schema):
        return value.__reduce_ex__(_PROTOCOL)
    try:
        pieces = arrow.written(pyarrow, schema, batches)
        found, _ = arrow.read(pieces, checked=False)  # some dictionaries fail, or change their type
    except (pyarrow.ArrowException, OSError):
        return value.__reduce_ex__(_PROTOCOL)
    return (read, (pieces,)) if found == schema else value.__reduce_ex__(_PROTOCOL)


def pyarrow_table(pieces: Pieces, *, checked: bool = False) -> Any:
    """Return a pyarrow `Table`."""
    schema, batches = arrow.read(pieces, checked=checked)
    return sys.modules["pyarrow"].Table.from_batches(batches, schema)


def pyarrow_record_batch(pieces: Pieces, *, checked: bool = False) -> Any:
    """Return a pyarrow `RecordBatch`."""
    schema, batches = arrow.read(pieces, checked=checked)
    if batches:
        return batches[0]
    pyarrow = sys.modules["pyarrow"]
    empty = [pyarrow.nulls(0, kind) for kind in schema.types]
    return pyarrow.RecordBatch.from_arrays(empty, schema=schema)


def pyarrow_chunked_array(pieces: Pieces, *, checked: bool = False) -> Any:
    """Return a pyarrow `ChunkedArray`."""
    return pyarrow_table(pieces, checked=checked).column(0)


def pyarrow_array(pieces: Pieces, *, checked: bool = False) -> Any:
    """Return a pyarrow `Array`."""
    return pyarrow_record_batch(pieces, checked=checked).column(0)


# polars.


def _frame(frame: Any) -> Any:
    columns = _columns(frame)
    return frame.__reduce_ex__(_PROTOCOL) if columns is None else (polars_frame, (columns,))


def _series(series: Any) -> Any:
    columns = _columns(series.to_frame())
    return series.__reduce_ex__(_PROTOCOL) if columns is None else (polars_series, (columns,))


def _columns(frame: Any) -> tuple[Any, ...] | None:
    """Return a stream for each column; None if polars' own pickle is better, or the only one."""
    polars = sys.modules["polars"]
    if _have_no_width(str(frame.dtypes)):
        pickle.loads(pickle.dumps(frame.clear()))  # polars can't read such arrays, and raises
    if not hasattr(polars, "CompatLevel"):  # an early release
        return None
    try:
        pyarrow = import_module("pyarrow")
    except ImportError:
        return None
    size, chunks = frame.estimated_size(), frame.n_chunks("all")
    if not arrow.is_new(pyarrow) or size <= sum(chunks) * _SMALL or polars.Object in frame.dtypes:
        return None
    level = polars.CompatLevel
    try:
        table = frame.to_arrow(compat_level=level.newest())
        if table.get_total_buffer_size() > _SHARED * size:
            table = frame.to_arrow(compat_level=level.oldest())  # which copies the texts it shows
        empty = polars.from_arrow(table.slice(0, 0))
    except (
        pyarrow.ArrowException,
        polars.exceptions.PolarsError,
        polars.exceptions.PanicException,  # a name with "\0"
    ):
        return None
    if arrow.is_extended(table.schema) or empty.dtypes != frame.dtypes:
        return None
    columns = [table.select([index]) for index in range(table.num_columns)]
    return tuple(arrow.written(pyarrow, column.schema, column.to_batches()) for column in columns)


def polars_frame(columns: Sequence[Pieces], *, checked: bool = False) -> Any:
    """Return a polars `DataFrame`; each column is a stream of its own."""
    polars = library("polars")
    tables = [pyarrow_table(column, checked=checked) for column in columns]
    pyarrow = sys.modules["pyarrow"]
    schema = pyarrow.schema([table.schema.field(0) for table in tables])
    table = pyarrow.Table.from_arrays([table.column(0) for table in tables], schema=schema)
    try:
        frame = polars.from_arrow(table, rechunk=False)
        frame.columns = schema.names  # "" has become another one
    except polars.exceptions.PanicException as error:  # it is no Exception
        raise DamagedResultError(f"polars can't read its Arrow data: {error}") from error
    return frame


def polars_series(columns: Sequence[Pieces], *, checked: bool = False) -> Any:
    """Return a polars `Series`: the only column of a frame."""
    return polars_frame(columns, checked=checked).to_series()


def _checked(read: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*arguments: Any) -> Any:  # and no keywords: a pickle can't choose
        return read(*arguments, checked=True)

    return checked


_TENSORS: dict[str, Reducer] = {
    "torch.Tensor": _tensor,
    "torch.nn.parameter.Parameter": _parameter,
}

# By module and name of a type. No library is imported for it, and subclasses don't count.
_REDUCERS: dict[str, Reducer] = {
    "torch.storage.UntypedStorage": _storage,
    "torch.storage.TypedStorage": _typed_storage,
    "pyarrow.lib.Table": _shown,
    "pyarrow.lib.RecordBatch": _shown,
    "pyarrow.lib.ChunkedArray": _shown,
    "polars.dataframe.frame.DataFrame": _frame,
    "polars.series.series.Series": _series,
}

READERS = {
    read.__name__: Reader(read, checked, kind)
    for read, checked, kind in (
        (torch_storage, torch_storage, "torch.storage.UntypedStorage"),
        (torch_typed_storage, _checked_typed_storage, "torch.storage.TypedStorage"),
        (pyarrow_table, _checked(pyarrow_table), "pyarrow.lib.Table"),
        (pyarrow_record_batch, _checked(pyarrow_record_batch), "pyarrow.lib.RecordBatch"),
        (pyarrow_chunked_array, _checked(pyarrow_chunked_array), "pyarrow.lib.ChunkedArray"),
        (pyarrow_array, _checked(pyarrow_array), "pyarrow.lib.Array"),
        (polars_frame, _checked(polars_frame), "polars.dataframe.frame.DataFrame"),
        (polars_series, _checked(polars_series), "polars.series.series.Series"),
    )
}
