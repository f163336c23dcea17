"""What an allow-list holds against: hostile results may name only what it allows.

The first table changes what is named, or what an allowed name leads to. The second one calls
functions and classes of allowed packages that run code, or read and write files.
"""

from __future__ import annotations

import copyreg
import importlib.util
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import shop
from result_bytes import of_pickle

from functionfuse.errors import UntrustedResultError
from functionfuse.storage.filestorage import FileStorage

ALLOWED = ["shop", "collections", "builtins.getattr", "builtins.type", "functools", "numpy", "enum"]
MARK = "MARK"


def plain(*values: Any) -> bytes:
    """Return opcodes that put plain values on the stack."""
    return b"".join(pickle.dumps(value, 3)[2:-1] for value in values)


def of(name: str, module: str = "shop") -> bytes:
    """Return opcodes that put a global on the stack."""
    return plain(module, name) + b"\x93"


def call(function: bytes, *arguments: bytes) -> bytes:
    """Return opcodes that call what others put on the stack."""
    return function + b"(" + b"".join(arguments) + b"tR"


def slots(target: bytes, name: str, value: bytes) -> bytes:
    """Return opcodes that set an attribute: BUILD with the state (None, {name: value})."""
    return target + b"N}" + plain(name) + value + b"s\x86b"


def state(target: bytes, name: str, value: bytes) -> bytes:
    """Return opcodes that set an item of the attributes: BUILD with the state {name: value}."""
    return target + b"}" + plain(name) + value + b"sb"


def item(target: bytes) -> bytes:
    return target + plain("tea", 99) + b"s"


def items(target: bytes) -> bytes:
    return target + b"(" + plain("tea", 99) + b"u"


def attribute(target: bytes, name: str) -> bytes:
    return call(of("getattr", "builtins"), target, plain(name))


NEW = of("Cart") + b")\x81"
SETTINGS = of("Settings") + b")\x81"
OTHER = plain((0,))
REGISTRY = of("Registry") + b")\x81"
PARTIAL = call(of("partial", "functools"), of("add"))
OTHERS_ITEMS = state(
    of("Counted") + b")\x81",
    "items",
    call(of("partial", "functools"), of("pairs"), plain("__class__"), of("Names")),
)

CHANGES = {
    "a function's defaults": slots(of("price"), "__defaults__", OTHER),
    "a function's code": slots(of("price"), "__code__", attribute(of("same"), "__code__")),
    "a function's attributes": state(of("price"), "note", OTHER),
    "a class's method": slots(of("Cart"), "total", of("price")),
    "a class's new attribute": slots(of("Cart"), "note", OTHER),
    "a class's __setstate__": slots(of("Cart"), "__setstate__", of("same")),
    "a class's bases": slots(of("Cart"), "__bases__", of("Names") + b"\x85"),
    "a class's method's defaults": slots(of("Cart.total"), "__defaults__", OTHER),
    "a class with slots": slots(of("Slotted"), "price", OTHER),
    "an enum's class": slots(of("Color"), "RED", OTHER),
    "a class's attributes": state(of("Cart"), "note", OTHER),
    "a class as a sequence": of("Names") + plain("x") + b"a",
    "a class as many": of("Names") + b"(" + plain("x") + b"e",
    "a class as a dictionary": item(of("Registry")),
    "a class as a set": of("Cart") + b"(" + plain("x") + b"\x90",
    "a class that was memoized": of("Cart") + b"\x940h\x01" + slots(b"", "total", of("price")),
    "a class that was put": of("Cart") + b"q\x050h\x05" + slots(b"", "total", of("price")),
    "a class that was doubled": of("Cart") + b"2" + slots(b"", "total", of("price")),
    "a class in protocol 0": b"cshop\nCart\n" + slots(b"", "total", of("price")),
    "a static class": slots(of("OrderedDict", "collections"), "x", OTHER),
    "an enum's member": state(call(of("Color"), plain(1)), "_value_", OTHER),
    "an enum's member, by setattr": slots(call(of("Color"), plain(1)), "note", OTHER),
    "an enum's member, by NEWOBJ": state(of("Color") + plain((1,)) + b"\x81", "note", OTHER),
    "an enum's member, by name": state(of("Color.RED"), "note", OTHER),
    "a dictionary by name": item(of("PRICES")),
    "a list by name": of("NAMES") + plain("x") + b"a",
    "an object by name": state(of("CART"), "note", OTHER),
    "an own dictionary by name": items(of("REGISTRY")),
    "a list of a class": of("Cart.limits") + plain(9) + b"a",
    "a dictionary of a class": item(of("Cart.rules")),
    "a module": slots(of("__name__"), "price", OTHER),
    "a method of a list": call(of("add"), plain("x")),
    "a method of a list's class": call(of("NAMES.append"), plain("x")),
    "a method of an object": call(of("put"), plain({"tea": 9})),
    "a method of an object's class": call(of("SETTINGS.update"), plain({"tea": 9})),
    "what a function returns: a dictionary": item(call(of("price_list"))),
    "many items of it": items(call(of("price_list"))),
    "a list": call(of("names")) + plain("x") + b"a",
    "a list, many": call(of("names")) + b"(" + plain("x") + b"e",
    "an object": state(call(of("cart")), "note", OTHER),
    "an object, by setattr": slots(call(of("cart")), "note", OTHER),
    "a class that is returned": slots(call(of("kind")), "total", of("price")),
    "a function that is returned": slots(call(of("pricing")), "__defaults__", OTHER),
    "a module that is returned": state(call(of("module")), "price", of("same")),
    "a module's attribute": slots(call(of("module")), "price", of("same")),
    "an argument that is returned": slots(call(of("same"), of("Cart")), "total", of("price")),
    "by NEWOBJ: one of a kind": state(of("Only") + b")\x81", "note", OTHER),
    "by NEWOBJ_EX: one of a kind": state(of("Only") + b")}\x92", "note", OTHER),
    "by REDUCE: one of a kind": state(call(of("Only")), "note", OTHER),
    "by INST: one of a kind": state(b"(ishop\nOnly\n", "note", OTHER),
    "by OBJ: one of a kind": state(b"(" + of("Only") + b"o", "note", OTHER),
    "a dictionary that is one of a kind": item(REGISTRY),
    "another's attributes": state(slots(NEW, "__dict__", REGISTRY), "tea", plain(99)),
    "another's attributes, as returned": state(
        slots(NEW, "__dict__", call(of("price_list"))), "tea", plain(99)
    ),
    "another's items": item(state(SETTINGS, "data", call(of("price_list")))),
    "another's items, one of a kind": item(state(SETTINGS, "data", REGISTRY)),
    "another's items, from a class": item(state(SETTINGS, "data", of("Prices") + b")\x81")),
    "another class": state(slots(NEW, "__class__", of("Only")), "x", OTHER),
    "the globals of a function": item(attribute(of("price"), "__globals__")),
    "the attributes of a module": item(attribute(call(of("module")), "__dict__")),
    "a method of what is returned": call(attribute(call(of("names")), "append"), plain("x")),
    "setattr of a class": call(
        attribute(of("type", "builtins"), "__setattr__"), of("Cart"), plain("total", 1)
    ),
    "a class of a new object": slots(call(of("type", "builtins"), NEW), "total", of("price")),
    "a partial call": call(call(of("partial", "functools"), of("add"), plain("x"))),
    "a shared array's memory": item(
        call(of("_frombuffer", "numpy._core.numeric"), call(of("weights")), plain("u1", (3,), "C"))
    ),
    "by an own __setstate__": state(state(NEW, "__setstate__", PARTIAL), "x", OTHER),
    "by an own append": state(NEW, "append", PARTIAL) + plain("x") + b"a",
    "by an own append, many": state(NEW, "append", PARTIAL) + b"(" + plain("x") + b"e",
    "by an own extend": state(NEW, "extend", PARTIAL) + b"(" + plain("x") + b"e",
    "by an own add": state(NEW, "add", PARTIAL) + b"(" + plain("x") + b"\x90",
    "by another's append": state(of("Forwards") + b")\x81", "put", PARTIAL) + plain("x") + b"a",
    "another class, by own items": NEW
    + b"N"
    + OTHERS_ITEMS
    + item(b"")
    + b"\x86b"
    + plain("x")
    + b"a",
    "a class's attribute, by its metaclass": call(of("Color.__setattr__"), plain("BLUE", 2)),
    "the same, by getattr": call(attribute(of("Color"), "__setattr__"), plain("BLUE", 2)),
    "an extension": b"\x82\xf0" + slots(b"", "total", of("price")),
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "w").mkdir()
    return tmp_path


@contextmanager
def extension() -> Iterator[None]:
    """Register a code for a class, which pickle keeps in its cache."""
    copyreg.add_extension("shop", "Cart", 240)
    pickle.loads(b"\x80\x02\x82\xf0.")
    try:
        yield
    finally:
        copyreg.remove_extension("shop", "Cart", 240)


def read(store: Path, pickled: bytes, allow: list[str], **options: Any) -> Any:
    key = options.get("key")
    data = of_pickle(b"\x80\x05" + pickled + b".", key=None if key is None else key.encode())
    (store / "w" / "t").write_bytes(data)
    return FileStorage(store, trust={"allow": allow}, **options).read_task("w", "t")


@pytest.mark.parametrize("name", CHANGES)
def test_nothing_that_is_named_changes(store: Path, name: str) -> None:
    """A result that changes a class, a function, or what these give, is refused; also signed.

    It is so whether or not the strict unpickler reads at once, as where extensions are registered.
    """
    before = shop.state()
    options: dict[str, Any]
    for options in ({}, {"key": "k"}):
        if name != "an extension":
            with pytest.raises(UntrustedResultError, match="trust"):
                read(store, CHANGES[name], ALLOWED, **options)
            assert before == shop.state()
        with extension(), pytest.raises(UntrustedResultError, match="trust"):
            read(store, CHANGES[name], ALLOWED, **options)
        assert before == shop.state()


def test_the_table_has_what_the_page_says() -> None:
    """The counts of the reliability page."""
    assert 75 == len(CHANGES)
    assert 59 == len(RUNNERS)


def test_new_objects_may_change(store: Path) -> None:
    """A new object gets its attributes and items: from a class, from a function, in each way."""
    allow = ["shop"]
    for new in (NEW, call(of("Cart")), call(of("fresh")), b"(ishop\nCart\n"):
        assert (0,) == read(store, state(new, "total", OTHER), allow).total
        assert (0,) == read(store, slots(new, "total", OTHER), allow).total
    assert (0,) == read(store, slots(of("Slotted") + b")\x81", "price", OTHER), allow).price
    assert ["x"] == read(store, of("Names") + b")\x81" + plain("x") + b"a", allow)
    assert {"tea": 99} == read(store, item(state(SETTINGS, "data", b"}")), allow).data
    assert shop.Color.RED is read(store, call(of("Color"), plain(1)), allow)
    assert shop.ONLY is read(store, of("Only") + b")\x81", allow)


def test_an_allowed_method_is_reached(store: Path) -> None:
    """Class methods, methods of new objects and enum members need no entry for getattr."""
    made = call(attribute(of("Cart"), "made"))
    assert isinstance(read(store, made, ["shop"]), shop.Cart)
    assert 1 == read(store, attribute(NEW, "total"), ["shop"])()
    assert shop.Color.RED is read(store, attribute(of("Color"), "RED"), ["shop"])
    zone = ZoneInfo("Europe/Paris")
    assert zone is read(store, pickle.dumps(zone)[2:-1], ["zoneinfo"])
    for path in "OrderedDict.update", "Counter.subtract":  # of C, and of Python
        kind, _, name = path.partition(".")
        method = attribute(call(of(kind, "collections")), name)
        with pytest.raises(UntrustedResultError, match=f"'collections.{path}'"):
            read(store, method, ["collections", "builtins.getattr"])
    for target in (call(of("cart")), of("CART")):
        with pytest.raises(UntrustedResultError, match="trust"):
            read(store, attribute(target, "total"), ["shop"])


def test_constants_of_python_are_read(store: Path) -> None:
    """Ellipsis and NotImplemented are written by their names."""
    assert ... is read(store, of("Ellipsis", "builtins"), ["builtins"])
    assert NotImplemented is read(store, of("NotImplemented", "builtins"), ["builtins"])


def test_extensions_are_checked(store: Path) -> None:
    """A registered extension code is a name as any other, although pickle keeps its object."""
    with extension():
        assert shop.Cart is read(store, b"\x82\xf0", ["shop"])
    with extension(), pytest.raises(UntrustedResultError, match=r"'shop\.Cart'"):
        read(store, b"\x82\xf0", ["numpy"])


def test_a_script_s_classes_are_checked(store: Path) -> None:
    """The function that gives a script's own classes gives none of another module."""
    given = "subprocess", "Popen", b"", None, ()
    found = call(of("script_object", "functionfuse.storage.pickling"), plain(*given))
    for allow, name in ((["shop"], "cloudpickle"), (["cloudpickle"], r"subprocess\.Popen")):
        with pytest.raises(UntrustedResultError, match=name):
            read(store, found, allow)
    changed = call(of("script_state", "functionfuse.storage.pickling"), of("Cart"), plain(1))
    with pytest.raises(UntrustedResultError, match="cloudpickle"):
        read(store, changed, ["shop"])


WRITER = """
import dataclasses, sys
from functionfuse.storage.filestorage import FileStorage

class Plain:
    def total(self):
        return len("x")

@dataclasses.dataclass(slots=True)
class Point:
    x: int = 1

def doubled(x):
    return 2 * x

values = {"plain": Plain(), "point": Point(), "doubled": doubled, "class": Plain}
values["method"] = Plain().total
if __name__ == "__main__":
    for name, value in values.items():
        FileStorage(sys.argv[1]).save("w", name, value)
"""
READER = """
import sys
from functionfuse.storage.filestorage import FileStorage
allow = "cloudpickle", "writer", "builtins", "dataclasses", "_thread"  # of Python 3.13
storage = FileStorage(sys.argv[1], trust={"allow": allow})
read = {name: storage.read_task("w", name) for name in storage.list_tasks("w")}
assert "Plain" == type(read["plain"]).__name__ == read["class"].__name__
found = read["plain"].total(), read["point"].x, read["doubled"](3), read["method"]()
assert (1, 1, 6, 1) == found, found
assert type(read["point"])(1) == read["point"]
"""


def test_a_script_s_classes_are_read_elsewhere(store: Path) -> None:
    """Another script and the script itself read them, with entries for what their code names."""
    (store / "writer.py").write_text(WRITER)
    (store / "reader.py").write_text(READER)
    again = WRITER.partition("values =")[0] + READER
    for program in ("writer.py", "reader.py", "writer.py"):
        done = subprocess.run(
            [sys.executable, program, str(store)],
            cwd=store,
            check=False,
            capture_output=True,
            text=True,
        )
        assert (0, "") == (done.returncode, done.stderr)
        if program == "reader.py":
            (store / "writer.py").write_text(again)


def test_plain_values_need_entries_too(store: Path) -> None:
    """Dates and decimals are read by the quick unpickler, which asks the list as well."""
    assert date(2026, 1, 1) == read(store, pickle.dumps(date(2026, 1, 1))[2:-1], ["datetime"])
    with pytest.raises(UntrustedResultError, match=r"'datetime\.date'"):
        read(store, pickle.dumps(date(2026, 1, 1))[2:-1], ["shop"])


# Functions and classes of packages.

Runner = tuple[str, str, tuple[Any, ...]]
PACKAGES = ["numpy", "pandas", "scipy", "sklearn", "dask", "xarray", "pyarrow", "functionfuse"]
PACKAGES += ["pydantic", "joblib", "toolz", "distributed", "fsspec", "logging", "ctypes"]
PACKAGES += ["unittest", "builtins", "types"]
CODE = f"open({MARK!r}, 'x').close()"
EVALUATED = f"__import__('os').mkdir({MARK!r})"
PICKLED = call(of("mkdir", "os"), plain(MARK)) + b"."
RUNNERS: list[Runner] = [
    ("numpy.testing._private.utils", "runstring", (CODE, {})),
    ("numpy.testing", "runstring", (CODE, {})),
    ("numpy.testing._private.utils", "rundocs", (MARK,)),
    ("numpy.testing", "measure", (CODE,)),
    ("numpy.f2py.crackfortran", "myeval", (EVALUATED, {}, {})),
    ("numpy.f2py.crackfortran", "_eval_length", (EVALUATED, {})),
    ("numpy.f2py.crackfortran", "_eval_scalar", (EVALUATED, {})),
    ("numpy.f2py.crackfortran", "param_eval", (EVALUATED, {}, {})),
    ("numpy.f2py.__main__", "main", ()),
    ("numpy.f2py", "run_main", ([MARK],)),
    ("numpy", "load", (MARK, None, True)),
    ("numpy", "save", (MARK, 1)),
    ("numpy", "savetxt", (MARK, [1])),
    ("numpy", "savez", (MARK, 1)),
    ("numpy", "fromfile", (MARK,)),
    ("numpy", "memmap", (MARK, "u1", "w+", 0, (1,))),
    ("numpy.testing._private.utils", "os.mkdir", (MARK,)),
    ("numpy.testing._private.utils", "os.system", (f"touch {MARK}",)),
    ("numpy.lib._datasource", "DataSource", (MARK,)),
    ("numpy", "ndarray.tofile", (MARK,)),
    ("numpy", "apply_along_axis", ()),
    ("pandas", "eval", (f"@{EVALUATED}", "python", "python")),
    ("pandas", "read_pickle", (MARK,)),
    ("pandas", "to_pickle", (1, MARK)),
    ("pandas", "DataFrame.to_pickle", (1, MARK)),
    ("pandas", "Series.to_csv", (1, MARK)),
    ("pandas", "ExcelWriter", (MARK + ".xlsx",)),
    ("pandas", "HDFStore", (MARK,)),
    ("pandas.io.common", "get_handle", (MARK, "w")),
    ("pandas.compat.pickle_compat", "loads", (PICKLED,)),
    ("scipy.io", "savemat", (MARK, {})),
    ("scipy.io", "FortranFile", (MARK, "w")),
    ("scipy.io", "netcdf_file", (MARK, "w")),
    ("sklearn.utils", "safe_mask", ()),
    ("dask.config", "set", ({MARK: 1},)),
    ("dask.utils", "import_required", ("antigravity", "")),
    ("dask.base", "compute", ()),
    ("xarray", "set_options", ()),
    ("pyarrow", "OSFile", (MARK, "w")),
    ("functionfuse.storage.unpickling", "loads", (PICKLED, ())),
    ("functionfuse.storage.filestorage", "FileStorage", (MARK,)),
    ("pandas.core.computation.expr", "Expr", (f"@{EVALUATED}", "python", "pandas", None, -1)),
    ("numpy.lib._stride_tricks_impl", "DummyArray", ({"data": (1, False)},)),
    ("numpy", "vectorize", (1,)),
    ("scipy.stats", "rv_continuous", ()),
    ("pydantic", "TypeAdapter", (EVALUATED,)),
    ("joblib", "Memory", (MARK,)),
    ("joblib.externals.loky.cloudpickle_wrapper", "_reconstruct_wrapper", (PICKLED, False)),
    ("toolz.functoolz", "_restore_curry", (None, "antigravity:webbrowser", (), {}, {}, True)),
    ("distributed.diskutils", "WorkSpace", (MARK,)),
    ("distributed.diskutils", "WorkSpace._purge_directory", (None, MARK)),
    ("dask.utils", "methodcaller", ("mkdir",)),
    ("fsspec.implementations.cached", "CachingFileSystem", ()),
    ("logging", "FileHandler", (MARK,)),
    ("ctypes", "CDLL", (MARK,)),
    ("unittest", "main", ("antigravity", None, ["x"])),
    ("builtins", "map", (1, [2])),
    ("builtins", "super", ()),
    ("types", "FunctionType", ()),
]


@pytest.mark.parametrize("runner", RUNNERS, ids=lambda one: f"{one[0]}.{one[1]}")
def test_a_package_s_functions_need_an_own_entry(
    store: Path, monkeypatch: pytest.MonkeyPatch, runner: Runner
) -> None:
    """An entry for the package isn't enough for what runs code, or opens files."""
    module, name, arguments = runner
    pytest.importorskip(module.partition(".")[0])
    monkeypatch.chdir(store)
    before = sorted(os.listdir(store))
    for function in (of(name, module), f"c{module}\n{name}\n".encode()):
        with pytest.raises(UntrustedResultError, match="does not allow"):
            read(store, call(function, plain(*arguments)), PACKAGES)
    assert before == sorted(os.listdir(store))


def test_these_functions_exist() -> None:
    """Else the test above would say nothing; those that some versions lack are few."""
    missing = []
    for module, name, _ in RUNNERS:
        package = module.partition(".")[0]
        if module.endswith("__main__") or importlib.util.find_spec(package) is None:
            continue
        try:
            found = importlib.import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError):
            missing.append(f"{module}.{name}")
    assert [] == missing


def test_the_message_has_the_entry(store: Path) -> None:
    """With the entry that the message tells, the function is called."""
    shown = call(of("sum", "numpy"), plain([1, 2]))
    with pytest.raises(UntrustedResultError, match=r"It needs an entry of its own, 'numpy\.sum'"):
        read(store, shown, ["numpy"])
    assert 3 == read(store, shown, ["numpy.sum"])
    assert 1 == read(store, call(of("price"), plain(1, 1)), ["shop"])


BY_DESIGN = {
    "a function with an entry of its own": (
        call(of("mkdir", "os"), plain(MARK)),
        ["os.mkdir", "posix.mkdir"],
    ),
    "a function of a module with an entry": (
        call(of("touch", "toucher"), plain(MARK)),
        ["toucher"],
    ),
    "the constructor of a class": (call(of("Touch", "toucher"), plain(MARK)), ["toucher"]),
    "__setstate__ of a class": (
        of("Touch", "toucher") + b")\x81" + plain(MARK) + b"b",
        ["toucher"],
    ),
    "the import of a module": (of("Touch", "toucher.imported"), ["toucher"]),
    "code by value, with cloudpickle": (
        call(of("loads", "cloudpickle"), plain(PICKLED)),
        ["cloudpickle", "cloudpickle.loads", "pickle.loads", "_pickle.loads"],
    ),
}


@pytest.mark.parametrize("name", BY_DESIGN)
def test_what_an_allow_list_can_t_stop(store: Path, name: str) -> None:
    """Allowed code runs, and does what it does: the kinds that the reliability page lists."""
    package = store / "code" / "toucher"
    package.mkdir(parents=True)
    touch = (
        "import pathlib\n"
        "def touch(path): pathlib.Path(path).touch()\n"
        "class Touch:\n"
        "    def __init__(self, path): touch(path)\n"
        "    def __setstate__(self, path): touch(path)\n"
    )
    if name == "the import of a module":
        (package / "__init__.py").touch()
        (package / "imported.py").write_text(f"{touch}touch({MARK!r})\n")
    else:
        package.rmdir()
        package.with_suffix(".py").write_text(touch)
    pickled, allow = BY_DESIGN[name]
    (store / "w" / "t").write_bytes(of_pickle(b"\x80\x05" + pickled + b"."))
    program = (
        "from functionfuse.storage.filestorage import FileStorage as F\n"
        f"F({str(store)!r}, trust={{'allow': {allow!r}}}).read_task('w', 't')\n"
    )
    paths = os.pathsep.join([str(store / "code"), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", program], cwd=store, env=environment, check=True)
    assert os.path.lexists(store / MARK)
