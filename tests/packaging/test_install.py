"""What the wheels, and the checkout itself, are once they are installed."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MakeEnvironment = Callable[[], Any]

LOCATION = "import functionfuse, pathlib; print(pathlib.Path(functionfuse.__file__).resolve())"
SELF_DESCRIPTION = """
import importlib.metadata, {package}
print({package}.__doc__)
print({package}.__version__ == importlib.metadata.version("{name}"))
"""
INSTALLED = """
import importlib.metadata
names = {distribution.name for distribution in importlib.metadata.distributions()}
print(*sorted(name for name in names if name.startswith("functionfuse")))
"""


def test_core_works_alone(
    wheels: Mapping[str, Path], make_environment: MakeEnvironment, tmp_path: Path
) -> None:
    """Core's tests pass outside the checkout, with core's wheel and no plugin installed."""
    environment = make_environment()
    environment.install(wheels["functionfuse-core"], "--group", "test")
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


@pytest.mark.parametrize("plugin", ["s3", "ray", "dask"])
def test_plugin_installs_next_to_core(
    plugin: str, wheels: Mapping[str, Path], make_environment: MakeEnvironment, tmp_path: Path
) -> None:
    """A plugin's wheel installs with core's, imports, and says what it is and provides."""
    name, package = f"functionfuse-{plugin}", f"functionfuse_{plugin}"
    environment = make_environment()
    environment.install(wheels["functionfuse-core"], wheels[name])

    description = SELF_DESCRIPTION.format(name=name, package=package)
    said = environment.run("-c", description, cwd=tmp_path)
    assert "Function Fuse plugin for" in said
    assert "provides nothing yet" in said
    assert said.endswith("True\n")


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
