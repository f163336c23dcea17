"""What is set for reuse: names of what is not there are errors, with a storage and without."""

from __future__ import annotations

import functools
import sys
from importlib import metadata
from pathlib import Path

import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import OptionsError
from functionfuse.storage.filestorage import FileStorage

WRONG = {
    "limits": " (did you mean 'limit'?)",
    "a_module.LIMIT": "",
    "SETING": " (did you mean 'SETTING'?)",
}
SETTING = 1
OWNERS = functools.cache(metadata.packages_distributions)  # half a second a time, of an error


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("name", WRONG)
def test_ignore_names_what_is_there(name: str, stored: bool, tmp_path: Path) -> None:
    """Neither an argument nor a global that is read: that is an error, not a silent nothing."""

    @workflow(ignore=[name])
    def f(limit: int) -> int:
        return limit * SETTING

    flow = LocalWorkflow(f(1), workflow_name="w")
    if stored:
        flow.set_storage(FileStorage(str(tmp_path)))
    for call in (flow.plan, flow.run):
        with pytest.raises(OptionsError, match="no argument and reads no global") as caught:
            call()
        assert str(caught.value).endswith(f" of that name{WRONG[name]}")


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(
    ("name", "close"),
    [("nunpy", " (did you mean 'numpy'?)"), ("yaml", " (did you mean 'PyYAML'?)"), ("qqq", "")],
)
def test_packages_names_what_is_installed(
    name: str, close: str, stored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a node and for all of them; also the name by which a package is imported is wrong."""
    monkeypatch.delitem(sys.modules, "yaml", raising=False)  # while it isn't, it has no version
    monkeypatch.setattr(metadata, "packages_distributions", OWNERS)

    def f() -> int:
        return 1

    of_node = f"@workflow(packages=...) of {f.__qualname__!r}"
    ways = [(of_node, [name], []), ("set_reuse(packages=...)", [], [name])]
    for asked, own, names in ways:
        flow = LocalWorkflow(workflow(packages=own)(f)(), workflow_name="w")
        flow.set_reuse("unchanged", packages=names)
        if stored:
            flow.set_storage(FileStorage(str(tmp_path)))
        for call in (flow.plan, flow.run):
            with pytest.raises(OptionsError) as caught:
                call()
            expected = f"{asked}: {name!r} is no installed package with a version{close}"
            assert expected == str(caught.value)


@pytest.mark.parametrize(
    ("name", "more"), [("xxhas", " (did you mean 'xxhash'?)"), ("no-such", "")]
)
def test_own_names_what_can_be_imported(name: str, more: str, tmp_path: Path) -> None:
    """A distribution's name, or a slip, would have nothing count without a word."""
    flow = LocalWorkflow(workflow(lambda: 1)(), workflow_name="w")
    flow.set_storage(FileStorage(str(tmp_path)))
    flow.set_reuse("unchanged", own=[name])
    for call in (flow.plan, flow.run):
        with pytest.raises(OptionsError, match=r"own=.* can be imported") as caught:
            call()
        assert str(caught.value).endswith(f"{name!r} can be imported{more}")
