"""Special forms: types whose pickled state says too little, too much, or nothing.

Each line gives the parts that count instead. A type that has no state and no line here can't be
told from another, so a node that takes one runs every time.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from .errors import FingerprintError

__all__ = ["form_of"]

Parts = Callable[[Any], Any]


def _nothing(_: Any) -> tuple[()]:
    return ()


def _frame(frame: Any) -> Any:
    """Return what a frame or a series holds, whatever blocks it is kept in."""
    columns = [frame.array] if frame.ndim == 1 else [column.array for _, column in frame.items()]
    metadata = [getattr(frame, name, None) for name in frame._metadata if name != "_name"]
    named = getattr(frame, "name", None)
    return frame.axes, columns, named, frame.attrs, metadata, frame.flags.allows_duplicate_labels


def _index(index: Any) -> Any:
    return index.names, getattr(index, "freq", None), index.array


def _multi_index(index: Any) -> Any:
    return index.names, list(index.levels), [code.tolist() for code in index.codes]


def _tensor(tensor: Any) -> Any:
    """Return what a tensor holds; of a sparse or quantized one, nothing can be told."""
    torch = sys.modules["torch"]
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise FingerprintError(f"a tensor of {tensor.layout} can't be told from another")
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    data = plain.contiguous().reshape(-1).view(torch.uint8).numpy()
    order = sorted(range(tensor.ndim), key=lambda axis: -tensor.stride(axis))
    about = str(tensor.dtype), tuple(tensor.shape), order, str(tensor.device)
    return about, tensor.requires_grad, data


def _ufunc(ufunc: Any) -> Any:
    raise FingerprintError(f"the ufunc {ufunc.__name__!r} can't be followed to its function")


def _proxy(proxy: Any) -> Any:
    own = {name: value for name, value in vars(proxy).items() if name.startswith("_self_")}
    names = ("_self_instance", "_self_wrapper", "_self_enabled", "_self_binding")
    return proxy.__wrapped__, own, [getattr(proxy, name, None) for name in names]


_FORMS: dict[str, Parts] = {
    # methods and functions
    "builtins.classmethod": lambda made: (made.__func__,),
    "builtins.property": lambda made: (made.fget, made.fset, made.fdel),
    "builtins.staticmethod": lambda made: (made.__func__,),
    "functools._lru_cache_wrapper": lambda made: (made.__wrapped__, made.cache_parameters()),
    "functools.cached_property": lambda made: (made.func, made.attrname),
    "numba.core.dispatcher.Dispatcher": lambda made: (
        made.py_func,
        made.targetoptions,
        None if made._can_compile else list(map(str, made.signatures)),
    ),
    "numpy.ufunc": _ufunc,
    "pydantic._internal._decorators.Decorator": lambda made: (made.cls_var_name, made.info),
    "pydantic._internal._validate_call.ValidateCallWrapper": lambda made: (
        made.function,
        made.validate_return,
        made.config_wrapper.config_dict,
    ),
    "wrapt.wrappers.ObjectProxy": _proxy,
    # what keeps, orders or writes down, and changes no result
    "_thread.RLock": _nothing,
    "_thread.lock": _nothing,
    "logging.Logger": _nothing,
    "pydantic_core._pydantic_core.SchemaSerializer": _nothing,
    "pydantic_core._pydantic_core.SchemaValidator": _nothing,
    "weakref.WeakKeyDictionary": _nothing,
    "weakref.WeakSet": _nothing,
    "weakref.WeakValueDictionary": _nothing,
    # values
    "itertools.count": repr,
    "pandas.Index": _index,
    "pandas.MultiIndex": _multi_index,
    "pandas.core.generic.NDFrame": _frame,
    "pandas.core.indexes.base.Index": _index,
    "pandas.core.indexes.multi.MultiIndex": _multi_index,
    "pathlib.PurePath": str,
    "torch.Tensor": _tensor,
    "typing.ForwardRef": lambda made: made.__forward_arg__,
}


@functools.lru_cache(maxsize=1024)
def form_of(kind: type) -> tuple[type, Parts] | None:
    """Return the class that has a special form, of a type and its bases, and the form."""
    for base in kind.__mro__:
        parts = _FORMS.get(f"{base.__module__}.{base.__qualname__}")
        if parts is not None:
            return base, parts
    return None
