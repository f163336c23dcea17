"""What the wheels, and the checkout itself, are once they are installed."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MakeEnvironment = Callable[[], Any]

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"

LOCATION = "import functionfuse, pathlib; print(pathlib.Path(functionfuse.__file__).resolve())"
ALONE = """
import importlib.metadata, re, sys
import {package}
from functionfuse import hookspecs, plugins
from functionfuse.plugins import registry
from functionfuse.errors import OptionsError, UnknownKindError
from functionfuse.storage import storage_factory

print({package}.__doc__)
assert {package}.__version__ == importlib.metadata.version("{name}")

theirs = [plugin for plugin in plugins.list() if plugin.distribution == "{name}"]
assert [] == [plugin.problem for plugin in theirs if plugin.problem], theirs
assert {{"functionfuse-core", "{name}"}} >= {{plugin.distribution for plugin in plugins.list()}}
heavy = {{"boto3", "ray", "dask", "h5py", "zarr"}}
for plugin in theirs:
    record = registry.find("functionfuse." + plugin.brings + "s", plugin.kind)
    assert hookspecs.API_VERSION == record.api_version
    print(plugin.brings, plugin.kind)
    if plugin.brings == "storage":
        try:
            storage_factory({{"kind": plugin.kind, "options": {{"no such option": 1}}}})
        except OptionsError as error:
            assert "unknown option 'no such option'" in str(error), error
        else:
            raise AssertionError(plugin)
assert not heavy & set(sys.modules), heavy & set(sys.modules)

for kind, distribution in (("S3", "functionfuse-s3"), ("ray", "functionfuse-ray")):
    if kind not in {{plugin.kind for plugin in theirs if plugin.brings == "storage"}}:
        try:
            storage_factory({{"kind": kind, "options": {{}}}})
        except UnknownKindError as error:
            assert re.search("pip install (--upgrade )?" + distribution, str(error)), error
        else:
            raise AssertionError(kind)
"""
FACADES = """
from functionfuse.errors import PluginError

for path, name, package in {facades}:
    distribution = package.replace("_", "-")
    try:
        exec(f"from {{path}} import {{name}}")
        print(distribution)
    except PluginError as error:
        assert distribution in str(error), error
        assert "can't be imported" not in str(error), error
"""
PATHS = [
    ("functionfuse.storage.s3storage", "S3FileStorage", "functionfuse_s3"),
    ("functionfuse.storage.rayfilestorage", "FileStorage", "functionfuse_ray"),
    ("functionfuse.backends.builtin.rayback", "RayWorkflow", "functionfuse_ray"),
    ("functionfuse.serializers.daskarray", "DaskArraySerializer", "functionfuse_dask"),
]
INSTALLED = """
import importlib.metadata
names = {distribution.name for distribution in importlib.metadata.distributions()}
print(*sorted(name for name in names if name.startswith("functionfuse")))
"""


@pytest.mark.battery
@pytest.mark.skipif(not FULL, reason="minutes: run.py battery has it")
def test_core_works_alone(
    wheels: Mapping[str, Path],
    libraries: Path,
    make_environment: MakeEnvironment,
    tmp_path: Path,
) -> None:
    """Core's tests pass outside the checkout, with core's wheel and no plugin installed."""
    environment = make_environment()
    environment.install(wheels["functionfuse-core"])
    environment.borrow(libraries)
    copy = tmp_path / "copy"
    shutil.copytree(
        ROOT / "tests/core", copy / "tests/core", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(ROOT / "docs", copy / "docs")  # some tests compare a page with the code
    shutil.copy(ROOT / "pyproject.toml", copy)
    if (ROOT / "tests/conftest.py").exists():
        shutil.copy(ROOT / "tests/conftest.py", copy / "tests")

    assert ["functionfuse-core"] == environment.run("-c", INSTALLED, cwd=copy).split()
    location = Path(environment.run("-c", LOCATION, cwd=copy).strip())
    assert location.is_relative_to(environment.folder.resolve())
    environment.run("-m", "pytest", "tests/core", "-q", "-m", "not battery", cwd=copy)


@pytest.mark.battery
@pytest.mark.parametrize("plugin", ["s3", "ray", "dask"])
def test_plugin_works_next_to_core_alone(
    plugin: str,
    wheels: Mapping[str, Path],
    libraries: Path,
    make_environment: MakeEnvironment,
    tmp_path: Path,
) -> None:
    """A plugin's wheel with core's, and nothing else of ours: imports, kinds and errors.

    In full, its tests, too.
    """
    name, package = f"functionfuse-{plugin}", f"functionfuse_{plugin}"
    environment = make_environment()
    environment.install(wheels["functionfuse-core"], wheels[name])
    assert ["functionfuse-core", name] == environment.run("-c", INSTALLED, cwd=tmp_path).split()

    said = environment.run("-c", ALONE.format(name=name, package=package), cwd=tmp_path)
    assert "Function Fuse" in said
    found = environment.run("-c", FACADES.format(facades=PATHS), cwd=tmp_path).split()
    assert {name} >= set(found)

    # What it registers, it also provides; what is a placeholder says so.
    kinds = {"s3": "storage S3", "ray": "storage ray", "dask": "serializer dask.array.core.Array"}
    assert (kinds[plugin] in said) != ("provides nothing yet" in said)
    assert bool(found) != ("provides nothing yet" in said)

    if FULL:
        copy = tmp_path / "copy"
        leave = shutil.ignore_patterns("__pycache__", "golden", "packaging", "examples")
        shutil.copytree(ROOT / "tests", copy / "tests", ignore=leave)
        shutil.copytree(ROOT / "docs", copy / "docs")
        shutil.copy(ROOT / "pyproject.toml", copy)
        environment.borrow(libraries)
        assert ["functionfuse-core", name] == environment.run("-c", INSTALLED, cwd=copy).split()
        environment.run("-m", "pytest", f"tests/{plugin}", "-q", "-m", "not battery", cwd=copy)


def test_core_alone_says_what_to_install(
    wheels: Mapping[str, Path], make_environment: MakeEnvironment, tmp_path: Path
) -> None:
    """With core's wheel and what it needs, every documented import path names its distribution."""
    environment = make_environment()
    environment.install(wheels["functionfuse-core"])
    alone = ALONE.format(name="functionfuse-core", package="functionfuse")
    said = environment.run("-c", alone, cwd=tmp_path)
    assert {"storage file", "backend local"} <= set(said.splitlines())
    assert "" == environment.run("-c", FACADES.format(facades=PATHS), cwd=tmp_path)


@pytest.mark.parametrize("sources", ["--no-sources", ""], ids=["as pip", "as uv"])
def test_checkout_installs_with_extras(
    sources: str, make_environment: MakeEnvironment, tmp_path: Path
) -> None:
    """`pip install ".[s3,ray,dask]"` in a checkout installs the folders of the checkout.

    Without its own sources table, uv reads the same metadata as pip.
    """
    environment = make_environment()
    environment.install(f"functionfuse[s3,ray,dask] @ {ROOT.as_uri()}", *filter(None, [sources]))
    installed = environment.run("-c", INSTALLED, cwd=tmp_path).split()
    plugins = ["functionfuse-dask", "functionfuse-ray", "functionfuse-s3"]
    assert sorted(["functionfuse", "functionfuse-core", *plugins]) == installed
