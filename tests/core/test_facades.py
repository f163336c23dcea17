"""The documented import paths of what plugins bring, with and without the plugin."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

from functionfuse.errors import PluginError

FACADES = [
    ("functionfuse.storage.s3storage", "S3FileStorage", "functionfuse_s3"),
    ("functionfuse.storage.rayfilestorage", "FileStorage", "functionfuse_ray"),
    ("functionfuse.serializers.daskarray", "DaskArraySerializer", "functionfuse_dask"),
    ("functionfuse.backends.builtin.rayback", "RayWorkflow", "functionfuse_ray"),
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
