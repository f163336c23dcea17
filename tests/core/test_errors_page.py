"""`docs/errors.md`: made from the errors that are really raised, and compared with them.

To write it anew: `FUNCTIONFUSE_WRITE_ERRORS=1 python -m pytest tests/core/test_errors_page.py`.
"""

from __future__ import annotations

import functools
import os
import pickle
import shutil
import sys
import textwrap
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from result_bytes import MemoryStore

from functionfuse import File, errors, workflow
from functionfuse.backends import workflow_factory
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import FunctionFuseError
from functionfuse.plugins import entrypoints, registry
from functionfuse.reuse import workers
from functionfuse.reuse.identity import Identities
from functionfuse.serializers import installed
from functionfuse.storage import Storage, storage_factory
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.options import Allow, StorageOptions

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
WRITE = "FUNCTIONFUSE_WRITE_ERRORS"

Install = Callable[..., None]

HEAD = """\
# Errors

This page shows the errors of graphs, runs, configs, plugins and workers. All classes are in
`functionfuse.errors`. Each is also the builtin exception in brackets: `except ValueError` catches
an `OptionsError`. `tests/core/test_errors_page.py` raises every error, writes this page, and
compares the two.
"""

STORAGE = """
    from pydantic import BaseModel
    from functionfuse.hookspecs import StorageKind, hookimpl

    class Options(BaseModel):
        reel: int

    @hookimpl
    def functionfuse_storages():
        return [StorageKind("tape", Options, lambda options: options, api_version=1)]
"""
SERIALIZER = """
    from functionfuse.hookspecs import SerializerKind, hookimpl

    def build():
        import frames

        class Frames:
            name = "parquet"
            serializer_class = frames.Frame
            pickle = lambda self, obj, protocols: (self.name, None)
            unpickle = lambda self, pid, protocols: frames.Frame()
            remove = lambda self, pid, protocols: None

        return Frames()

    @hookimpl
    def functionfuse_serializers():
        return [SerializerKind("frames.Frame", build, api_version=1)]
"""


@workflow
def double(number: int) -> int:
    return 2 * number


@workflow
class Account:
    def payments(self) -> Iterator[int]:
        yield 1


class Page:
    """The page, as it comes to be."""

    def __init__(self) -> None:
        self.text = HEAD
        self.kinds: set[str] = set()

    def section(self, title: str, text: str = "") -> None:
        self.text += f"\n## {title}\n" + (f"\n{text}\n" if text else "")

    def shown(self, sentence: str, call: Callable[[], object], *, file: str = "") -> None:
        """Add what a call raises."""
        with pytest.raises(FunctionFuseError) as caught:
            call()
        kind = type(caught.value)
        builtin = next(base for base in kind.__mro__ if base.__module__ == "builtins")
        self.kinds.add(kind.__name__)
        self.text += f"\n{sentence}\n"
        if file:
            self.text += f"\n```yaml\n{file.strip()}\n```\n"
        self.text += f"\n```text\n{kind.__name__} ({builtin.__name__}):\n{caught.value}\n```\n"


@pytest.fixture
def made(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Page:
    """The page, made of real errors, whatever is installed beside core."""
    scan = entrypoints._scan

    def ours() -> Any:
        found = scan()
        keep = {"functionfuse-core", "tape-plugin", "other-plugin", "frames-plugin"}
        return {group: [entry for entry in found[group] if entry.name in keep] for group in found}

    monkeypatch.setattr(entrypoints, "_scan", ours)
    monkeypatch.setattr(installed, "_built", {})
    monkeypatch.setattr(installed, "_claims", None)
    # Modules of one size that are written in one second are the same to what is compiled.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REEL", raising=False)
    page = Page()
    graphs(page)
    configs(page)
    kinds(page, monkeypatch)
    plugins(page, install, monkeypatch)
    serializers(page, install, monkeypatch)
    code_of_workers(page, monkeypatch)
    return page


def graphs(page: Page) -> None:
    def node() -> Any:
        made = double(2).set_name("four")
        made.where = ("train.py", 12)
        return made

    def late(number: object = node()) -> object:
        return number

    def rows() -> Iterator[int]:
        yield 1

    async def answer() -> int:
        return 1

    def run(made: Any) -> Any:
        return LocalWorkflow(made, workflow_name="w").run()

    for function in (late, rows, answer):
        function.__qualname__ = function.__name__
    page.section(
        "Graphs",
        "Arguments that don't fit raise Python's own `TypeError`: see [The graph](graph.md).",
    )
    page.shown("A node is used as a value.", lambda: node() > 3)
    page.shown("An item of a node is used as a value.", lambda: f"{node()['a']}.csv")
    page.shown("A function returns a node.", lambda: run(workflow(lambda: [node()])()))
    page.shown("A node is the default value of a parameter.", workflow(late))
    page.shown("A generator function is decorated.", lambda: workflow(rows))
    page.shown("A coroutine function is decorated.", lambda: workflow(answer))
    page.shown("A generator method is called.", lambda: Account().payments())
    page.shown(
        "A node is nested too deep.", lambda: double(functools.reduce(_listed, range(101), node()))
    )
    page.shown("A workflow gets a list in place of nodes.", lambda: run([node()]))
    flow = LocalWorkflow(node(), workflow_name="w")
    config = {"kind": "file", "options": {"path": "storage"}}
    page.shown("A config is set as the storage.", lambda: flow.set_storage(config))
    page.shown("A plan or a report has no node of that name.", lambda: flow.plan()["for"])
    reuse(page)
    files(page)
    runs(page)


def reuse(page: Page) -> None:
    def run(function: Any, **options: Any) -> Any:
        flow = LocalWorkflow(function(1).set_name("train"), workflow_name="w")
        flow.set_reuse("unchanged", **options)
        flow.run()
        return flow

    def train(seed: int) -> int:
        return seed

    train.__qualname__ = "train"
    page.section(
        "Reuse", "`run()` checks these settings before it computes; `plan()` checks them too."
    )
    page.shown(
        "`ignore` has a name that is no argument, and no global that the function reads.",
        lambda: run(workflow(ignore=["sead"])(train)),
    )
    page.shown(
        "`packages` of a function names a package that is not installed.",
        lambda: run(workflow(packages=["pydentic"])(train)),
    )
    page.shown(
        "`packages` of a workflow names a package that is not installed.",
        lambda: run(double, packages=["cloudpikle"]),
    )


def files(page: Page) -> None:
    storage, by = FileStorage("files"), "size"
    Path("calls.vcf").touch()

    def planned() -> object:
        flow = LocalWorkflow(workflow(index)(File("/nowhere/A.fastq")), workflow_name="w")
        flow.set_storage(storage)
        return flow.run()

    def index(reads: File) -> str:
        return reads.name

    index.__qualname__ = "index"
    storage.save("w", "t", File("calls.vcf"))
    read = storage.read_task("w", "t")
    page.section("Files", "See the [cookbook](cookbook.md).")
    page.shown("The file in an argument is missing.", planned)
    page.shown("A `File` counts by something else.", lambda: File("A", by=by))  # type: ignore[arg-type]
    storage.save("w", "t", 1)
    page.shown("The result of a stored file is replaced before the file is used.", read.__fspath__)
    page.shown(
        "A file that is returned is missing.", lambda: storage.save("w", "t", [File("/x.vcf")])
    )


def runs(page: Page) -> None:
    class Ledger:
        def total(self) -> int:
            return 0

    Ledger.__qualname__ = "Ledger"
    interrupt: Any = KeyboardInterrupt

    def flow(node: object) -> LocalWorkflow:
        return LocalWorkflow(node, workflow_name="w")

    def late() -> object:
        made = flow(workflow(timeout=0.001)(time.sleep)(60).set_name("late"))
        return made.run()

    def in_thread() -> object:
        made = flow(double(2).set_name("four"))
        made.query("four").set_timeout(60)
        with ThreadPoolExecutor(1) as threads:
            return made.run(threads)

    def shown() -> object:
        os.environ["FUNCTIONFUSE_PROGRESS"] = "yes"
        try:
            return flow(double(2)).run()
        finally:
            del os.environ["FUNCTIONFUSE_PROGRESS"]

    def too_many() -> object:
        made = flow(double(2).set_name("four"))
        made.query("four").set_resources(gpu=2)
        return made.run(resources={"gpu": 1})

    page.section(
        "Runs",
        "See [failures and limits](failures.md). All but the first come before any node runs.",
    )
    page.shown("A function runs longer than its timeout.", late)
    page.shown("A node with a timeout would run in a thread.", in_thread)
    page.shown("A node needs more of a resource than there is.", too_many)
    page.shown("A class is decorated with retries.", lambda: workflow(retries=3)(Ledger))
    page.shown(
        "Retries are set for a call on an object.",
        lambda: flow(workflow(Ledger)().total()).query(None).set_retries(3),
    )
    page.shown(
        "Retries are asked for after Ctrl-C.",
        lambda: workflow(retries=3, retry_on=interrupt),
    )
    page.shown("A timeout is no time.", lambda: workflow(timeout=0))
    page.shown("The variable for the progress has another value.", shown)


def _listed(thing: Any, _: int) -> list[Any]:
    return [thing]


def configs(page: Page) -> None:
    def wrong(sentence: str, text: str) -> None:
        text = textwrap.dedent(text).lstrip("\n")
        Path("functionfuse.yaml").write_text(text)

        def call() -> Any:
            return workflow_factory("functionfuse.yaml", double(1), workflow_name="w")

        page.shown(sentence, call, file=text)

    page.section("Config files", "An error in the text of a file names line and column.")
    page.shown("The file does not exist.", lambda: storage_factory("nowhere.yaml"))
    page.shown("The file name has an unknown ending.", lambda: storage_factory("config.ini"))
    page.shown(
        "The config is neither a dictionary nor a path.",
        lambda: storage_factory(3),  # type: ignore[arg-type]
    )
    wrong("The file is not valid YAML.", "storage:\n  kind: file\n\toptions: {}\n")
    wrong("A key occurs twice.", "storage: {kind: file}\nstorage: {kind: S3}\n")
    wrong("The file is empty.", "# to be done\n")
    wrong("The file holds a list.", "- kind: file\n")
    wrong("A field is misspelt.", "storge:\n  kind: file\n")
    wrong("A field of a section is misspelt.", "storage:\n  kind: file\n  option: {path: x}\n")
    wrong("The kind is missing.", "storage:\n  options: {path: results}\n")
    wrong("The options are not a mapping.", "storage:\n  kind: file\n  options: results\n")
    wrong("The policy for reuse does not exist.", "reuse: allways\n")
    wrong("`serializers` is not a list.", "serializers: my_project:Frames\n")
    wrong(
        "A serializer can't be imported.",
        "storage: {kind: file, options: {path: x}}\nserializers: ['my_projct:Frames']\n",
    )
    page.section("Options", "One error shows all problems.")
    wrong(
        "One option is unknown, one is wrong, one is missing.",
        """
        storage:
          kind: file
          options:
            pth: results
            private: perhaps
        """,
    )
    wrong("An option is out of range.", "backend:\n  kind: local\n  options: {workers: 0}\n")
    page.shown(
        'The config is a dictionary: `{"kind": "file", "options": {"pth": "results"}}`.',
        lambda: storage_factory({"kind": "file", "options": {"pth": "results"}}),
    )
    page.section("Environment variables")
    wrong("The variable is not set.", "kind: file\noptions: {path: '${REEL}/results'}\n")
    wrong(
        "The variable is not set, and the config has a message for this.",
        "kind: file\noptions: {path: '${REEL:?say which reel}/results'}\n",
    )
    wrong("The braces are missing.", "kind: file\noptions: {path: $REEL/results}\n")


def kinds(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(kind: str) -> Callable[[], object]:
        return lambda: storage_factory({"kind": kind})

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    page.section("Kinds")
    page.shown("The kind is misspelt.", of("fille"))
    page.shown("No known package brings the kind.", of("tape"))
    with monkeypatch.context() as patch:
        patch.setattr(metadata, "version", missing)
        page.shown("The kind comes with one of our plugins, which is not installed.", of("S3"))
        page.shown(
            "A documented import needs a plugin that is not installed: "
            "`from functionfuse.storage.s3storage import S3FileStorage`.",
            lambda: exec("from functionfuse.storage.s3storage import S3FileStorage"),
        )
        patch.setattr(metadata, "version", lambda _: "0.0.1")
        page.shown("The installed plugin is too old.", of("S3"))
    Path("functionfuse.yaml").write_text("backend:\n  kind: loca\n")
    page.shown(
        "The kind is misspelt in a file.",
        lambda: workflow_factory("functionfuse.yaml", double(1), workflow_name="w"),
        file="backend:\n  kind: loca",
    )


def plugins(page: Page, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    def broken(sentence: str, old: str, new: str, *, module: str = "tape{}") -> None:
        nonlocal count
        assert old in STORAGE
        count += 1
        uninstall_all()
        registry._state = registry.State()
        code = STORAGE.replace(old, new)
        install("tape-plugin", "tape", module.format(count), code)
        page.shown(sentence, lambda: storage_factory({"kind": "tape", "options": {"reel": 1}}))

    page.section("Plugins", "Every error names kind, module, distribution, version and cause.")
    broken("The plugin's module can't be imported.", "from pydantic", "import tape_robot  #")
    broken("The entry point names a class.", "tape", "tape", module="tape{}:Plugin")
    broken("The module implements no hook.", "@hookimpl", "")
    broken("A hook is misspelt.", "functionfuse_storages", "functionfuse_storage")
    broken("A hook implementation has an unknown argument.", "storages()", "storages(config)")
    broken("A hook implementation raises an error.", "return [", "return unknown + [")
    broken("A hook implementation returns no record.", "return [", "return [{}] or [")
    broken("A hook implementation returns a record of another kind.", '"tape"', '"cassette"')
    broken("The plugin was made for a later plugin API.", "api_version=1", "api_version=2")
    broken("The plugin was made for an earlier plugin API.", "api_version=1", "api_version=0")
    broken("The record does not name a version of the plugin API.", ", api_version=1", "")
    build = "lambda options: __import__('tape_robot')"
    broken("`build` imports a module that is not installed.", "lambda options: options", build)
    uninstall_all()
    registry._state = registry.State()
    install("tape-plugin", "tape", "tapes", STORAGE)
    install("other-plugin", "tape", "other_tapes", STORAGE)
    page.shown(
        "Two distributions bring the same kind.",
        lambda: storage_factory({"kind": "tape", "options": {"reel": 1}}),
    )
    monkeypatch.setenv("FUNCTIONFUSE_BLOCK", "tape")
    page.shown(
        "The kind is blocked.",
        lambda: storage_factory({"kind": "tape", "options": {"reel": 1}}),
    )
    monkeypatch.delenv("FUNCTIONFUSE_BLOCK")
    (Path("site") / "other_plugin-1.2.dist-info" / "entry_points.txt").write_text("")
    with (Path("site") / "tape_plugin-1.2.dist-info" / "entry_points.txt").open("a") as file:
        file.write("cassette = tapes\n")
    entrypoints.forget()
    storage_factory({"kind": "tape", "options": {"reel": 1}})
    page.shown("Two kinds share a module.", lambda: storage_factory({"kind": "cassette"}))


def code_of_workers(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from functionfuse import workflow\nK = {}\n@workflow\ndef scaled(x): return {} * x * K\n"
    )
    files = iter(["/project/rates.py", "/app/rates.py"] * 2)
    monkeypatch.setattr(workers, "_file_of", lambda _: next(files))
    monkeypatch.setattr(workers, "_worker", lambda: "worker 'node-7' (pid 4711)")

    def differing(sentence: str, *numbers: int) -> None:
        module: Any = types.ModuleType("rates")
        monkeypatch.setattr(workers, "_first", {})
        monkeypatch.setitem(sys.modules, "rates", module)
        exec(code.format(3, 1000), vars(module))
        sent = pickle.dumps(Identities({}).expected(module.scaled(1), []))
        exec(code.format(*numbers), vars(module))
        ((expected, _),) = pickle.loads(sent)
        page.shown(sentence, lambda: expected(module.scaled.func))

    page.section("Workers", "See [Workers](reuse.md#workers).")
    differing("A worker has an older copy of a module.", 3, 2)
    differing("A worker reads another constant from its environment.", 5, 1000)


def uninstall_all() -> None:
    """Remove the metadata of what was installed so far."""
    for info in Path("site").glob("*.dist-info"):
        shutil.rmtree(info)


def serializers(page: Page, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("site/frames.py").write_text("class Frame: pass\n")
    group = "functionfuse.serializers"
    install("frames-plugin", "frames.Frame", "frames_plugin", SERIALIZER, group=group)
    import frames  # type: ignore[import-not-found]

    storage = Storage(MemoryStore())
    storage.save("w", "t", frames.Frame())

    def read() -> Any:
        return storage.read_task("w", "t")

    page.section("Serializers")
    page.shown(
        "A registered object is not a serializer.",
        lambda: storage.register_persistent_serializers(frames.Frame),
    )
    strict = Storage(storage.store, StorageOptions(trust=Allow(allow=["numpy"])))
    page.shown(
        "The option `trust` of the storage does not allow the type.",
        lambda: strict.read_task("w", "t"),
    )
    monkeypatch.setenv("FUNCTIONFUSE_BLOCK", "frames-plugin")
    entrypoints.forget()
    page.shown("The serializer of a part of a result is blocked.", read)
    monkeypatch.delenv("FUNCTIONFUSE_BLOCK")
    points = Path("site/frames_plugin-1.2.dist-info/entry_points.txt")
    text = points.read_text()
    points.write_text("")
    entrypoints.forget()
    page.shown("The serializer of a part of a result is not installed.", read)
    other = SERIALIZER.replace('"parquet"', '"arrow"')
    install("other-plugin", "frames.Frame", "other_frames", other, group=group)
    page.shown("Another serializer is installed for the type.", read)
    points.write_text(text)
    entrypoints.forget()
    page.shown(
        "Two distributions claim the same type.", lambda: storage.save("w", "t", frames.Frame())
    )
    (Path("site") / "other_plugin-1.2.dist-info" / "entry_points.txt").write_text("")
    for old, new, sentence in (
        ("import frames\n", "import pyarow\n", "The serializer can't be made."),
        ("        return Frames()", "        return None", "`build` does not return a serializer."),
        (
            "frames.Frame\n",
            "dict\n",
            "The serializer claims a type that pickle always writes itself.",
        ),
        (
            "frames.Frame\n",
            "Page\n",
            "The serializer claims another type than its entry point names.",
        ),
    ):
        assert old in SERIALIZER
        code = SERIALIZER.replace(old, new).replace("Page\n", "type('Page', (), {})\n")
        (Path("site") / "frames_plugin.py").write_text(textwrap.dedent(code))
        sys.modules.pop("frames_plugin", None)
        registry._state = registry.State()
        installed._built.clear()
        entrypoints.forget()
        page.shown(sentence, lambda: storage.save("w", "t", frames.Frame()))


def test_the_page_shows_the_real_errors(made: Page) -> None:
    """To the letter; see above for how to write it anew."""
    if os.environ.get(WRITE):
        PAGE.write_text(made.text, encoding="utf-8")
    assert made.text == PAGE.read_text(encoding="utf-8")


def test_every_error_of_graphs_configs_and_plugins_is_shown(made: Page) -> None:
    """Of each of these classes, there is one on the page."""
    expected = {"OptionsError", "UnknownKindError", "PluginError", "SerializerMissingError"}
    expected |= {"GraphError", "NoMatchError", "UntrustedResultError", "CodeDiffersError"}
    expected |= {"FileError", "NodeTimeoutError", "SerializerError"}
    assert expected == made.kinds
    assert made.kinds <= set(errors.__all__)
