"""Wheels, built once, and fresh environments outside the checkout to install them in."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "functionfuse-core": "functionfuse_core",
    "functionfuse-s3": "plugins/functionfuse_s3",
    "functionfuse-ray": "plugins/functionfuse_ray",
    "functionfuse-dask": "plugins/functionfuse_dask",
}
CONSTRAINTS = ROOT / "constraints.txt"


class Environment:
    """A virtual environment of its own, with nothing in it yet."""

    def __init__(self, folder: Path) -> None:
        uv("venv", "--no-project", "--python", sys.executable, folder)
        self.folder = folder
        scripts = folder / ("Scripts" if os.name == "nt" else "bin")
        self.python = scripts / ("python.exe" if os.name == "nt" else "python")

    def install(self, *arguments: str | Path) -> None:
        """Install with uv and the versions that run.py installs."""
        pins = ("--constraints", CONSTRAINTS, "--build-constraints", CONSTRAINTS)
        uv("pip", "install", "--python", self.python, *pins, *arguments)

    def borrow(self, libraries: Path) -> None:
        """Have it find the libraries in a folder, too, after its own: to install takes longer."""
        (site,) = self.folder.glob("lib/python*/site-packages")
        (site / "borrowed.pth").write_text(f"{libraries}\n", encoding="utf-8")

    def run(self, *arguments: str | Path, cwd: Path) -> str:
        """Run its Python and return what it prints."""
        return run(self.python, *arguments, cwd=cwd)


def uv(*arguments: str | Path, cwd: Path = ROOT) -> str:
    """Run uv, quietly unless it fails."""
    return run(sys.executable, "-m", "uv", "--quiet", *arguments, cwd=cwd)


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command and return what it prints; where it fails, so does the test, with all of it."""
    changed = {"PYTHONPATH", "VIRTUAL_ENV"}
    env = {name: value for name, value in os.environ.items() if name not in changed}
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        check=False,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    if result.returncode:
        pytest.fail(f"{result.args}\n{result.stdout}\n{result.stderr}", pytrace=False)
    return result.stdout


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The wheel of each distribution, built from the checkout."""
    built = {}
    for name, folder in FOLDERS.items():
        target = tmp_path_factory.mktemp(name)
        options = ("--python", sys.executable, "--build-constraints", CONSTRAINTS)
        uv("build", "--wheel", *options, "--out-dir", target, ROOT / folder)
        (built[name],) = target.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that is installed here, and nothing of ours."""
    folder = tmp_path_factory.mktemp("libraries")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "functionfuse" not in path.name and path.suffix != ".pth":
            (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture
def make_environment(tmp_path: Path) -> Callable[[], Environment]:
    """Makes a fresh environment outside the checkout."""
    return lambda: Environment(tmp_path / "environment")
