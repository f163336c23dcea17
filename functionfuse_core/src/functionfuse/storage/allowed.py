"""The names that an allow-list gives to a pickle.

An entry is a full name, such as `shop.Cart`, or a module or package, with all names below it. A
name can lead elsewhere: `numpy.os.system` is a function of `posix`. So both the name in the pickle
and the object's own name must be allowed.

An entry that is a package is written for the package's types. But packages also have functions
that run code, read files or write them, and classes whose constructors do. So these need more: see
`AllowList.find`. The entry `cloudpickle` allows all code, so there only the names are looked at.
"""

from __future__ import annotations

import builtins
import copyreg
import re
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from operator import methodcaller
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, NoReturn

from ..errors import UntrustedResultError
from ..serializers.installed import type_name
from ..serializers.script import module_name, moved

__all__ = ["SCRIPTS", "AllowList", "allows"]

SCRIPTS = "cloudpickle.cloudpickle"  # what code by value needs

# The functions by which pickles of these packages make objects again.
_makes_again = re.compile(
    r"(numpy|pandas|scipy|sklearn|pyarrow)\.([\w.]+\.)?__pyx_unpickle_\w+"
    r"|numpy\._?core\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)"
    r"|numpy\._?core\._(ufunc|DType)_reconstruct"
    r"|numpy\._?core\._internal\._convert_to_stringdtype_kwargs"
    r"|numpy\.ma\.core\._mareconstruct|numpy\.random\._pickle\.__\w+_ctor"
    r"|pandas\._libs\.internals\._unpickle_block"
    r"|pandas\._libs\.tslibs\.\w+\._(\w+_unpickle|unpickle_\w+)"
    r"|pandas\.core\.indexes\.\w+\._new_\w+"
    r"|pyarrow\.lib\.(_reconstruct_\w+|_restore_array|chunked_array|field|scalar|schema|py_buffer)"
    r"|pyarrow\.lib\.(type_for_alias|timestamp|time32|time64|duration|dictionary|decimal\d+|map_)"
    r"|pyarrow\.lib\.(struct|list_|large_list|list_view|large_list_view|binary|run_end_encoded)"
    r"|torch\._utils\._rebuild_(tensor_v2|parameter)"
    r"|sklearn\.[\w.]+\.newObj|tblib\.pickling_support\.unpickle_\w+|re\._compile"
    # Class methods.
    r"|pyarrow\.lib\.(CacheOptions|DictionaryScalar)\._reconstruct"
    r"|zoneinfo\.(_zoneinfo\.)?ZoneInfo\._unpickle"
).fullmatch

# Classes of packages of the standard library that only hold data.
_data_of_python = re.compile(
    r"collections\.\w+|pathlib\.(_local\.)?\w*Path|re\.(Pattern|Match)"
    r"|zoneinfo\.(_zoneinfo\.)?ZoneInfo|xml\.etree\.ElementTree\.Element|email\.message\.\w+"
    r"|urllib\.parse\.\w+(Result|ResultBytes)|string\.templatelib\.\w+"
).fullmatch

# Data, although `with` closes their files, or a call computes their values.
_data = re.compile(
    r"xarray\.core\.\w+\.(DataArray|Dataset|DataTree)"
    r"|numpy\.poly1d|numpy\.polynomial\.\w+\.\w+|scipy\.interpolate\.[\w.]+"
    r"|sklearn\.(gaussian_process\.kernels|_loss\.\w+|metrics\._scorer)\.\w+"
).fullmatch

# These run code, open files or read memory when they are made. Some of torch and polars do, so only
# their data are left out.
_runs = re.compile(
    r"numpy\.(memmap|(distutils|f2py|testing|ctypeslib)\..+|lib\..+\.DummyArray)"
    r"|pandas\.(core\.computation|io)\..+|pydantic\.(type_adapter\.TypeAdapter|types\.ImportString)"
    r"|pyarrow\.(_?fs|_\w+fs|_?parquet|_?flight)\..+|scipy\.(odr|io)\..+|xarray\.backends\..+"
    r"|(boto3|botocore|distributed|fsspec|functionfuse|joblib)\..+"
    r"|torch\.(?!(Tensor|Size|storage\.\w+|(nn|optim)\.[\w.]+)$).+"
    r"|polars\.(?!(dataframe\.frame\.DataFrame|series\.series\.Series|schema\.Schema|datatypes\.[\w.]+)$).+"
).fullmatch

# A call of these classes, or of a subclass, can take addresses in memory, or show memory as it is.
# torch's pickles make their objects by functions.
_torch_memory = re.compile(
    r"torch\._C\.(Tensor|Storage|_Tensor|_Storage)Base|torch\.storage\.TypedStorage"
).fullmatch

_CALLING = ".type", ".map", ".filter", ".super", ".property", ".classmethod", ".staticmethod"
_ACTS = "__call__", "__del__", "__exit__"
_reduce = methodcaller("__reduce_ex__", 4)


def allows(entries: Sequence[str], path: str) -> bool:
    """Return whether an entry is a name, or a module or class above it."""
    return any(path == entry or path.startswith(f"{entry}.") for entry in entries)


class AllowList:
    """Finds what a pickle may name, and nothing else."""

    def __init__(self, entries: Sequence[str]) -> None:
        self.entries = entries
        self.all_code = allows(entries, SCRIPTS)
        self.harmless: dict[int, type] = {}  # by their ids, classes that `check_made` has seen

    def find(self, module: str, name: str, find: Callable[[str, str], Any]) -> Any:
        """Return a global of a pickle.

        A class needs an entry that is its name or is above it. So does an object that pickle
        writes by name, such as `pandas.NA`, and a function by which pickles make objects again.
        Other functions need their full name, or that of their module if it is no package. So do
        classes whose objects can be called, or close something; those of packages of the standard
        library, except data; and those that run code or open files when they are made.

        Args:
            find: imports the module, and returns its object.

        Raises:
            UntrustedResultError: the allow-list doesn't allow it. Nothing was imported if the name
                itself is not allowed.
            ImportError: there is no such object.
        """
        path = f"{module}.{name}"
        self.check(path)
        if module.endswith(".__main__"):
            self.check_whole(path, path)  # it may run a program, and have no guard
        found = moved(module, name) or find(module, name)
        self.check_object(found, path)
        return found

    def check_made(self, kind: Any) -> None:
        """Raise UntrustedResultError if no pickle may make or change objects of a class itself."""
        if id(kind) in self.harmless or self.all_code:
            return
        if isinstance(kind, type):
            for base in kind.__mro__:
                if _torch_memory(type_name(base)):
                    raise UntrustedResultError(
                        f"the result makes or changes a {type_name(kind)} in another way than torch"
                        " does; the storage's option 'trust' never allows that"
                    )
            self.harmless[id(kind)] = kind

    def check_object(self, found: Any, path: str) -> None:
        """Raise UntrustedResultError if an object is not allowed by its own name; see `find`."""
        if self.all_code:
            return
        module, name = _own_name(found)
        if isinstance(found, ModuleType) or not isinstance(module, str) or not _is_fixed(found):
            self.refuse(path)
        own = f"{module_name(module)}.{name or path.rpartition('.')[2]}"
        self.check(own)
        if not self.is_of_module(module) and _acts(found, own):
            self.check_whole(path, own)

    def is_of_module(self, module: str) -> bool:
        """Return whether an entry is a module, and no package."""
        in_package = hasattr(sys.modules.get(module), "__path__")
        return module in self.entries and not in_package and module != "builtins"

    def check(self, path: str) -> None:
        """Raise UntrustedResultError if a name is not allowed."""
        if not allows(self.entries, path):
            self.refuse(path)

    def check_whole(self, path: str, own: str) -> None:
        """Raise UntrustedResultError if no entry is one of an object's full names."""
        if path not in self.entries and own not in self.entries:
            self.refuse(
                own, f". It needs an entry of its own, {own!r}: it can do more than be read"
            )

    def refuse(self, path: str, why: str = "") -> NoReturn:
        """Raise UntrustedResultError."""
        raise UntrustedResultError(
            f"the result names {path!r}, which the storage's option 'trust' does not allow;"
            f" allowed: {', '.join(self.entries) or 'nothing'}{why}"
        )


def _acts(found: Any, own: str) -> bool:
    """Return whether an object can do more than hold data, or make such an object again."""
    if isinstance(found, type):
        if _runs(own):
            return True
        if own.startswith("builtins."):  # the types of code and functions are not in there
            return own.endswith(_CALLING) or vars(builtins).get(found.__name__) is not found
        if own.partition(".")[0] in sys.stdlib_module_names:
            return not (issubclass(found, (BaseException, Enum)) or _data_of_python(own))
        acts = any(name in vars(base) for base in found.__mro__ for name in _ACTS)
        return acts and not _data(own)
    return callable(found) and not _makes_again(own) and type_name(type(found)) != "numpy.ufunc"


def _own_name(found: Any) -> tuple[Any, Any]:
    """Return the module and the qualified name of an object, or None for each."""
    if found is Ellipsis or found is NotImplemented:
        return "builtins", repr(found)
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    kind = getattr(found, "__self__", None)
    if isinstance(found, BuiltinFunctionType) and isinstance(kind, type):
        # A class method in C has no module. That of a base class has the name of the base.
        return (kind.__module__ if name == f"{kind.__qualname__}.{found.__name__}" else None), name
    return module, name


def _is_fixed(found: Any) -> bool:
    """Return whether an object is a class, a function, or one that pickle writes by its name.

    Others, such as a registry or its methods, could be changed through their own methods.
    """
    if isinstance(found, MethodType):
        # Methods of a metaclass can change the class, so only a class's own ones count.
        bases = found.__self__.__mro__ if isinstance(found.__self__, type) else ()
        methods = (vars(base).get(found.__name__) for base in bases)
        return any(getattr(method, "__func__", None) is found.__func__ for method in methods)
    if isinstance(found, (type, FunctionType, BuiltinFunctionType)):
        return True
    kind = type(found)
    own = any({"__reduce__", "__reduce_ex__"} & vars(base).keys() for base in kind.__mro__[:-1])
    if isinstance(found, (dict, list, set)) or not (own or kind in copyreg.dispatch_table):
        return False  # and pickle didn't note the slots in the class
    try:
        return isinstance(copyreg.dispatch_table.get(kind, _reduce)(found), str)
    except Exception:  # noqa: BLE001  # of any class
        return False
