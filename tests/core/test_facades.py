"""The documented import paths: where they lead, and those of plugins without the plugin."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pickle
import pkgutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

from functionfuse.errors import PluginError
from functionfuse.facade import PATHS
from functionfuse.report import NodeRecord

FACADES = [
    ("functionfuse.storage.s3storage", "S3FileStorage", "functionfuse_s3"),
    ("functionfuse.storage.rayfilestorage", "FileStorage", "functionfuse_ray"),
    ("functionfuse.serializers.daskarray", "DaskArraySerializer", "functionfuse_dask"),
    ("functionfuse.backends.builtin.rayback", "RayWorkflow", "functionfuse_ray"),
    ("functionfuse", "RayWorkflow", "functionfuse_ray"),
]
each_facade = pytest.mark.parametrize(("path", "name", "package"), FACADES)


@pytest.fixture(autouse=True)
def _real_plugins() -> Iterator[None]:
    """Put the real packages away, and back."""

    def taken() -> dict[str, ModuleType]:
        tops = {package for _, _, package in FACADES}
        names = [name for name in sys.modules if name.partition(".")[0] in tops]
        return {name: sys.modules.pop(name) for name in names}

    real = taken()
    yield
    taken()
    sys.modules.update(real)


def installed(
    monkeypatch: pytest.MonkeyPatch, folder: Path, package: str, code: str | None
) -> None:
    """Have a plugin's package be this code; None: not be there."""
    sys.modules.pop(package, None)

    def version(name: str) -> str:
        assert package.replace("_", "-") == name
        if code is None:
            raise metadata.PackageNotFoundError(name)
        return "0.1.0"

    monkeypatch.setattr(metadata, "version", version)
    if code is not None:
        (folder / f"{package}.py").write_text(textwrap.dedent(code))
        monkeypatch.syspath_prepend(str(folder))


@each_facade
def test_it_hands_on_what_the_plugin_has(
    path: str, name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very object, imported when it is asked for; other names are an AttributeError."""
    installed(monkeypatch, tmp_path, package, f"class {name}: pass")
    facade = importlib.import_module(path)
    assert package not in sys.modules
    assert getattr(facade, name) is getattr(sys.modules[package], name)
    with pytest.raises(AttributeError, match=rf"module '{path}' has no attribute 'other'"):
        _ = facade.other


@each_facade
def test_a_missing_plugin_says_what_to_install(
    path: str, name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a plugin that is too old, or that can't be imported; each is an ImportError."""
    distribution = package.replace("_", "-")
    code = f"from {path} import {name}"
    installed(monkeypatch, tmp_path, package, None)
    match = f"{name} comes with {distribution}: pip install {distribution}"
    with pytest.raises(ImportError, match=match) as caught:
        exec(code)
    assert isinstance(caught.value, PluginError)
    installed(monkeypatch, tmp_path, package, "")
    with pytest.raises(PluginError, match=rf"{distribution} 0\.1\.0 does not bring {name} yet"):
        exec(code)
    installed(monkeypatch, tmp_path, package, "import does_not_exist")
    match = r"can't be imported: ModuleNotFoundError: .*_exist"
    with pytest.raises(PluginError, match=match) as caught:
        exec(code)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


OWN = sorted(
    (module, name, target)
    for module, names in PATHS.items()
    for name, target in names.items()
    if target.startswith("functionfuse.")
)


@pytest.mark.parametrize(("module", "name", "target"), OWN)
def test_it_leads_to_the_very_object(module: str, name: str, target: str) -> None:
    """By attribute and by import, and an editor is shown the same."""
    where, _, attribute = target.partition(":")
    expected = getattr(importlib.import_module(where), attribute)
    facade = importlib.import_module(module)
    assert expected is getattr(facade, name)
    assert name in facade.__all__
    assert (where, attribute, name) in _imported_for_editors(facade)


@pytest.mark.parametrize("module", PATHS)
def test_a_facade_says_what_it_has(module: str) -> None:
    """It has no other name, and no module of its own package is spelled like one of its names."""
    facade = importlib.import_module(module)
    with pytest.raises(AttributeError, match=rf"module '{module}' has no attribute 'other'"):
        _ = facade.other
    modules = {found.name for found in pkgutil.iter_modules(getattr(facade, "__path__", ()))}
    assert not modules & PATHS[module].keys()


def test_all_names_of_the_package() -> None:
    """They are shown by `dir`; `import *` needs no plugin, and `import` alone imports none."""
    code = (
        "import sys\n"
        "import functionfuse\n"
        "print(len([name for name in sys.modules if name.startswith('functionfuse.')]))\n"
        "for package in ('functionfuse_ray', 'ray'):\n"
        "    sys.modules[package] = None\n"
        "from functionfuse import *\n"
        "shown = {*dir(functionfuse)}\n"
        "print(sorted({*functionfuse.__all__, 'RayWorkflow'} - shown), workflow, LocalWorkflow)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    count, names = done.stdout.splitlines()
    assert int(count) <= 12
    assert names.startswith("[] <function workflow at ")


def test_each_facade_is_listed() -> None:
    """Whatever uses a resolver is in the list, so these tests see all of them."""
    package = Path(importlib.import_module("functionfuse").__path__[0])
    found = set()
    for file in package.rglob("*.py"):
        if "resolver(__name__)" in file.read_text() and file.name != "facade.py":
            parts = file.relative_to(package.parent).with_suffix("").parts
            found.add(".".join(parts).removesuffix(".__init__"))
    assert found == set(PATHS)


def test_what_pickles_name_stays() -> None:
    """Stored values name these paths, whatever module the code is in."""
    for path in [
        "functionfuse:File",
        "functionfuse.workflow:Settings",
        "functionfuse.workflow:WorkflowClass",
        "functionfuse.workflow:WorkflowFunction",
        "functionfuse.backends.plugins:RandomStatePlugin",
        "functionfuse.backends.plugins:_seed_random",
        "functionfuse.report:NodeRecord",
        "functionfuse.storage.header:TaskInfo",
        "functionfuse.storage.pickling:restore",
        "functionfuse.storage.pickling:script_object",
        "functionfuse.storage.pickling:script_state",
    ]:
        module, _, name = path.partition(":")
        found = getattr(importlib.import_module(module), name)
        if module not in PATHS:
            assert (module, name) == (found.__module__, found.__qualname__)


def test_a_store_is_written_without_the_rest() -> None:
    """The contract of stores imports no parser, no model and no graph's machinery."""
    code = (
        "import sys\n"
        "from functionfuse.storage.blobstore import BlobStore\n"
        "ours = sorted(name for name in sys.modules if name.startswith('functionfuse'))\n"
        "others = {'cloudpickle', 'pluggy', 'pydantic', 'tomllib', 'yaml'}\n"
        "print(len(ours), ours, sorted(others & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    count, _, rest = found.stdout.partition(" ")
    assert int(count) <= 20, rest
    assert rest.endswith(" []\n")


def _imported_for_editors(facade: ModuleType) -> set[tuple[str, str, str]]:
    """Return (module, name, name here) of what a facade imports if TYPE_CHECKING."""
    package = facade.__package__ or ""
    tree = ast.parse(Path(str(facade.__file__)).read_text())
    return {
        (importlib.util.resolve_name("." * node.level + (node.module or ""), package), *names)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for names in ((alias.name, alias.asname or alias.name) for alias in node.names)
    }


def test_records_are_pickled_by_their_documented_path() -> None:
    """So that results of earlier releases, and their allow-lists, stay good."""
    record = NodeRecord("a", "computed")
    assert b"functionfuse.report" in pickle.dumps(record)
    assert record == pickle.loads(pickle.dumps(record))
