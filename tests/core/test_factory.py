"""`storage_factory` and the registry behind it: what is loaded, and what errors say."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from functionfuse import registry
from functionfuse.errors import OptionsError, PluginError, UnknownKindError
from functionfuse.storage import storage_factory
from functionfuse.storage.filestorage import FileStorage

PLUGIN = """
    from pydantic import BaseModel, ConfigDict, SecretStr
    from functionfuse.hookspecs import StorageKind, hookimpl

    class Options(BaseModel):
        model_config = ConfigDict(extra="forbid", frozen=True)
        where: int
        password: SecretStr = SecretStr("")

    @hookimpl
    def functionfuse_storages():
        build = lambda options: ("built", options.where)
        return [StorageKind("memory", Options, build, api_version=1)]
"""


@pytest.fixture
def install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, str, str, str], None]]:
    """Return a function that lays a distribution with one storage plugin onto the path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_managers", {})
    modules = []

    def add(distribution: str, kind: str, module: str, code: str) -> None:
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(code))
        folder = tmp_path / f"{distribution.replace('-', '_')}-1.2.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {distribution}\nVersion: 1.2\n")
        (folder / "entry_points.txt").write_text(f"[functionfuse.storages]\n{kind} = {module}\n")
        modules.append(module)

    yield add
    for module in modules:
        sys.modules.pop(module, None)


def test_a_file_storage_is_made_from_its_config(tmp_path: Path) -> None:
    """Kind "file" gives the documented class, and nothing is written yet."""
    storage = storage_factory({"kind": "file", "options": {"path": str(tmp_path / "s")}})
    assert isinstance(storage, FileStorage)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("storage", r"is a dictionary like .*not str"),
        (None, "not NoneType"),
        ({}, "names its kind"),
        ({"kind": 3}, "names its kind"),
        ({"kind": "file", "option": {}}, r"no field 'option' \(did you mean 'options'\?\)"),
        ({"kind": "file", "options": []}, "options of storage 'file' are a dictionary, not list"),
        ({"kind": "file", "options": {}}, "storage 'file': option 'path' is missing"),
        ({"kind": "file"}, "option 'path' is missing"),
        (
            {"kind": "file", "options": {"path": "s", "pth": 1}},
            r"unknown option 'pth' \(did you mean 'path'\?\); known: .*path",
        ),
        ({"kind": "file", "options": {"path": 3}}, "option 'path': "),
        ({"kind": "file", "options": {"path": "s", "private": "maybe"}}, "option 'private': "),
    ],
)
def test_a_wrong_config_says_what_is_wrong(config: Any, message: str) -> None:
    """Every mistake is an error of ours and a ValueError, with what to do."""
    with pytest.raises(OptionsError, match=message) as caught:
        storage_factory(config)
    assert isinstance(caught.value, ValueError)
    assert caught.value.__cause__ is None


def test_an_unknown_kind_names_what_is_there(install: Callable[..., None]) -> None:
    """The error names installed kinds and the closest one."""
    install("their-plugin", "memory", "their_memory", PLUGIN)
    with pytest.raises(UnknownKindError, match=r"'memroy'.*did you mean 'memory'.*file, memory"):
        storage_factory({"kind": "memroy", "options": {}})
    with pytest.raises(LookupError, match=r"Installed kinds: file"):
        storage_factory({"kind": "tape"})


@pytest.mark.parametrize("kind", ["S3", "s3"])
def test_a_known_kind_says_what_to_install(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind that we publish ourselves names its distribution, installed too old or not at all."""
    from importlib import metadata

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(registry.metadata, "version", missing)
    with pytest.raises(UnknownKindError, match=r"pip install functionfuse-s3"):
        storage_factory({"kind": kind})
    monkeypatch.setattr(registry.metadata, "version", lambda _: "0.1.0")
    with pytest.raises(UnknownKindError, match=r"functionfuse-s3 0\.1\.0 does not bring it"):
        storage_factory({"kind": kind})


def test_a_plugin_is_found_by_its_entry_point(install: Callable[..., None]) -> None:
    """The kind is found in any case of letters; its options are checked before it is built."""
    install("their-plugin", "memory", "their_memory", PLUGIN)
    assert ("built", 3) == storage_factory({"kind": "memory", "options": {"where": 3}})
    assert ("built", 4) == storage_factory({"kind": "Memory", "options": {"where": 4}})
    with pytest.raises(OptionsError, match="option 'where'") as caught:
        storage_factory({"kind": "memory", "options": {"where": "x", "password": "hunter2"}})
    assert "hunter2" not in str(caught.value)


def test_only_the_asked_for_plugin_is_imported(install: Callable[..., None]) -> None:
    """Other plugins are not touched, not even broken ones."""
    install("broken-plugin", "broken", "their_broken", "import does_not_exist")
    install("their-plugin", "memory", "their_memory", PLUGIN)
    storage_factory({"kind": "memory", "options": {"where": 3}})
    assert "their_broken" not in sys.modules


def test_a_broken_plugin_names_module_distribution_and_cause(
    install: Callable[..., None],
) -> None:
    """The error says what can't be loaded, whose it is, and why; it is an ImportError."""
    install("broken-plugin", "broken", "their_broken", "import does_not_exist")
    for _ in range(2):
        with pytest.raises(
            PluginError, match=r"'their_broken' from broken-plugin 1\.2.*No module.*does_not_exist"
        ) as caught:
            storage_factory({"kind": "broken"})
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_two_owners_of_a_kind_are_both_named(install: Callable[..., None]) -> None:
    """Which of two distributions would win is not left to the order of the path."""
    install("one-plugin", "memory", "their_memory", PLUGIN)
    install("other-plugin", "memory", "their_other", PLUGIN)
    with pytest.raises(PluginError, match=r"(one|other)-plugin 1\.2 and (one|other)-plugin 1\.2"):
        storage_factory({"kind": "memory", "options": {"where": 3}})


def test_a_misspelt_hook_is_an_error(install: Callable[..., None]) -> None:
    """A hook that nobody asks for doesn't pass silently."""
    install("t", "memory", "their_memory", PLUGIN.replace("fuse_storages", "fuse_s"))
    with pytest.raises(PluginError, match=r"their_memory.*functionfuse_s"):
        storage_factory({"kind": "memory", "options": {"where": 3}})


def test_a_plugin_of_another_kind_is_an_error(install: Callable[..., None]) -> None:
    """The record's kind is the entry point's name."""
    install("their-plugin", "other", "their_memory", PLUGIN)
    with pytest.raises(PluginError, match="0 records of kind 'other'"):
        storage_factory({"kind": "other", "options": {"where": 3}})


def run(code: str, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *args],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def test_importing_the_package_imports_the_standard_library_only() -> None:
    """`import functionfuse` gives `workflow` without any other distribution's module."""
    code = """
        import sys
        before = set(sys.modules)
        import functionfuse
        functionfuse.workflow, functionfuse.task
        tops = {name.partition(".")[0] for name in set(sys.modules) - before}
        print(sorted(tops - set(sys.stdlib_module_names)))
    """
    assert "['functionfuse']\n" == run(code)


def test_a_run_with_files_imports_no_heavy_package(tmp_path: Path) -> None:
    """A stored run in process needs none of the plugins' libraries, nor numpy."""
    code = """
        import sys
        from functionfuse import workflow
        from functionfuse.backends.builtin.localback import LocalWorkflow
        from functionfuse.storage import storage_factory

        @workflow
        def add(a, b): return a + b

        local = LocalWorkflow(add(1, add(2, 3)), workflow_name="w")
        local.set_storage(storage_factory({"kind": "file", "options": {"path": sys.argv[1]}}))
        assert local.run() == 6
        heavy = {"boto3", "botocore", "ray", "dask", "h5py", "zarr", "numpy", "pandas", "yaml"}
        print(sorted(heavy & set(sys.modules)))
    """
    assert "[]\n" == run(code, str(tmp_path))
