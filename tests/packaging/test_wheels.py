"""What is in the wheel of each distribution."""

import importlib.metadata
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTIONS = [
    ("functionfuse-core", "functionfuse_core", "functionfuse"),
    ("functionfuse-s3", "plugins/functionfuse_s3", "functionfuse_s3"),
    ("functionfuse-ray", "plugins/functionfuse_ray", "functionfuse_ray"),
    ("functionfuse-dask", "plugins/functionfuse_dask", "functionfuse_dask"),
]
GROUPS = {f"functionfuse.{name}" for name in ("storages", "serializers", "backends", "hooks")}
each_distribution = pytest.mark.parametrize(
    ("name", "folder", "package"), DISTRIBUTIONS, ids=[name for name, _, _ in DISTRIBUTIONS]
)


def open_wheel(wheel: Path) -> tuple[zipfile.ZipFile, importlib.metadata.Distribution, str]:
    """Return the archive, its metadata, and the name of the folder with the metadata."""
    archive = zipfile.ZipFile(wheel)
    (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
    return archive, importlib.metadata.PathDistribution(zipfile.Path(archive, f"{info}/")), info


@each_distribution
def test_metadata_says_what_the_project_says(
    name: str, folder: str, package: str, wheels: Mapping[str, Path]
) -> None:
    """The wheel carries name, version, Python, license and description of its pyproject.toml."""
    project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))
    metadata = open_wheel(wheels[name])[1].metadata

    assert name == metadata["Name"]
    assert project["project"]["version"] == metadata["Version"]
    assert ">=3.11" == metadata["Requires-Python"]
    assert "Apache-2.0" == metadata["License-Expression"]
    assert ["LICENSE"] == metadata.get_all("License-File")
    assert project["project"]["description"] == metadata["Summary"]
    assert "text/markdown" == metadata["Description-Content-Type"]
    assert f"# {name}" in metadata.get_payload()


@each_distribution
def test_holds_its_license(
    name: str, folder: str, package: str, wheels: Mapping[str, Path]
) -> None:
    """Each wheel holds the license of the project, in full."""
    archive, _, info = open_wheel(wheels[name])
    assert (ROOT / "LICENSE").read_bytes() == archive.read(f"{info}/licenses/LICENSE")


@each_distribution
def test_holds_its_package_and_nothing_else(
    name: str, folder: str, package: str, wheels: Mapping[str, Path]
) -> None:
    """Modules, `py.typed` and the report's template are in it; no file is outside the package."""
    archive, _, info = open_wheel(wheels[name])
    source = ROOT / folder / "src"
    modules, template = source.rglob("*.py"), source.rglob("template/*.*")
    expected = {path.relative_to(source).as_posix() for path in (*modules, *template)}

    files = {entry.filename for entry in archive.infolist() if not entry.is_dir()}
    assert expected | {f"{package}/py.typed"} == {
        file for file in files if not file.startswith(f"{info}/")
    }


@each_distribution
def test_entry_points(name: str, folder: str, package: str, wheels: Mapping[str, Path]) -> None:
    """Each names a module of the wheel, of its own; core's kinds go through the same door."""
    archive, distribution, _ = open_wheel(wheels[name])
    found = {(entry.group, entry.name, entry.value) for entry in distribution.entry_points}
    project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))
    points = project["project"].get("entry-points", {})
    if scripts := project["project"].get("scripts"):
        points["console_scripts"] = scripts
    assert found == {
        (group, kind, module) for group in points for kind, module in points[group].items()
    }
    assert GROUPS | {"console_scripts"} >= {group for group, _, _ in found}
    assert len(found) == len({(group, module) for group, _, module in found})
    modules = {module.partition(":")[0] for _, _, module in found}
    files = {f"{module.replace('.', '/')}.py" for module in modules}
    assert files <= set(archive.namelist())
    if name == "functionfuse-core":
        assert {
            ("console_scripts", "functionfuse", "functionfuse.__main__:main"),
            ("functionfuse.storages", "file", "functionfuse.kinds"),
            ("functionfuse.backends", "local", "functionfuse.kinds"),
        } == found


@each_distribution
def test_requirements(name: str, folder: str, package: str, wheels: Mapping[str, Path]) -> None:
    """Core needs five small libraries; a plugin needs core; the extras name the plugins."""
    requires = [Requirement(line) for line in open_wheel(wheels[name])[1].requires or []]
    always = {requirement.name for requirement in requires if requirement.marker is None}
    if name == "functionfuse-core":
        assert {"cloudpickle", "pluggy", "pydantic", "pyyaml", "rich", "xxhash"} == always
        extras = {
            f'functionfuse-{plugin}; extra == "{extra}"'
            for plugin in ("s3", "ray", "dask")
            for extra in (plugin, "all")
        }
        extras.add('pytest>=9.0; extra == "testing"')
        extras.add('shtab>=1.7; extra == "completion"')
        assert extras == {str(requirement) for requirement in requires if requirement.marker}
    else:
        assert "functionfuse-core" in always
        ours = {requirement.name for requirement in requires if "functionfuse" in requirement.name}
        assert {"functionfuse-core"} == ours
