"""The registry: what is found, loaded and refused, and what the errors say."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from memory_kind import SOURCE as PLUGIN

from functionfuse import __version__, plugins
from functionfuse.errors import PluginError, UnknownKindError
from functionfuse.plugins import entrypoints, registry
from functionfuse.storage import storage_factory

Install = Callable[..., None]

MEMORY = {"kind": "memory", "options": {"where": 3}}
WHERE = r"the storage 'memory' \(module 'their_memory' from their-plugin 1\.2\)"


def refused(match: str, config: Any = MEMORY) -> PluginError:
    """Return the error, which must be the same at the second try."""
    messages = []
    for _ in range(2):
        with pytest.raises(PluginError, match=match) as caught:
            storage_factory(config)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert isinstance(caught.value, ImportError)
    return caught.value


def test_a_plugin_is_found_by_its_entry_point(install: Install) -> None:
    """The kind is found in any case of letters; a kind in the right case is taken first."""
    install("their-plugin", "memory", "their_memory", PLUGIN)
    other = PLUGIN.replace('"memory"', '"MEMORY"').replace('"built"', '"other"')
    install("other-plugin", "MEMORY", "other_memory", other)
    assert ("built", 3) == storage_factory(MEMORY)
    assert ("other", 3) == storage_factory({**MEMORY, "kind": "MEMORY"})
    with pytest.raises(PluginError, match=r"'Memory' is brought by module '"):
        storage_factory({**MEMORY, "kind": "Memory"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FUNCTIONFUSE_BLOCK", "other-plugin")
        assert ("built", 4) == storage_factory({"kind": "Memory", "options": {"where": 4}})


def test_only_the_asked_for_plugin_is_imported(install: Install) -> None:
    """Other plugins are not touched, not even broken ones."""
    install("broken-plugin", "broken", "their_broken", "import does_not_exist")
    install("their-plugin", "memory", "their_memory", PLUGIN)
    storage_factory(MEMORY)
    assert "their_broken" not in sys.modules


def test_a_module_is_imported_once(install: Install) -> None:
    """And its hook is called once, however often the kind is asked for."""
    install("their-plugin", "memory", "their_memory", PLUGIN)
    first = registry.find("functionfuse.storages", "memory")
    assert first is registry.find("functionfuse.storages", "memory")


def test_an_unknown_kind_names_what_is_there(install: Install) -> None:
    """The error names installed kinds and the closest one."""
    install("their-plugin", "memory", "their_memory", PLUGIN)
    with pytest.raises(UnknownKindError, match=r"'memroy'.*did you mean 'memory'.*file, memory"):
        storage_factory({"kind": "memroy", "options": {}})
    with pytest.raises(LookupError, match=r"no storage of kind 'tape'.*Installed kinds: .*file"):
        storage_factory({"kind": "tape"})
    with pytest.raises(UnknownKindError, match=r"no serializer of kind 'a\.B' is installed"):
        registry.find("functionfuse.serializers", "a.B")


def test_a_plugin_installed_meanwhile_is_found(install: Install) -> None:
    """A process that has looked before it was there looks again before it says that it isn't."""
    install("their-plugin", "memory", "their_memory", PLUGIN)
    storage_factory(MEMORY)
    forget, entrypoints.forget = entrypoints.forget, lambda: None
    try:
        other = PLUGIN.replace('"memory"', '"new"')
        install("new-plugin", "new", "new_memory", other)
    finally:
        entrypoints.forget = forget
    assert ("built", 3) == storage_factory({**MEMORY, "kind": "new"})


@pytest.mark.parametrize(
    ("group", "kind", "distribution"),
    [
        ("functionfuse.storages", "S3", "functionfuse-s3"),
        ("functionfuse.storages", "s3", "functionfuse-s3"),
        ("functionfuse.storages", "ray", "functionfuse-ray"),
        ("functionfuse.backends", "ray", "functionfuse-ray"),
        ("functionfuse.serializers", "dask.array.core.Array", "functionfuse-dask"),
    ],
)
def test_a_known_kind_says_what_to_install(
    group: str, kind: str, distribution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kind that we publish ourselves names its distribution, installed too old or not at all."""
    from importlib import metadata

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(entrypoints, "_scan", lambda: {name: [] for name in entrypoints.NOUNS})
    monkeypatch.setattr(entrypoints, "_found", None)
    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(UnknownKindError, match=f"pip install {distribution}"):
        registry.find(group, kind)
    monkeypatch.setattr(metadata, "version", lambda _: "0.1.0")
    with pytest.raises(UnknownKindError, match=f"{distribution} 0.1.0 does not bring it"):
        registry.find(group, kind)


@pytest.mark.parametrize("code", ["import does_not_exist", "raise SystemExit(3)", "1 / 0", "("])
def test_a_broken_plugin_names_kind_module_distribution_version_and_cause(
    install: Install, code: str
) -> None:
    """Whatever its import raises; even if it wants to end the program."""
    install("their-plugin", "memory", "their_memory", code)
    error = refused(WHERE + " can't be imported: ")
    assert type(error.__cause__).__name__ in str(error)
    assert str(error.__cause__) in str(error)


def test_two_owners_of_a_kind_are_both_named(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of two distributions would win is not left to the order of the path."""
    install("one-plugin", "memory", "their_memory", PLUGIN)
    install("other-plugin", "memory", "their_other", PLUGIN)
    error = refused(r"'memory' is brought by module 'their_\w+' from ")
    for expected in ("'their_memory' from one-plugin 1.2", "'their_other' from other-plugin 1.2"):
        assert expected in str(error)
    assert "their_memory" not in sys.modules
    monkeypatch.setenv("FUNCTIONFUSE_BLOCK", "Other_Plugin")
    assert ("built", 3) == storage_factory(MEMORY)


def test_another_module_brings_the_kind_when_the_first_is_blocked(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although a module of that kind is loaded already."""
    install("one-plugin", "memory", "their_memory", PLUGIN)
    assert ("built", 3) == storage_factory(MEMORY)
    other = PLUGIN.replace('"built"', '"other"')
    install("other-plugin", "memory", "their_other", other)
    monkeypatch.setenv("FUNCTIONFUSE_BLOCK", "one-plugin")
    assert ("other", 3) == storage_factory(MEMORY)


def test_several_threads_look_at_once(install: Install) -> None:
    """For kinds that are there and that are not, and while the list is asked for."""
    for number in range(8):
        code = PLUGIN.replace('"memory"', f'"kind{number}"')
        install(f"plugin-{number}", f"kind{number}", f"their_kind{number}", code)

    def look(number: int) -> Any:
        if number % 8 == 0:
            with pytest.raises(UnknownKindError):
                registry.find("functionfuse.storages", "nobody's")
            return len(plugins.list()) > 8
        kind = f"kind{number % 8}"
        return ("built", 1) == storage_factory({"kind": kind, "options": {"where": 1}})

    with ThreadPoolExecutor(16) as pool:
        assert [True] * 160 == list(pool.map(look, range(160)))


def test_a_distribution_hides_another_version_of_itself(install: Install) -> None:
    """As for imports, the first on the path counts; it is not one owner more."""
    install("their-plugin", "memory", "their_memory", PLUGIN, site="late")
    newer = PLUGIN.replace('"built"', '"newer"')
    install("Their.Plugin", "memory", "their_newer", newer, site="early", version="2.0")
    assert ("newer", 3) == storage_factory(MEMORY)
    assert "their_memory" not in sys.modules
    assert ["2.0"] == [plugin.version for plugin in plugins.list() if plugin.kind == "memory"]


def test_one_module_under_two_names_is_an_error(install: Install) -> None:
    """One entry point is one module is one kind."""
    install("their-plugin", "memory", "their_memory", PLUGIN)
    install("their-plugin", "other", "their_memory", PLUGIN)
    storage_factory(MEMORY)
    refused(r"'other'.* shares its module with 'memory'", {**MEMORY, "kind": "other"})
    assert ("built", 3) == storage_factory(MEMORY)


@pytest.mark.parametrize("value", ["their_memory:Plugin", "their_memory:Plugin [extra]"])
def test_an_entry_point_that_names_a_class_is_an_error(install: Install, value: str) -> None:
    """Since pluggy would register the class itself, and call its functions without an instance."""
    install("their-plugin", "memory", value, PLUGIN)
    refused("does not name a module")
    assert "their_memory" not in sys.modules


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        # a misspelt hook
        (
            "fuse_storages()",
            "fuse_storage()",
            WHERE
            + r" implements 'functionfuse_storage', .* \(did you mean 'functionfuse_storages'",
        ),
        # an argument that the hook doesn't have
        ("fuse_storages()", "fuse_storages(x)", WHERE + r" has a wrong hook .*Argument\(s\) {'x'}"),
        # no hook at all
        ("@hookimpl\n", "\n", WHERE + r" does not implement .*@hookimpl\?"),
        # other records
        ('"memory", O', '"other", O', WHERE + r" returns records of kinds \['other'\]"),
        ("return [", "return 2 * [", r" returns records of kinds \['memory', 'memory'\]"),
        ("return [", "return []  # [", r" returns records of kinds \[\] from"),
        ("return [", "return [{}]  # [", r" returns dict from its hook .* and not StorageKind"),
        (
            "return [",
            "return (",
            r" fails in its hook .* SyntaxError|can't be imported: SyntaxError",
        ),
        ("return [S", "return 1 / 0  # [S", r" fails in its hook .*ZeroDivisionError: division"),
        # records of other versions
        (
            "api_version=1",
            "api_version=2",
            WHERE + r" was made for version 2 of the plugin API, and functionfuse-core "
            rf"{__version__} has version 1: pip install --upgrade functionfuse-core$",
        ),
        (
            "api_version=1",
            "api_version=0",
            WHERE + r" was made for version 0 .*: pip install --upgrade their-plugin$",
        ),
        (
            "api_version=1",
            "api_version=2, new=1",
            r"TypeError.*'new'.* has version 1 of the plugin",
        ),
        (", api_version=1", "", r"TypeError.*'api_version'\. functionfuse-core "),
    ],
)
def test_a_plugin_that_is_not_as_specified_is_refused(
    install: Install, old: str, new: str, match: str
) -> None:
    """By name, with what is wrong; and a sound one is used after it as if nothing had been."""
    assert old in PLUGIN
    install("their-plugin", "memory", "their_memory", PLUGIN.replace(old, new))
    sound = PLUGIN.replace('"memory"', '"sound"')
    install("sound-plugin", "sound", "sound_memory", sound)
    refused(match)
    assert ("built", 3) == storage_factory({**MEMORY, "kind": "sound"})


@pytest.mark.parametrize("word", ["memory", " MEMORY ,x", "x,their-plugin", "Their.Plugin"])
def test_a_blocked_plugin_is_refused_and_not_imported(
    install: Install, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """By its kind or its distribution's name, in any case of letters; others are not."""
    install("their-plugin", "memory", "their_memory", PLUGIN)
    monkeypatch.setenv("FUNCTIONFUSE_BLOCK", word)
    refused(WHERE + " is blocked: the environment variable FUNCTIONFUSE_BLOCK has ")
    assert "their_memory" not in sys.modules
    monkeypatch.setenv("FUNCTIONFUSE_BLOCK", "mem,their,")
    assert ("built", 3) == storage_factory(MEMORY)


def test_a_distribution_without_metadata(install: Install) -> None:
    """Broken metadata is no reason to fail in another way."""
    install("their-plugin", "memory", "their_memory", "1 / 0", metadata="")
    refused(r"\(module 'their_memory' from an unknown distribution\) can't be imported")
    assert "" in {plugin.distribution for plugin in plugins.list()}


def test_the_list_of_plugins(
    install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Kinds, owners, versions and health, and no plugin is imported for it."""
    assert "file" in {plugin.kind for plugin in plugins.list()}
    package = tmp_path / "site" / "their_package"
    install("their-plugin", "memory", "their_memory", "raise SystemExit")
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit")
    (package / "plugin.py").write_text("raise SystemExit")
    install("other-plugin", "memory", "their_other", "raise SystemExit")
    install("a-plugin", "tape", "their_tape", "", version="0.3")
    install("b-plugin", "a.B", "their_package.plugin", "", group="functionfuse.serializers")
    install("c-plugin", "gone", "their_package.gone", "", group="functionfuse.backends")
    install("d-plugin", "gone", "nowhere.plugin", "", group="functionfuse.hooks")
    (tmp_path / "site" / "nowhere.plugin.py").unlink()
    monkeypatch.setenv("FUNCTIONFUSE_BLOCK", "tape")
    found = [p for p in plugins.list() if not p.distribution.startswith("functionfuse-")]
    their = "their-plugin", "1.2"
    assert [
        ("backend", "gone", "their_package.gone", "c-plugin", "1.2", "there is no module"),
        ("event hook", "gone", "nowhere.plugin", "d-plugin", "1.2", "there is no module"),
        ("serializer", "a.B", "their_package.plugin", "b-plugin", "1.2", ""),
        ("storage", "memory", "their_other", "other-plugin", "1.2", "their-plugin 1.2 brings it"),
        ("storage", "memory", "their_memory", *their, "other-plugin 1.2 brings it"),
        ("storage", "tape", "their_tape", "a-plugin", "0.3", "blocked: FUNCTIONFUSE_BLOCK has"),
    ] == [
        (p.brings, p.kind, p.module, p.distribution, p.version, shortened(p.problem)) for p in found
    ]
    assert not {"their_memory", "their_other", "their_package"} & set(sys.modules)


def shortened(problem: str) -> str:
    """Return a problem without what is quoted in it."""
    return problem.partition(" '")[0].partition(", too")[0]
