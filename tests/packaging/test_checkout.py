"""What may stand in the repository, and what must be the same in several places."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MEMBERS = [
    "functionfuse_core",
    "plugins/functionfuse_dask",
    "plugins/functionfuse_ray",
    "plugins/functionfuse_s3",
]


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """The files that git tracks."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True
    ).stdout.decode()
    return [name for name in listing.split("\0") if (ROOT / name).is_file()]


def test_no_build_output_is_tracked(tracked: list[str]) -> None:
    """Lock files, environments, caches and build output stay out of the repository."""
    output = re.compile(
        r"(^|/)(uv\.lock|\.venv|__pycache__|build|dist|[^/]*\.egg-info)(/|$)"
        r"|\.(whl|pyc|pyo|tar\.gz)$|(^|/)\.[a-z_]+_cache/"
    )
    assert [] == [name for name in tracked if output.search(name)]


def test_no_machine_or_index_is_named(tracked: list[str]) -> None:
    """No tracked file names a path of the machine that it was made on, or a package index."""
    machine = re.compile(
        "|".join(
            [
                *(re.escape(f"{path}/") for path in (ROOT, Path.home())),
                r"/(?:home|Users)/\w",
                r"index[-_]url\s*[= ]\s*[\"']?https?:",
                r"https?://[^\s\"')]*/simple\b",
            ]
        )
    )
    found = []
    for name in tracked:
        text = (ROOT / name).read_text(encoding="utf-8", errors="replace")
        found += [f"{name}: {match.group()}" for match in machine.finditer(text)]
    assert [] == found


def test_constraints_are_names_and_versions() -> None:
    """constraints.txt pins exact versions, one of each name, and says nothing else."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [] == [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)]
    assert len({line.split("==")[0] for line in lines}) == len(lines)


def test_every_requirement_is_constrained() -> None:
    """Whatever a distribution or a dependency group names is pinned by constraints.txt."""
    pinned = {
        line.split("==")[0]
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    }
    root = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lines = [
        line for group in root["dependency-groups"].values() for line in group if type(line) is str
    ]
    for member in MEMBERS:
        project = tomllib.loads((ROOT / member / "pyproject.toml").read_text(encoding="utf-8"))
        lines += project["project"]["dependencies"] + project["build-system"]["requires"]
    names = {re.split(r"[^A-Za-z0-9-]", line)[0].lower() for line in lines}
    assert set() == {name for name in names - pinned if not name.startswith("functionfuse")}


def test_licenses_are_the_same() -> None:
    """Each distribution's LICENSE is a copy of the project's, which is Apache-2.0 in full."""
    text = (ROOT / "LICENSE").read_bytes()
    assert b"Apache License\n                           Version 2.0" in text
    assert [] == [member for member in MEMBERS if (ROOT / member / "LICENSE").read_bytes() != text]
