"""The key of a storage is shown nowhere: in no error, with locals, and in no representation."""

from __future__ import annotations

import base64
import copy
import io
import json
import logging
import pickle
import pprint
import threading
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from kept_values import Kept, KeptSerializer
from result_bytes import header_of, rest_of, sealed

from functionfuse import config, workflow
from functionfuse.backends import workflow_factory
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.cli.main import run as command_line
from functionfuse.config.factories import check
from functionfuse.errors import OptionsError, without_locals
from functionfuse.kinds import FileOptions
from functionfuse.storage import Storage, storage_factory
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.options import Secret, StorageOptions, check_options
from going_back import chain, opened

CANARY = "canary-91ab, the key?"
FORMS = [
    CANARY,
    CANARY.encode().hex(),
    base64.b64encode(CANARY.encode()).decode().rstrip("="),
    quote(CANARY),
    repr(list(CANARY.encode()))[1:-1],
]
TESTS = str(Path(__file__).parents[1])
VARIABLE = "FUNCTIONFUSE_TEST_KEY"

FILES = {
    "plain.yaml": f"storage: {{kind: file, options: {{path: store, key: '{CANARY}'}}}}\n",
    "variable.yaml": f"storage: {{kind: file, options: {{path: store, key: '${{{VARIABLE}}}'}}}}\n",
    "plain.json": json.dumps({"kind": "file", "options": {"path": "store", "key": CANARY}}),
    "plain.toml": f'kind = "file"\n[options]\npath = "store"\nkey = "{CANARY}"\n',
}


def hits(text: str) -> list[str]:
    """Return the lines with the canary, in any form."""
    return [line for line in text.splitlines() if any(form in line for form in FORMS)]


def told(error: BaseException) -> str:
    """Return an error as text, with its chain, notes, attributes, and locals of all our frames."""
    seen: set[int] = set()
    parts: list[str] = []

    def tell(each: traceback.TracebackException | None) -> None:
        if each is None or id(each) in seen:
            return
        seen.add(id(each))
        frames = [frame for frame in each.stack if not frame.filename.startswith(TESTS)]
        each.stack = traceback.StackSummary.from_list(frames)
        for frame in frames:
            parts.extend(f"{name} = {value}" for name, value in (frame.locals or {}).items())
        for other in (each.__cause__, each.__context__, *(getattr(each, "exceptions", None) or ())):
            tell(other)

    whole = traceback.TracebackException.from_exception(error, capture_locals=True)
    tell(whole)
    return "\n".join([*parts, *whole.format(), repr(error), repr(vars(error)), str(error.args)])


def parts_of(thing: object) -> Iterator[tuple[str, object]]:
    """Iterate over items, attributes and slots of an object."""
    if isinstance(thing, dict):
        for key, value in list(thing.items()):
            yield ".key", key
            yield f"[{key!r}]", value
    elif isinstance(thing, (list, tuple, set, frozenset)):
        yield from (("[]", item) for item in thing)
    elif isinstance(thing, types.MethodType):
        yield "self", thing.__self__
    elif isinstance(thing, partial):
        yield "partial", (thing.func, thing.args, thing.keywords)
    yield from getattr(thing, "__dict__", {}).items()
    for kind in type(thing).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if not name.startswith("__"):
                yield name, getattr(thing, name, None)


def texts(thing: object) -> Iterator[str]:
    """Iterate over all texts and bytes in an object, at nearly any depth."""
    shallow = (int, float, type, types.ModuleType, types.FunctionType, type(None))
    seen: dict[int, object] = {}
    waiting: list[tuple[str, object]] = [("", thing)]
    while waiting:
        path, each = waiting.pop()
        if isinstance(each, (str, bytes, bytearray)):
            yield f"{path} = {each!r}"
        elif not isinstance(each, shallow) and id(each) not in seen and path.count("/") < 12:
            seen[id(each)] = each
            waiting += ((f"{path}/{name}", part) for name, part in parts_of(each))


@workflow
def fails(number: int) -> int:
    raise ValueError(f"no {number}")


@workflow
def adds(number: int) -> int:
    return number + 1


class Refuses(KeptSerializer):
    """A serializer that fails."""

    name = "refuses"

    @staticmethod
    def pickle(obj: Kept, protocols: dict[str, Any]) -> tuple[str, str]:
        raise RuntimeError(f"refused {len(obj.data)} with {sorted(protocols)}")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: configs, and a store with a signed workflow, and one that isn't."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, CANARY)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, "utf-8")
    storage = opened(tmp_path / "store", key=CANARY)
    for number in (1, 2):
        chain(storage, number).run()
    opened(tmp_path / "store").save("unsigned", "t", 1)
    return tmp_path


def keyed() -> FileStorage:
    return opened(Path("store"), key=CANARY)


def flow(*nodes: Any, storage: Any = None) -> LocalWorkflow:
    found = LocalWorkflow(*nodes, workflow_name="w")
    found.set_storage(keyed() if storage is None else storage)
    return found


def with_serializer(*serializers: Any) -> FileStorage:
    storage = keyed()
    storage.register_persistent_serializers(*serializers)
    return storage


def on_damaged() -> FileStorage:
    path = Path("store/w/total")
    path.write_bytes(path.read_bytes()[:-1])
    return keyed()


def forged() -> FileStorage:
    storage = keyed()
    data = bytes(storage.store.get("w/load"))
    storage.store.put("w/load", [sealed(header_of(data), rest_of(data), key=b"x", version=data[8])])
    return storage


def no_folder() -> FileStorage:
    Path("file").write_text("")
    return FileStorage("file/store", key=CANARY)


def factory(**changes: Any) -> Any:
    options = {"path": "store", "key": CANARY, **changes.pop("options", {})}
    return storage_factory({"kind": "file", "options": options, **changes})


def of_text(text: str, suffix: str = "yaml") -> Any:
    Path(f"wrong.{suffix}").write_text(text, "utf-8")
    return storage_factory(f"wrong.{suffix}")


def on(backend: Any) -> None:
    with backend as executor:
        found = flow(fails(1))
        found.make_executor = lambda: executor
        found.run()


# Each fails, and shows no key.
FAILURES: dict[str, Callable[[], object]] = {
    "read_task, not signed": lambda: keyed().read_task("unsigned", "t"),
    "read_task, forged": lambda: forged().read_task("w", "load"),
    "read_task, damaged": lambda: on_damaged().read_task("w", "total"),
    "read_task, nothing there": lambda: keyed().read_task("w", "none"),
    "read_task, no call": lambda: keyed().read_task("w", "load", call="0"),
    "read_task, wrong name": lambda: keyed().read_task("w", ""),
    "read_task, no serializer": lambda: FileStorage("store", key=CANARY).read_task("w", "kept"),
    "read_task, allow-list": lambda: factory(options={"trust": {"allow": []}}).read_task("w", "k"),
    "read_tasks": lambda: keyed().read_tasks("unsigned", ["t"]),
    "read_unchanged": lambda: keyed().read_unchanged("w", "load", "0" * 32),
    "read_again": lambda: keyed().read_again("w", "load", keyed().task_info("w", "load")),
    "task_info, not signed": lambda: keyed().task_info("unsigned", "t"),
    "task_info, forged": lambda: forged().task_info("w", "load"),
    "lineage": lambda: keyed().lineage("unsigned", "t"),
    "lineage, wrong call": lambda: keyed().lineage("w", "load", 1),  # type: ignore[arg-type]
    "report": lambda: keyed().report("none"),
    "report, no run": lambda: keyed().report("w", run="none"),
    "runs": lambda: keyed().runs("w", last=0),
    "runs, no run": lambda: keyed().runs("w")["none"],
    "runs, no node": lambda: keyed().runs("w")[-1].read("none"),
    "prune": lambda: keyed().prune("w", days=-1),
    "prune, size": lambda: keyed().prune("w", bytes="much"),
    "remove_task": lambda: keyed().remove_task("w", "none"),
    "remove_workflow": lambda: keyed().remove_workflow("none"),
    "copy, to itself": lambda: keyed().copy("w", keyed()),
    "copy, nothing": lambda: keyed().copy("none", FileStorage("other", key=CANARY)),
    "copy, no earlier": lambda: keyed().copy(
        "w", FileStorage("other", key=CANARY, earlier=False), earlier=True
    ),
    "copy, no folder": lambda: keyed().copy("w", no_folder()),
    "save, no pickle": lambda: keyed().save("w", "t", threading.Lock()),
    "save, the storage": lambda: keyed().save("w", "t", [keyed()]),
    "save, the options": lambda: keyed().save("w", "t", FileOptions(path=Path(), key=CANARY)),  # type: ignore[arg-type]
    "save, the secret": lambda: keyed().save("w", "t", {"key": Secret(CANARY)}),
    "save, a method": lambda: keyed().save("w", "t", partial(keyed().read_task)),
    "save, there already": lambda: keyed().save("w", "load", 1, if_absent=True),
    "save, serializer": lambda: with_serializer(Refuses).save("w", "t", Kept(b"x")),
    "save, no folder": lambda: no_folder().save("w", "t", 1),
    "new_workflow": lambda: no_folder().new_workflow("w"),
    "serializers": lambda: keyed().register_persistent_serializers(1),  # type: ignore[arg-type]
    "run": lambda: flow(fails(1)).run(),
    "run, keep going": lambda: flow(fails(1), adds(fails(2))).run(keep_going=True),
    "run, result": lambda: flow(workflow(threading.RLock)()).run(),
    "run, threads": lambda: on(ThreadPoolExecutor(1)),
    "run, processes": lambda: on(ProcessPoolExecutor(1)),
    "run, no folder": lambda: flow(adds(1), storage=no_folder()).run(),
    "plan": lambda: flow(adds(1)).plan()["none"],
    "set_reuse": lambda: flow(adds(1)).set_reuse("sometimes"),
    "set_storage, a dictionary": lambda: flow(adds(1), storage={"options": {"key": CANARY}}),
    "set_storage, another object": lambda: flow(adds(1), storage=[FileOptions]),
    # Options.
    "unknown option": lambda: factory(options={"pth": 1}),
    "wrong option": lambda: factory(options={"durability": "never"}),
    "wrong trust": lambda: factory(options={"trust": {"allow": [1]}}),
    "wrong limits": lambda: factory(options={"earlier": {"days": "x"}}),
    "no path": lambda: storage_factory({"kind": "file", "options": {"key": CANARY}}),
    "key: a list": lambda: factory(options={"key": [CANARY]}),
    "key: a mapping": lambda: factory(options={"key": {CANARY: CANARY}}),
    "key in another option": lambda: factory(options={"private": CANARY}),
    "key: twice": lambda: factory(options={"kay": CANARY}),
    "unknown field": lambda: factory(optoins={}),
    "no kind": lambda: storage_factory({"options": {"key": CANARY}}),
    "kind: a number": lambda: factory(kind=1),
    "unknown kind": lambda: factory(kind="flie"),
    "options: a list": lambda: storage_factory({"kind": "file", "options": [CANARY]}),
    "storage: a list": lambda: storage_factory({"storage": [CANARY]}),
    "serializers: a number": lambda: storage_factory(
        {"storage": {"kind": "file", "options": {"key": CANARY}}, "serializers": 1}
    ),
    "no serializer": lambda: storage_factory(
        {
            "storage": {"kind": "file", "options": {"path": "store", "key": CANARY}},
            "serializers": ["none:None"],
        }
    ),
    "wrong reuse": lambda: storage_factory(
        {"storage": {"kind": "file", "options": {"path": "s", "key": CANARY}}, "reuse": "some"}
    ),
    "wrong backend": lambda: workflow_factory(
        {
            "storage": {"kind": "file", "options": {"path": "store", "key": CANARY}},
            "backend": {"kind": "local", "options": {"wrokers": 1}},
        },
        adds(1),
        workflow_name="w",
    ),
    "no nodes": lambda: workflow_factory("plain.yaml", 1, workflow_name="w"),
    "no workflow name": lambda: workflow_factory("plain.yaml", adds(1), workflow_name=""),
    "FileStorage, wrong option": lambda: FileStorage("store", key=CANARY, pth=1),
    "FileStorage, wrong path": lambda: FileStorage(1, key=CANARY),  # type: ignore[arg-type]
    "check_options": lambda: check_options(
        StorageOptions, kind="x", options={"key": CANARY, "pth": 1}
    ),
    "check": lambda: check(
        config.read({"kind": "file", "options": {"path": "s", "key": CANARY, "pth": 1}})
    ),
    "Storage, wrong options": lambda: Storage(None, FileOptions(path=Path(), key=CANARY)).runs("w"),  # type: ignore[arg-type]
    # Files.
    "YAML, syntax": lambda: of_text(f"kind: file\noptions: {{key: '{CANARY}', path: }}]\n"),
    "YAML, an open text": lambda: of_text(f"kind: file\noptions:\n  key: '{CANARY}\n"),
    "YAML, twice": lambda: of_text(f"kind: file\noptions:\n  key: '{CANARY}'\n  key: x\n"),
    "YAML, unknown option": lambda: of_text(
        f"kind: file\noptions:\n  key: '{CANARY}'\n  path: s\n  pth: s\n"
    ),
    "YAML, unknown field": lambda: of_text(f"kind: file\noptions:\n  key: '{CANARY}'\nx: 1\n"),
    "YAML, wrong variable": lambda: of_text(
        f"kind: file\noptions: {{key: '{CANARY}', path: '$x'}}\n"
    ),
    "YAML, no such variable": lambda: of_text(
        f"kind: file\noptions: {{key: '${{{VARIABLE}}}', path: '${{NO_SUCH_VARIABLE:?say it}}'}}\n"
    ),
    "YAML, a variable as kind": lambda: of_text(f"kind: '${{{VARIABLE}}}'\noptions: {{}}\n"),
    "YAML, a variable as reuse": lambda: of_text(
        f"storage: {{kind: file, options: {{path: s}}}}\nreuse: '${{{VARIABLE}}}'\n"
    ),
    "YAML, a variable as number": lambda: of_text(
        f"kind: file\noptions: {{path: s, earlier: {{days: '${{{VARIABLE}}}'}}}}\n"
    ),
    "YAML, a variable as path": lambda: of_text(
        f"kind: file\noptions: {{path: 's', private: 'a${{{VARIABLE}}}b'}}\n"
    ),
    "JSON, syntax": lambda: of_text(f'{{"options": {{"key": "{CANARY}"}}, "kind"}}', "json"),
    "JSON, unknown option": lambda: of_text(
        json.dumps({"kind": "file", "options": {"key": CANARY, "pth": 1}}), "json"
    ),
    "TOML, syntax": lambda: of_text(
        f'kind = "file"\n[options]\nkey = "{CANARY}"\npath = \n', "toml"
    ),
    "TOML, unknown option": lambda: of_text(
        f'kind = "file"\n[options]\nkey = "{CANARY}"\npth = 1\n', "toml"
    ),
    "not UTF-8": lambda: (
        Path("x.yaml").write_bytes(f"key: {CANARY} \xff".encode("latin-1"))
        and storage_factory("x.yaml")
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_no_error_shows_it(name: str, folder: Path) -> None:
    """With the locals of all frames of ours, and of the packages below them."""
    with pytest.raises(Exception) as caught:  # noqa: PT011  # of many types
        FAILURES[name]()
    assert [] == hits(told(caught.value))


def html(storage: FileStorage) -> str:
    storage.report("w").save("page.html", values=True)
    return Path("page.html").read_text("utf-8")


def stored() -> str:
    files = [path for path in Path("store").rglob("*") if path.is_file()]
    return "\n".join(repr(path) + path.read_bytes().decode("latin-1") for path in files)


def progress() -> str:
    found = flow(adds(1), adds(fails(2)))
    events: list[Any] = []
    found.listeners.append(events.append)
    with pytest.raises(ValueError, match="no 2"):
        found.run(keep_going=True)
    return f"{found.report} {found.report!r} {events!r} {list(texts(events))}"


def options() -> FileOptions:
    return FileOptions(path=Path("store"), key=CANARY)  # type: ignore[arg-type]


# Each is a text, or an object whose texts are looked at: none has the key.
SHOWN: dict[str, Callable[[], object]] = {
    "repr of storage": lambda: repr(keyed()),
    "str of storage": lambda: str(keyed()),
    "format of storage": lambda: f"{keyed()}",
    "HTML of storage": lambda: keyed()._repr_html_(),
    "pprint of storage": lambda: pprint.pformat(vars(keyed())),
    "attributes of storage": keyed,
    "attributes of a storage by a dictionary": factory,
    **{
        f"attributes of a storage by {name}": lambda name=name: storage_factory(name)
        for name in FILES
    },
    "attributes of a workflow": lambda: workflow_factory("plain.yaml", adds(1), workflow_name="w"),
    "attributes of a copy": lambda: copy.copy(keyed()),
    "attributes of a deep copy": lambda: copy.deepcopy(keyed()),
    "attributes of what was pickled": lambda: pickle.loads(pickle.dumps(keyed())),
    "repr of what was pickled": lambda: repr(pickle.loads(pickle.dumps(keyed()))),
    "repr of options": lambda: repr(options()),
    "str of options": lambda: str(options()),
    "pprint of options": lambda: pprint.pformat(options().model_dump()),
    "attributes of options": options,
    "attributes of copied options": lambda: [
        copy.deepcopy(options()),
        copy.copy(options()),
        options().model_copy(),
        pickle.loads(pickle.dumps(options())),
    ],
    "model_dump": lambda: [options().model_dump(), repr(options().model_dump())],
    "model_dump_json": lambda: options().model_dump_json(),
    "model_dump, JSON": lambda: options().model_dump(mode="json"),
    "JSON schema": lambda: (
        json.dumps(FileOptions.model_json_schema()) + json.dumps(config.schema())
    ),
    "secret": lambda: [Secret(CANARY), repr(Secret(CANARY)), f"{Secret(CANARY)}"],
    "key": lambda: [keyed()._key, repr(keyed()._key), f"{keyed()._key}"],
    **{
        f"config {name}": lambda name=name: [config.read(name), repr(config.read(name))]
        for name in FILES
    },
    "checked config": lambda: [check(config.read("plain.yaml"))],
    "headers": lambda: [keyed().task_info("w", name) for name in keyed().list_tasks("w")],
    "runs": lambda: f"{keyed().runs('w')} {list(texts(list(keyed().runs('w'))))}",
    "report page": lambda: html(keyed()),
    "files": stored,
    "verify": lambda: keyed().verify(),
    "copied": lambda: keyed().copy("w", FileStorage("other", key=CANARY), dry_run=True),
    "plan": lambda: [flow(adds(1)).plan(), repr(flow(adds(1)).plan())],
    "progress": progress,
}


@pytest.mark.parametrize("name", SHOWN)
def test_nothing_shows_it(name: str, folder: Path) -> None:
    """No representation, no attribute at any depth, no stored file."""
    found = SHOWN[name]()
    assert [] == hits(found if isinstance(found, str) else "\n".join(texts(found)))


COMMANDS = [
    "list",
    "list w",
    "list unsigned",
    "list none",
    "show w load",
    "show w kept --value",
    "show unsigned t",
    "earlier w",
    "lineage w size",
    "lineage unsigned t",
    "runs w",
    "runs w --run -1",
    "runs none",
    "report w",
    "graph w",
    "copy w other",
    "copy w plain.json",
    "rm w none",
    "prune w --keep 0",
    "gc",
    "verify",
    "plugins",
    "config check",
    "config schema",
    "doctor",
    "plan none:none",
    "run none.py",
]


@pytest.mark.usefixtures("after_commands")
@pytest.mark.parametrize("extra", ["", "--json", "--debug"])
@pytest.mark.parametrize("file", FILES)
def test_no_command_shows_it(
    file: str, extra: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whether it succeeds or fails, as text and as JSON."""
    assert len(COMMANDS) > 20
    for words in COMMANDS:
        with suppress(ValueError, SystemExit):
            command_line([*words.split(), "--config", file, *extra.split()])
        shown = capfd.readouterr()
        assert [] == hits(shown.out + shown.err), words


def test_no_log_and_no_warning_shows_it(folder: Path) -> None:
    """All that our loggers say, at the level DEBUG."""
    said, logger = io.StringIO(), logging.getLogger("functionfuse")
    handler, level = logging.StreamHandler(said), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            forged()
            chain(keyed(), 1).run()
            chain(keyed(), 3).run()
            for failure in FAILURES.values():
                with pytest.raises(Exception):  # noqa: B017, PT011
                    failure()
            keyed().verify(), keyed().gc(-60.0), keyed().to_frame("w")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert said.getvalue()
    assert [] == hits(said.getvalue() + "\n".join(map(str, warned)))


def test_a_worker_has_the_key(folder: Path) -> None:
    """What is pickled for it has it in clear, as documented; so it signs there."""
    assert CANARY.encode() in pickle.dumps(keyed())
    with ProcessPoolExecutor(1) as executor:
        found = flow(adds(1).set_name("adds"))
        found.make_executor = lambda: executor
        assert 2 == found.run()
    assert 2 == keyed().read_task("w", "adds")
    secret = copy.deepcopy(Secret(CANARY))
    assert (CANARY, len(CANARY)) == (secret.get_secret_value(), len(secret))
    assert Secret(CANARY) == secret != Secret("other")


def test_any_text_is_a_key(tmp_path: Path) -> None:
    """Also half a character, as in a variable of the environment that is not UTF-8."""
    storage = FileStorage(tmp_path, key=f"{CANARY}\ud800")
    storage.save("w", "t", 1)
    assert 1 == FileStorage(tmp_path, key=f"{CANARY}\ud800").read_task("w", "t")


def test_only_frames_of_ours_lose_their_locals() -> None:
    """The lines of a traceback stay, and so do locals of the caller, also of its own error."""

    @without_locals
    def outer(secret: str) -> None:
        inner(secret)

    def inner(secret: str) -> None:
        raise OptionsError("wrong") from KeyError(len(secret))

    def fails(mine: str) -> None:
        raise LookupError(len(mine))

    try:
        fails("of the caller")
    except LookupError:
        with pytest.raises(OptionsError) as caught:
            outer(CANARY)
    seen = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    names = [frame.name for frame in seen.stack]
    assert ["test_only_frames_of_ours_lose_their_locals", "called", "outer", "inner"] == names
    assert [{}, {}] == [frame.locals or {} for frame in seen.stack[2:]]
    assert [] == hits(str(seen.stack[1].locals))
    assert isinstance(caught.value.__cause__, KeyError)
    before = caught.value.__context__
    assert before is not None
    while before.__context__ is not None:
        before = before.__context__
    seen = traceback.TracebackException.from_exception(before, capture_locals=True)
    assert [{"mine": "'of the caller'"}] == [f.locals for f in seen.stack if f.name == "fails"]
