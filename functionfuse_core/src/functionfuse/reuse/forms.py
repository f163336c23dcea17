"""Special forms of types whose pickled state has too few parts, too many, or none.

Each line of `_FORMS` gives the parts that count instead. An object of a type without a state and
without a line has no digest, so a node that takes it runs every time.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from enum import Flag
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

from xxhash import xxh3_128_digest

from ..errors import FingerprintError
from .literals import tagged
from .project import is_own
from .stream import Stream

__all__ = [
    "attributes_of",
    "form_of",
    "pickles_itself",
    "undescribed",
    "write_array",
    "write_buffer",
    "write_file",
]

Parts = Callable[[Any], Any]
_DESCRIBING = {*functools.WRAPPER_ASSIGNMENTS} - {"__name__"}


def _nothing(_: Any) -> tuple[()]:
    return ()


def _frame(frame: Any) -> Any:
    """Return the contents of a frame or series, whatever its internal blocks."""
    columns = [frame.array] if frame.ndim == 1 else [column.array for _, column in frame.items()]
    metadata = [getattr(frame, name, None) for name in frame._metadata if name != "_name"]
    named = getattr(frame, "name", None)
    return frame.axes, columns, named, frame.attrs, metadata, frame.flags.allows_duplicate_labels


def _index(index: Any) -> Any:
    return index.names, getattr(index, "freq", None), index.array


def _multi_index(index: Any) -> Any:
    return index.names, list(index.levels), [code.tolist() for code in index.codes]


def _tensor(tensor: Any) -> Any:
    """Return a tensor's contents. Raises FingerprintError for a sparse or quantized one."""
    torch = sys.modules["torch"]
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise FingerprintError(f"a tensor of {tensor.layout} can't be told from another")
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    data = plain.contiguous().reshape(-1).view(torch.uint8).numpy()
    order = sorted(range(tensor.ndim), key=lambda axis: -tensor.stride(axis))
    about = str(tensor.dtype), tuple(tensor.shape), order, str(tensor.device)
    return about, tensor.requires_grad, data


def _field(field: Any) -> Any:
    """Return a dataclass field; a class variable's default is an attribute of the class."""
    kind = field._field_type.name
    default = None if kind == "_FIELD_CLASSVAR" else (field.default, field.default_factory)
    flags = field.init, field.repr, field.hash, field.compare, field.kw_only is True
    return field.name, field.type, f"{kind} {flags}", default, field.metadata


def _ufunc(ufunc: Any) -> Any:
    raise FingerprintError(f"the ufunc {ufunc.__name__!r} can't be followed to its function")


def _reference(reference: Any) -> Any:
    kind = f"{type(reference).__module__}.{type(reference).__name__}"
    raise FingerprintError(f"a {kind} refers to data elsewhere, which can be other data each time")


def _proxy(proxy: Any) -> Any:
    names = ("_self_instance", "_self_wrapper", "_self_enabled", "_self_binding")
    try:
        own = object.__getattribute__(proxy, "__dict__")  # not that of the wrapped object
    except AttributeError:
        own = {}
    return proxy.__wrapped__, own, [getattr(proxy, name, None) for name in names]


def _members(made: Any) -> Any:
    """Return the public members of an object of a C type."""
    kinds = (GetSetDescriptorType, MemberDescriptorType)
    names = [name for name, part in vars(type(made)).items() if type(part) in kinds]
    return {name: getattr(made, name) for name in names if not name.startswith("__")}


def _remote(made: Any) -> Any:
    """Return the function of one of Ray's, and the options; the rest is random, or is cached."""
    return made._function, made._default_options


def _actor_class(made: Any) -> Any:
    """Return the class that was decorated; Ray has made a subclass of it in each process."""
    return made.__ray_metadata__.modified_class.__ray_actor_class__, made._default_options


def _jitted(made: Any) -> Any:
    state = made.__getstate__()
    return made.__wrapped__, state["static_argnums"], state["static_argnames"]


_FORMS: dict[str, Parts] = {
    # methods and functions
    "builtins.classmethod": lambda made: (made.__func__,),
    "builtins.property": lambda made: (made.fget, made.fset, made.fdel),
    "builtins.staticmethod": lambda made: (made.__func__,),
    "functools._lru_cache_wrapper": lambda made: (
        made.cache_parameters(),
        undescribed(dict(vars(made))),
    ),
    "functools.cached_property": lambda made: (made.func, made.attrname),
    "functools.singledispatchmethod": lambda made: made.dispatcher,
    "jaxlib._jax.PjitFunction": _jitted,
    "numba.core.ccallback.CFunc": lambda made: (made.__wrapped__, str(made._sig)),
    "numba.core.dispatcher.Dispatcher": lambda made: (
        made.py_func,
        made.targetoptions,
        None if made._can_compile else list(map(str, made.signatures)),
    ),
    "numba.core.types.misc.ClassType": lambda made: (
        *(made.class_name, {name: str(kind) for name, kind in made.struct.items()}),
        *(made.methods, made.static_methods),
    ),
    "numpy.ufunc": _ufunc,
    "ray.ObjectRef": _reference,  # in a new cluster, other values get the same identifiers
    "ray._raylet.ObjectRef": _reference,
    "ray.actor.ActorClass": _actor_class,
    "ray.actor.ActorHandle": _reference,
    "ray.remote_function.RemoteFunction": _remote,
    "pydantic._internal._decorators.Decorator": lambda made: (made.cls_var_name, made.info),
    "pydantic._internal._validate_call.ValidateCallWrapper": lambda made: (
        made.function,
        made.validate_return,
        made.config_wrapper.config_dict,
    ),
    "_wrappers.ObjectProxy": _proxy,
    "wrapt.wrappers.ObjectProxy": _proxy,
    "dataclasses.Field": _field,
    "dataclasses._DataclassParams": repr,
    # locks, loggers and compiled schemas: they change no result
    "_thread.RLock": _nothing,
    "_thread.lock": _nothing,
    "logging.Logger": _nothing,
    "pydantic_core._pydantic_core.SchemaSerializer": _nothing,
    "pydantic_core._pydantic_core.SchemaValidator": _nothing,
    # values
    "_json.Scanner": _members,
    "_struct.Struct": lambda made: made.format,
    "_weakrefset.WeakSet": set,
    "itertools.count": repr,
    "msgspec.Meta": _members,
    "msgspec._core.Factory": _members,
    "msgspec.json.Decoder": _members,
    "msgspec.json.Encoder": _members,
    "msgspec.msgpack.Decoder": _members,
    "msgspec.msgpack.Encoder": _members,
    "msgspec.structs.StructConfig": _members,
    "pandas.Index": _index,
    "pandas.MultiIndex": _multi_index,
    "pandas.core.generic.NDFrame": _frame,
    "pandas.core.indexes.base.Index": _index,
    "pandas.core.indexes.multi.MultiIndex": _multi_index,
    "pathlib.PurePath": str,
    "pathlib._local.PurePath": str,  # as Python 3.13 has it
    "torch.Tensor": _tensor,
    "typing.ForwardRef": lambda made: made.__forward_arg__,
    "typing.TypeAliasType": lambda made: (made.__name__, made.__value__),
    "typing.TypeVar": lambda made: (
        *(made.__name__, made.__bound__, made.__constraints__, made.__covariant__),
        *(made.__contravariant__, getattr(made, "__default__", None)),
    ),
    "weakref.ReferenceType": lambda made: made(),
    "weakref.WeakKeyDictionary": lambda made: list(made.items()),
    "weakref.WeakValueDictionary": lambda made: list(made.items()),
}


# Their subclasses are made by the decorator itself, one for each decorated class.
_OF_A_DECORATOR = {"ray.actor.ActorClass"}


@functools.lru_cache(maxsize=1024)
def form_of(kind: type) -> tuple[type, type, Parts] | None:
    """Return the class to write for a type, its first base with a special form, and the form."""
    for base in kind.__mro__:
        name = f"{base.__module__}.{base.__qualname__}"
        parts = _FORMS.get(name)
        if parts is not None:
            return base if name in _OF_A_DECORATOR else kind, base, parts
    return None


def undescribed(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return attributes without the descriptions that `functools.update_wrapper` copies."""
    if "__wrapped__" not in attributes:
        return attributes
    return {name: part for name, part in attributes.items() if name not in _DESCRIBING}


def attributes_of(value: Any, own: frozenset[str]) -> Any:
    """Return the attributes of an object of a project class; its base may not pickle them."""
    kind = type(value)
    if not is_own(kind.__module__, own):
        return None
    internal = getattr(kind, "_internal_names_set", ())  # of pandas' objects
    if issubclass(kind, Flag):
        internal = {"_inverted_"}  # computed at the first use
    found = {
        name: part for name, part in getattr(value, "__dict__", {}).items() if name not in internal
    }
    for base in kind.__mro__:
        if is_own(base.__module__, own):
            slots = [
                name for name, slot in vars(base).items() if type(slot) is MemberDescriptorType
            ]
            found |= {name: getattr(value, name, None) for name in slots}
    return found


@functools.lru_cache(maxsize=1024)
def pickles_itself(kind: type, own: frozenset[str]) -> bool:
    """Return whether a class of the project defines how its objects are pickled."""
    names = ("__getstate__", "__reduce__", "__reduce_ex__")
    bases = [base for base in kind.__mro__ if is_own(base.__module__, own)]
    return any(name in vars(base) for base in bases for name in names)


def write_buffer(writer: Stream, name: str, view: memoryview) -> None:
    """Write the bytes of a buffer."""
    writer.out.append(tagged(b"u", f"{name} {view.format} {view.shape}"))
    try:
        flat = view.cast("B") if view.c_contiguous and view.nbytes else view.tobytes()
    except ValueError:  # of a format that memoryview can't cast
        flat = view.tobytes()
    writer.out.append(xxh3_128_digest(flat))


def write_array(writer: Stream, array: Any) -> None:
    """Write an array: type, shape, order of its axes in memory, and bytes in that order."""
    writer.out.append(tagged(b"a", f"{type(array).__name__} {array.shape}"))
    _write_dtype(writer, array.dtype)
    if not array.flags.c_contiguous:
        axes = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
        if axes != sorted(axes):
            writer.out.append(tagged(b"T", repr(axes)))
        array = array.transpose(axes)
    if array.dtype.hasobject:
        writer.write(array.tolist())
        return
    if not array.flags.c_contiguous:
        array = array.copy(order="C")
    writer.out.append(xxh3_128_digest(array.reshape(-1).view("u1") if array.nbytes else b""))


def write_file(writer: Any, file: Any) -> None:
    """Write what counts of a `File`; note its file, which must not change while a node runs."""
    counted, source = file._counted()
    writer.out.append(b"F")
    writer.write(counted)
    if source is not None:
        writer.files.append(source)


def _write_dtype(writer: Stream, dtype: Any) -> None:
    try:
        described = dtype.descr
    except ValueError:  # of fields that overlap
        described = dtype
    writer.out.append(tagged(b"y", str(described)))
    for metadata in _metadata(dtype):
        writer.write(metadata)


def _metadata(dtype: Any) -> Iterator[Mapping[str, Any]]:
    """Iterate the metadata of a dtype and of those in it."""
    if dtype.metadata:
        yield dtype.metadata
    if dtype.base is not dtype:
        yield from _metadata(dtype.base)
    for field, *_ in (dtype.fields or {}).values():
        yield from _metadata(field)
