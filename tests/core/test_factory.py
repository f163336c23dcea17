"""`storage_factory`: what a config may be, and what is imported for it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from memory_kind import SOURCE as PLUGIN

from functionfuse.errors import OptionsError
from functionfuse.kinds import FileOptions
from functionfuse.storage import storage_factory
from functionfuse.storage.filestorage import FileStorage


def test_a_file_storage_is_made_from_its_config(tmp_path: Path) -> None:
    """Kind "file" gives the documented class, and nothing is written yet."""
    storage = storage_factory({"kind": "file", "options": {"path": str(tmp_path / "s")}})
    assert isinstance(storage, FileStorage)
    assert not (tmp_path / "s").exists()


def test_options_are_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a config and by the class."""
    checks, validate = [], FileOptions.model_validate

    def noted(options: Any) -> FileOptions:
        checks.append(options)
        return validate(options)

    monkeypatch.setattr(FileOptions, "model_validate", noted)
    made = storage_factory({"kind": "file", "options": {"path": str(tmp_path), "private": True}})
    assert (1, str(tmp_path), True) == (len(checks), made.path, made.store.private)
    FileStorage(tmp_path)
    assert 2 == len(checks)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (["storage"], r"is a dictionary like .*, or the path of a file with one, not list"),
        (None, "not NoneType"),
        ("storage", r"config file 'storage' is none of .yaml, .yml, .json, .toml"),
        ("none.yaml", r"config file 'none.yaml' can't be read: No such file or directory"),
        (Path("none.toml"), r"config file 'none.toml' can't be read: No such file"),
        ({}, "names its kind"),
        ({"kind": 3}, "names its kind"),
        ({"kind": "file", "option": {}}, r"no field 'option' \(did you mean 'options'\?\)"),
        ({"kind": "file", "options": []}, "options of storage 'file' are a mapping, not list"),
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


def test_options_are_checked_before_anything_is_built(install: Callable[..., None]) -> None:
    """Also those of a plugin; the error doesn't show what the secrets are."""
    install("their-plugin", "memory", "their_memory", PLUGIN)
    assert ("built", 3) == storage_factory({"kind": "memory", "options": {"where": 3}})
    with pytest.raises(OptionsError, match="option 'where'") as caught:
        storage_factory({"kind": "memory", "options": {"where": "x", "password": "hunter2"}})
    assert "hunter2" not in str(caught.value)


def run(code: str, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *args],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def test_importing_the_package_imports_the_standard_library_only() -> None:
    """`import functionfuse` imports no other distribution, nor `typing`, which takes long."""
    code = """
        import sys
        before = set(sys.modules)
        import functionfuse
        functionfuse.workflow, functionfuse.task
        new = set(sys.modules) - before
        tops = {name.partition(".")[0] for name in new}
        print(sorted(tops - set(sys.stdlib_module_names)), "typing" in new)
    """
    assert "['functionfuse'] False\n" == run(code)


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


def test_one_kind_of_many_imports_one_plugin(install: Callable[..., None], tmp_path: Path) -> None:
    """In a process of its own, with plugins of all groups installed: the asked-for one's module."""
    install("their-plugin", "memory", "their_memory", PLUGIN)
    groups = ("storages", "serializers", "backends")
    for number in range(12):
        kind, group = f"other.Kind{number}", f"functionfuse.{groups[number % 3]}"
        install(f"other-{number}", kind, f"their_other_{number}", "raise SystemExit", group=group)
    code = """
        import sys
        sys.path.insert(0, sys.argv[1])
        from functionfuse import plugins, workflow
        from functionfuse.backends import workflow_factory
        from functionfuse.storage import storage_factory

        theirs = lambda: sorted(name for name in sys.modules if name.startswith("their_"))
        assert 13 == len([plugin for plugin in plugins.list() if "their" in plugin.module])
        print(theirs())
        storage = storage_factory({"kind": "file", "options": {"path": sys.argv[2]}})

        @workflow
        def one(): return 1

        local = workflow_factory({"backend": {"kind": "local"}}, one(), workflow_name="w")
        local.set_storage(storage)
        local.run(), local.run(), storage.list_tasks("w"), storage.remove_workflow("w")
        print(theirs())
        storage_factory({"kind": "memory", "options": {"where": 1}})
        print(theirs())
    """
    out = run(code, str(tmp_path / "site"), str(tmp_path / "store"))
    assert "[]\n[]\n['their_memory']\n" == out
