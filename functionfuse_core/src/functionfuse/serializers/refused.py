"""Objects that are in no stored result: recipes, references, and parts of our own storages.

A recipe, such as a dask frame, is pickled as the way to its values. Next month it may find others,
or none. A reference leads to data that is kept elsewhere. A storage can hold credentials.

Recipes and references are told by their types, once a type. Our own objects refuse it themselves,
while a thread pickles a result, so that no pickle within a pickle has them. Pickled for a worker,
all of them pass. xarray's variables that are not read yet are read into a copy.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Final

__all__ = ["Private", "RefusedError", "asleep", "reader_of", "refusal_of", "shown", "thread"]

_RECIPE = "a recipe, not its values. Return {}"
_REFERENCE = "a reference to data elsewhere, not its values. Return {}"
_COMPUTED, _OF_IT = ".compute() of it", "the part that you need, such as x[:] of it"
_DATA = "the data that you read from it"
_PATH = "the values that you need, or its path"

# By module and qualified name of a type, whose subclasses count too.
_REFUSED: Final = {
    "dask.base.DaskMethodsMixin": _RECIPE.format(_COMPUTED),
    "dask.highlevelgraph.HighLevelGraph": _RECIPE.format("the values that it computes"),
    "dask.highlevelgraph.Layer": _RECIPE.format("the values that it computes"),
    "dask._expr.Expr": _RECIPE.format("the values that it computes"),
    "dask._task_spec.GraphNode": _RECIPE.format("the values that it computes"),
    "distributed.client.Future": _REFERENCE.format(".result() of it"),
    "distributed.client.Client": _REFERENCE.format(_DATA),
    "distributed.actor.Actor": _REFERENCE.format(_DATA),
    "polars.lazyframe.frame.LazyFrame": _RECIPE.format(".collect() of it"),
    "pyarrow._dataset.Dataset": _RECIPE.format(".to_table() of it"),
    "pyarrow._dataset.Fragment": _RECIPE.format(".to_table() of it"),
    "pyarrow._dataset.Scanner": _RECIPE.format(".to_table() of it"),
    "zarr.core.array.Array": _REFERENCE.format(_OF_IT),
    "zarr.core.array.AsyncArray": _REFERENCE.format(_OF_IT),
    "zarr.core.group.Group": _REFERENCE.format(_PATH),
    "zarr.core.group.AsyncGroup": _REFERENCE.format(_PATH),
    "zarr.storage._local.LocalStore": _REFERENCE.format(_PATH),
    "zarr.storage._zip.ZipStore": _REFERENCE.format(_PATH),
    "zarr.storage._fsspec.FsspecStore": _REFERENCE.format(_PATH),
    "zarr.storage._obstore.ObjectStore": _REFERENCE.format(_PATH),
    "h5py._hl.dataset.Dataset": _REFERENCE.format(_OF_IT),
    "h5py._hl.base.HLObject": _REFERENCE.format(_PATH),
    "h5py._hl.attrs.AttributeManager": _REFERENCE.format("dict() of it"),
    "xarray.backends.common.BackendArray": _REFERENCE.format(_DATA),
    "xarray.backends.common.AbstractDataStore": _REFERENCE.format(_DATA),
    "xarray.backends.file_manager.FileManager": _REFERENCE.format(_DATA),
    "ray.ObjectRef": _REFERENCE.format("ray.get() of it"),  # as it says itself
    "ray._raylet.ObjectRef": _REFERENCE.format("ray.get() of it"),
    "ray._raylet.ObjectRefGenerator": _REFERENCE.format("ray.get() of its items"),
    "ray._raylet.StreamingObjectRefGenerator": _REFERENCE.format("ray.get() of its items"),
    "ray.actor.ActorHandle": _REFERENCE.format("what its methods return"),
    "ray.data.dataset.Dataset": _RECIPE.format(".to_pandas() of it"),
}
_PRIVATE = (
    "part of a storage or its options, which can hold credentials. Return the name of a config, or"
    " open the storage in the function that uses it"
)
_ARRAYS = "dask.array.core.Array"

# No such object can exist before one of these modules is imported.
_MODULES = frozenset(
    {"dask", "distributed", "h5py", "polars", "pyarrow", "ray", "torch", "xarray", "zarr"}
)
_without = -1  # a count of modules in which none of them was
_VARIABLE = "xarray.core.variable.Variable"
_CLOSED = {"xarray.core.common.DataWithCoords", "xarray.core.datatree.DataTree"}


class _Thread(threading.local):
    pickling = False


thread = _Thread()  # `pickling`: whether this thread pickles a result


class RefusedError(TypeError):
    """An object of a result can't be stored.

    Attributes:
        kind: its type.
        reason: why not, and the cure.
    """

    def __init__(self, kind: type, reason: str) -> None:
        super().__init__(f"{shown(kind)}: {reason}")
        self.kind = kind
        self.reason = reason


class Private:
    """An object that goes to workers, but is in no stored result; can be a base class."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Reduce it, as `object` does. Raises RefusedError while a result is pickled."""
        if thread.pickling:
            raise RefusedError(type(self), _PRIVATE)
        return super().__reduce_ex__(protocol)


def asleep() -> bool:
    """Return whether no module is imported whose objects are not pickled as usual."""
    global _without  # noqa: PLW0603  # looked up at every save
    count = len(sys.modules)
    if count != _without and sys.modules.keys().isdisjoint(_MODULES):
        _without = count
    return count == _without


def refusal_of(kind: type) -> str:
    """Return why objects of a type can't be stored, and the cure; "" if they can."""
    for base in kind.__mro__:
        name = f"{base.__module__}.{base.__qualname__}"
        if name == _ARRAYS and find_spec("functionfuse_dask") is None:
            return _REFUSED["dask.base.DaskMethodsMixin"] + (
                ", or store dask arrays with functionfuse-dask: pip install functionfuse-dask"
            )
        if name in _REFUSED:
            return _REFUSED[name]
    return ""


def reader_of(kind: type) -> Callable[[Any], tuple[Any, bool]] | None:
    """Return a function for the objects of a type of xarray; None for other types.

    It takes an object, and returns its reduced form without references to files that are open, and
    whether data was read for it. It raises RefusedError if data can't be read.
    """
    names = {f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__}
    if _VARIABLE in names:
        return _read
    return None if names.isdisjoint(_CLOSED) else _closed


def shown(kind: type) -> str:
    """Return the name of a type for a message: "dask.dataframe DataFrame"."""
    parts = []
    for part in kind.__module__.split(".")[:2]:
        if part.startswith("_"):
            break
        parts.append(part)
    return f"{'.'.join(parts)} {kind.__qualname__}".strip()


def _read(variable: Any) -> tuple[Any, bool]:
    """Reduce a variable of xarray; read its data into a copy if it isn't in memory."""
    indexing, data = sys.modules["xarray.core.indexing"], variable._data
    is_lazy = isinstance(data, indexing.ExplicitlyIndexed) and not variable._in_memory
    computed = indexing.PandasIndexingAdapter, indexing.CoordinateTransformIndexingAdapter
    if not is_lazy or isinstance(data, computed):
        return variable.__reduce_ex__(5), False
    copy = variable.copy(deep=False)
    try:
        copy.load()
    except MemoryError:
        raise
    except Exception as error:
        reason = f"not in memory, and can't be read: {type(error).__name__}: {error}. Return"
        raise RefusedError(type(variable), f"{reason} .load() of it") from error
    return copy.__reduce_ex__(5), True


def _closed(holder: Any) -> tuple[Any, bool]:
    """Reduce an object of xarray without the function that closes its file."""
    make, args, state, *rest = holder.__reduce_ex__(5)
    if isinstance(state, tuple) and "_close" in state[1]:
        state = state[0], {**state[1], "_close": None}
    return (make, args, state, *rest), False
