"""The hook specs: each is documented, by an example that could be typed as it is."""

from __future__ import annotations

import ast
import inspect
import textwrap
import tomllib
from collections.abc import Callable
from typing import Any

import pluggy
import pytest

from functionfuse import hookspecs
from functionfuse.plugins import registry
from functionfuse.plugins.entrypoints import NOUNS
from functionfuse.report import Event

SPECS = sorted(name for name in vars(hookspecs) if name.startswith("functionfuse_"))
each_spec = pytest.mark.parametrize("name", SPECS)


def example(name: str) -> tuple[str, str]:
    """Return the two files of a spec's example: pyproject.toml and the module."""
    doc = inspect.getdoc(getattr(hookspecs, name)) or ""
    assert "::\n" in doc, f"{name} has no example"
    code = textwrap.dedent(doc.rpartition("::\n")[2])
    _, project, module = code.split("# pyproject.toml")[0], *split(code)
    return project, module


def split(code: str) -> tuple[str, str]:
    project, marker, module = code.partition("# my_package/")
    assert marker
    return project, module.partition("\n")[2]


@each_spec
def test_every_hook_says_what_it_is_for(name: str) -> None:
    """A sentence first; and it is public."""
    first = (inspect.getdoc(getattr(hookspecs, name)) or "").split("\n")[0]
    assert first.endswith(".")
    assert first[0].isupper()
    assert name in hookspecs.__all__


def test_every_hook_is_a_spec_that_pluggy_knows() -> None:
    """Without the decorator it would be none."""
    manager = pluggy.PluginManager("functionfuse")
    manager.add_hookspecs(hookspecs)
    assert SPECS == sorted(name for name in vars(manager.hook) if name.startswith("functionfuse_"))
    assert 12 == len(SPECS)


@each_spec
def test_the_example_is_complete(
    name: str, install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Installed as it stands, its module is loaded, and it implements the hook."""
    project, module = example(name)
    (groups,) = tomllib.loads(project)["project"].values()
    ((group, points),) = groups.items()
    ((kind, value),) = points.items()
    assert group in NOUNS
    assert value.startswith("my_package.")
    ast.parse(module)
    install("my-package", kind, "my_module", module, group=group)
    if group in registry.GROUPS:
        record = registry.find(group, kind)
        assert (kind, hookspecs.API_VERSION) == (
            getattr(record, registry.GROUPS[group].field),
            record.api_version,
        )
    else:
        (entry,) = [entry for entry in registry.entries(group) if entry.kind == kind]
        caller = getattr(registry.register(entry).hook, name)
        (implementation,) = caller.get_hookimpls()
        arguments: dict[str, Any] = dict.fromkeys(caller.spec.argnames, hookspecs)
        arguments |= {"event": Event("finished", "w", "n", 0)} if name.endswith("_event") else {}
        if "finished" not in name and "saved" not in name:
            caller(**arguments)
            assert capsys.readouterr().out or "failed" in name
        assert set(implementation.argnames) <= set(arguments)
