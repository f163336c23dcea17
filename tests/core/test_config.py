"""Configs from files: what they may be, where they are wrong, and that secrets stay hidden."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, field_validator

from functionfuse import config, workflow
from functionfuse.backends import workflow_factory
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.config import form
from functionfuse.errors import FunctionFuseError, OptionsError, PluginError, UnknownKindError
from functionfuse.graph import settings
from functionfuse.storage import storage_factory
from functionfuse.storage.filestorage import FileStorage

Install = Callable[..., None]
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a function that writes a config file, and returns its name from where we are."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "functionfuse.yaml") -> str:
        (tmp_path / name).write_text(textwrap.dedent(text), encoding="utf-8")
        return name

    return write


EVERYTHING = {
    "functionfuse.yaml": """
        # yaml-language-server: $schema=./functionfuse.schema.json
        storage:
          kind: file
          options: {path: results, private: true}
        serializers: []
        backend: {kind: local, options: {executor: threads, workers: 2}}
        reuse: always
    """,
    "functionfuse.toml": """
        reuse = "always"
        serializers = []
        [storage]
        kind = "file"
        options = { path = "results", private = true }
        [backend]
        kind = "local"
        options.executor = "threads"
        options.workers = 2
    """,
    "functionfuse.json": """
        {"storage": {"kind": "file", "options": {"path": "results", "private": true}},
         "serializers": [], "reuse": "always",
         "backend": {"kind": "local", "options": {"executor": "threads", "workers": 2}}}
    """,
}


@workflow
def double(number: int) -> int:
    return 2 * number


@pytest.mark.parametrize("name", EVERYTHING)
def test_one_file_for_everything(write: Write, tmp_path: Path, name: str) -> None:
    """In three syntaxes: storage, backend and policy; as a text or as a path."""
    write(EVERYTHING[name], name)
    storage = storage_factory(tmp_path / name)
    assert isinstance(storage, FileStorage)
    assert str(tmp_path / "results") == storage.path
    local = workflow_factory(name, double(4), workflow_name="w")
    assert isinstance(local, LocalWorkflow)
    assert ("always", storage.path) == (local._policy, local.storage.path)
    assert 8 == local.run()
    assert 8 == storage.read_task("w", storage.list_tasks("w")[0])
    assert 0o700 == (tmp_path / "results").stat().st_mode & 0o777


@pytest.mark.parametrize("name", ["s.yaml", "s.YML"])
def test_a_file_of_a_storage_alone(write: Write, tmp_path: Path, name: str) -> None:
    """Only `kind` and `options`; a byte order mark and the other ends of lines are fine."""
    write("\ufeffkind: file\r\noptions:\r\n  path: results\r\n", name)
    assert str(tmp_path / "results") == storage_factory(name).path  # type: ignore[attr-defined]
    local = workflow_factory(name, double(1), workflow_name="w")
    assert local.storage is not None


def test_dictionaries_have_the_same_form(tmp_path: Path) -> None:
    """Without a backend it is local, without a storage nothing is kept."""
    section = {"kind": "file", "options": {"path": tmp_path / "results"}}
    assert isinstance(storage_factory({"storage": section, "reuse": "never"}), FileStorage)
    local = workflow_factory({"storage": section, "reuse": "never"}, double(2), workflow_name="w")
    assert (4, "never") == (local.run(), local._policy)
    bare = workflow_factory({"backend": {"kind": "LOCAL"}}, double(2), workflow_name="w")
    assert (4, None) == (bare.run(), bare.storage)
    assert "unchanged" == bare._policy
    with pytest.raises(OptionsError, match="the config has no storage"):
        storage_factory({"backend": {"kind": "local"}})


def test_relative_paths_start_at_the_file(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the process is; those of a dictionary start where the process is, as for `open`."""
    write("kind: file\noptions: {path: results}")
    write("kind: file\noptions: {path: ~/results}", "home.yaml")
    write(f"kind: file\noptions: {{path: {tmp_path}/x}}", "absolute.yaml")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = [
        storage_factory(config).path  # type: ignore[attr-defined]
        for config in (
            "../functionfuse.yaml",
            tmp_path / "functionfuse.yaml",
            "../home.yaml",
            "../absolute.yaml",
            {"kind": "file", "options": {"path": "results"}},
        )
    ]
    expected = ["results", "results", "home/results", "x", "elsewhere/results"]
    assert [str(tmp_path / path) for path in expected] == found


BACKEND = "backend: {kind: local, options: {workers: 0}}"
WRONG = [
    # the file
    ("", r"functionfuse\.yaml:1:1: no YAML: the file is empty"),
    ("kind: file\n\toptions: 1", r"functionfuse\.yaml:2:1: no YAML: found a tab"),
    ("kind: file\nkind: S3", r"functionfuse\.yaml:2:1: no YAML: the key 'kind' stands here again"),
    ("kind: &a [*a]", r"functionfuse\.yaml:1:11: no YAML: an alias within"),
    # the form
    ("- kind: file", r"functionfuse\.yaml:1:1: a config is a mapping like .*, not list"),
    ("just text", r"functionfuse\.yaml:1:1: a config is a mapping like .*, not str"),
    ("{}", r"functionfuse\.yaml:1:1: a storage's config names its kind"),
    ("storage: 3", r"functionfuse\.yaml:1:10: a storage's config is a mapping .* not int"),
    ("storage:\n", r"functionfuse\.yaml:1:9: a storage's config is a mapping .* not NoneType"),
    ("storage: {options: {}}", r"functionfuse\.yaml:1:1: a storage's config names its kind"),
    ("storage:\n  kind: 3", r"functionfuse\.yaml:2:9: a storage's config names its kind"),
    (
        "storage:\n  kind: file\n  option: 1",
        r"functionfuse\.yaml:3:3: a storage's config has no field 'option' \(did you mean 'opti",
    ),
    (
        "storge: {}",
        r"functionfuse\.yaml:1:1: a config has no field 'storge' \(did you mean 'storage'",
    ),
    ("storage: {kind: file}\nkind: file", r"functionfuse\.yaml:2:1: a config has no field 'kind'"),
    (
        "kind: file\noptions: [x]",
        r"functionfuse\.yaml:2:10: the options of storage 'file' are a map",
    ),
    ("serializers: 3", r"functionfuse\.yaml:1:14: serializers are a list of texts"),
    ("serializers: [3]", r"functionfuse\.yaml:1:14: serializers are a list of texts"),
    (
        "reuse: unchangd",
        (
            r"functionfuse\.yaml:1:8: reuse is one of unchanged, always, never, not 'unchangd' "
            r"\(did you mean 'unchanged'\?\)"
        ),
    ),
    # kinds and options
    (
        "storage:\n  kind: fil\n",
        r"functionfuse\.yaml:2:9: no storage of kind 'fil' is installed \(did you mean 'file'\?\)",
    ),
    (
        "backend: {}",
        r"functionfuse\.yaml:1:1: a backend's config names its kind: {\"kind\": \"local\",",
    ),
    ("backend: {kind: locl}", r"functionfuse\.yaml:1:17: no backend of kind 'locl' .*mean 'local'"),
    (
        "kind: file\noptions: {}",
        r"functionfuse\.yaml:2:1: storage 'file': option 'path' is missing",
    ),
    ("storage: {kind: file}", r"functionfuse\.yaml:1:1: storage 'file': option 'path' is missing"),
    (
        "kind: file\noptions:\n  path: x\n  privat: true",
        r"functionfuse\.yaml:4:3: storage 'file': unknown option 'privat' \(did you mean 'private'",
    ),
    (
        "kind: file\noptions:\n  path: x\n  private: maybe",
        r"functionfuse\.yaml:4:12: storage 'file': option 'private': Input should be a valid bool",
    ),
    (
        "kind: file\noptions:\n  path: x\n  trust:\n    allow: [numpy, 3]",
        r"functionfuse\.yaml:4:3: .*\nfunctionfuse\.yaml:5:20: .*'trust\.allow\.1': Input should",
    ),
    (BACKEND, r"functionfuse\.yaml:1:43: backend 'local': option 'workers': Input should be gr"),
    (
        "kind: file\noptions: {durability: x, privat: 1}",
        (
            r"functionfuse\.yaml:2:23: storage 'file': option 'durability': Input .*'auto'.*\n"
            r"functionfuse\.yaml:2:1: storage 'file': option 'path' is missing\n"
            r"functionfuse\.yaml:2:26: storage 'file': unknown option 'privat'"
        ),
    ),
    # serializers
    (
        "storage: {kind: file, options: {path: x}}\nserializers:\n- a.B",
        r"functionfuse\.yaml:3:3: no serializer of kind 'a\.B' is installed",
    ),
    (
        "storage: {kind: file, options: {path: x}}\nserializers: ['no_module:S']",
        r"functionfuse\.yaml:2:15: serializer 'no_module:S' can't be imported: ModuleNotFoundError",
    ),
    (
        "storage: {kind: file, options: {path: x}}\nserializers: ['json:Encoder']",
        r"functionfuse\.yaml:2:15: serializer 'json:Encoder' can't be imported: AttributeError",
    ),
    (
        "storage: {kind: file, options: {path: x}}\nserializers: ['json:loads']",
        r"functionfuse\.yaml:2:15: <function loads .*> is no serializer: it has no name",
    ),
    # variables
    ("kind: ${GONE}", r"functionfuse\.yaml:1:7: the environment variable 'GONE' is not set$"),
    (
        "kind: ${GONE:?say where}",
        r"functionfuse\.yaml:1:7: the environment variable 'GONE' is not set: say where$",
    ),
    ("kind: ${EMPTY:?}", r"functionfuse\.yaml:1:7: the environment variable 'EMPTY' is not set$"),
    ("a: ['', $HOME]", r"functionfuse\.yaml:1:9: a '\$' is followed by what is no variable"),
    ("a: '${1}'", r"functionfuse\.yaml:1:4: a '\$' is followed by what is no variable"),
    ("a: '${A:-${B}}'", r"functionfuse\.yaml:1:4: a '\$' is followed by what is no variable"),
    ("a: 'costs 5$'", r"functionfuse\.yaml:1:4: a '\$' is followed by what is no variable"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_every_mistake_has_file_line_and_column(
    write: Write, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    """And says what is wrong, and what was meant, where that is clear."""
    monkeypatch.delenv("GONE", raising=False)
    monkeypatch.setenv("EMPTY", "")
    (name := Path(write(""))).write_text(text)
    with pytest.raises((OptionsError, UnknownKindError), match="^" + message):
        workflow_factory(str(name), double(1), workflow_name="w")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "c.toml",
            '[storage]\nkind = "file"\n[storage.options]\npth = 1',
            r"c\.toml:4:1: storage 'fi",
        ),
        ("c.toml", "kind = file", r"c\.toml:1:8: no TOML: "),
        (
            "c.json",
            '{"kind": "file",\n "options": {"path": 3}}',
            r"c\.json:2:22: storage 'file': opt",
        ),
        ("c.json", '{"kind": "file"', r"c\.json:1:16: no JSON: "),
    ],
)
def test_positions_in_other_syntaxes(write: Write, name: str, text: str, message: str) -> None:
    """The same errors, with the same kind of position."""
    write(text, name)
    with pytest.raises(OptionsError, match=message):
        storage_factory(name)


def test_files_that_are_no_texts(write: Write, tmp_path: Path) -> None:
    """Bytes that are not UTF-8, folders, and what is too large to be written by hand."""
    (tmp_path / "c.yaml").write_bytes(b"kind: file\n# \xff")
    with pytest.raises(OptionsError, match=r"c\.yaml:2:3: the file is not UTF-8"):
        storage_factory("c.yaml")
    (tmp_path / "c.yaml").write_bytes(b"#" * 65537)
    with pytest.raises(OptionsError, match=r"has more than 65536 bytes"):
        storage_factory("c.yaml")
    (tmp_path / "d.yaml").mkdir()
    with pytest.raises(OptionsError, match=r"can't be read: Is a directory") as caught:
        storage_factory("d.yaml")
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_is_refused_at_once(write: Write, tmp_path: Path) -> None:
    """Also without a writer, and behind a symbolic link."""
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "link.yaml").symlink_to("pipe.yaml")
    for name in ("pipe.yaml", "link.yaml"):
        with pytest.raises(OptionsError, match=r"yaml' is no regular file"):
            storage_factory(name)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${SET}", "value"),
        ("a ${SET} b ${SET}", "a value b value"),
        ("${SET:-other}", "value"),
        ("${SET:?message}", "value"),
        ("${EMPTY}", ""),
        ("${EMPTY:-other}", "other"),
        ("${GONE:-other one}", "other one"),
        ("${GONE:-}", ""),
        ("$$", "$"),
        ("$${SET}", "${SET}"),
        ("$$$${SET}$$", "$${SET}$"),
        ("$$${SET}", "$value"),
        ("${TRICKY}", "${SET} $ $$"),
    ],
)
def test_variables_in_texts(
    write: Write, monkeypatch: pytest.MonkeyPatch, text: str, value: str
) -> None:
    """After parsing, in texts that are values; what a variable holds is taken as it is."""
    monkeypatch.setenv("SET", "value")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("TRICKY", "${SET} $ $$")
    monkeypatch.delenv("GONE", raising=False)
    write(json.dumps({"kind": "x", "options": {"${SET}": [text, 1]}}))
    section = config.read("functionfuse.yaml").storage
    assert section is not None
    assert {"${SET}": [value, 1]} == section.options
    if "${" in text and "$$" not in text:
        assert repr(text) == repr(section.options["${SET}"][0])
    given = config.read({"kind": "x", "options": {"a": text}}).storage
    assert given is not None
    assert text == given.options["a"]


def test_a_variable_holds_numbers_and_switches(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The options' model makes of the text what the option is."""
    monkeypatch.setenv("N", "3")
    monkeypatch.setenv("PRIVATE", "true")
    monkeypatch.setenv("KIND", "file")
    write(
        """
        storage: {kind: "${KIND}", options: {path: "a/${N}", private: "${PRIVATE}"}}
        backend: {kind: local, options: {executor: threads, workers: "${N}"}}
        """
    )
    local = workflow_factory("functionfuse.yaml", double(1), workflow_name="w")
    assert (True, str(tmp_path / "a/3")) == (local.storage.store.private, local.storage.path)
    monkeypatch.setenv("N", "many")
    with pytest.raises(
        OptionsError, match=r":3:\d+: backend 'local': option 'workers': Input should"
    ):
        workflow_factory("functionfuse.yaml", double(1), workflow_name="w")


def test_serializers_are_registered(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """By module and name; a class or an instance."""
    code = """
        class Point: pass
        class Points:
            name = "points"
            serializer_class = Point
            def pickle(self, obj, protocols): return self.name, None
            def unpickle(self, pid, protocols): return Point()
            def remove(self, pid, protocols): pass
        points = Points()
    """
    write(code, "my_points.py")
    monkeypatch.syspath_prepend(".")
    write("storage: {kind: file, options: {path: r}}\nserializers: ['my_points:points']", "c.yaml")
    storage = storage_factory("c.yaml")
    (side,) = storage.save("w", "t", sys.modules["my_points"].Point()).side_data
    assert "points" == side.serializer
    del sys.modules["my_points"]


# Secrets.

CANARY = "c4n4ry-hunter2"


class Secretive(BaseModel):
    """Options whose own check tells too much."""

    model_config = ConfigDict(extra="forbid")

    name: str = ""
    number: int = 0

    @field_validator("name")
    @classmethod
    def _check(cls, name: str) -> str:
        if "hunter" in name:
            raise ValueError(f"{name} is no name")
        return name


SECRET_CONFIGS = [
    'storage: {kind: file, options: {path: s, key: "${SECRET}"}}',
    f"storage: {{kind: file, options: {{path: s, key: {CANARY}}}}}",
    'storage: {kind: file, options: {path: s, key: "${SECRET}", privat: 1}}',
    f"storage: {{kind: file, options: {{path: s, key: {CANARY}, private: {CANARY}}}}}",
    f"storage: {{kind: file, options: {{path: s, key: [{CANARY}]}}}}",
    f"storage: {{kind: file, options: {{path: s, key: *{CANARY}}}}}",
    f"storage: {{kind: file, options: {{path: s, key: !{CANARY} x}}}}",
    f"storage: {{kind: file, options: {{path: s, key: '{CANARY}}}}}",
    f"storage: {{kind: file, options: {{path: s, key: a$b{CANARY}}}}}",
    'storage: {kind: "${SECRET}"}',
    'storage: {kind: file, options: {path: s, durability: "${SECRET}"}}',
    'storage: {kind: file, options: {path: s, trust: {allow: "${SECRET}"}}}',
    'serializers: ["${SECRET}"]\nstorage: {kind: file, options: {path: s}}',
    'serializers: ["${SECRET}:x"]\nstorage: {kind: file, options: {path: s}}',
    'reuse: "${SECRET}"',
    'backend: {kind: local, options: {workers: "${SECRET}"}}',
]


@pytest.mark.parametrize("text", SECRET_CONFIGS)
@pytest.mark.parametrize("suffix", ["yaml", "json", "toml"])
def test_a_secret_is_shown_nowhere(
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    text: str,
    suffix: str,
) -> None:
    """In no log, repr, error, chained error, traceback, header or file."""
    monkeypatch.setenv("SECRET", CANARY)
    caplog.set_level(logging.DEBUG)
    seen = []
    write(text, name := f"c.{suffix}")  # as JSON or TOML it is broken somewhere, too
    try:
        seen.append(repr(config.read(name)))
        local = workflow_factory(name, double(3), workflow_name="w")
        seen += [repr(local), repr(local.storage), str(vars(local.storage or local))]
        local.run()
        seen.append(str(local.report))
        if local.storage is not None:
            seen.append(repr(local.storage.task_info("w", "double_0000")))
    except FunctionFuseError as error:
        seen += everything(error)
    seen.append(caplog.text)
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name != name:
            seen.append(path.read_bytes().decode("latin-1"))
    hidden = [text for text in seen if CANARY in text.replace(f"'_key': b'{CANARY}'", "")]
    assert [] == hidden


def everything(error: BaseException) -> list[str]:
    """Return all that can be seen of an error, also by tools that show variables."""
    seen = ["".join(traceback.format_exception(error))]
    chain: BaseException | None = error
    while chain is not None:
        seen += [str(chain), repr(chain), repr(vars(chain)), repr(chain.args)]
        chain = chain.__cause__ or chain.__context__
    return seen


def test_what_a_plugin_says_of_a_variable_is_hidden(
    install: Install, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own check may quote the value; the error has the variable in its place."""
    code = """
        from test_config_secretive import Secretive
        from functionfuse.hookspecs import StorageKind, hookimpl

        @hookimpl
        def functionfuse_storages():
            return [StorageKind("memory", Secretive, lambda options: options, api_version=1)]
    """
    monkeypatch.setitem(sys.modules, "test_config_secretive", sys.modules[__name__])
    install("their-plugin", "memory", "their_memory", code)
    monkeypatch.setenv("SECRET", CANARY)
    write('kind: memory\noptions: {name: "x-${SECRET}"}')
    with pytest.raises(OptionsError) as caught:
        storage_factory("functionfuse.yaml")
    expected = (
        "functionfuse.yaml:2:17: storage 'memory': option 'name': Value error, x-${SECRET} is"
    )
    assert str(caught.value).startswith(expected)
    assert not any(CANARY in text for text in everything(caught.value))


def test_variables_are_in_no_traceback(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a tool prints the local variables of every frame."""
    monkeypatch.setenv("SECRET", CANARY)
    write('storage: {kind: file, options: {path: s, key: "${SECRET}", privat: 1}}')
    try:
        storage_factory("functionfuse.yaml")
    except OptionsError as error:
        shown = io.StringIO()
        found = traceback.TracebackException.from_exception(error, capture_locals=True)
        print("".join(found.format()), file=shown)
    assert "privat" in shown.getvalue()
    assert CANARY not in shown.getvalue()


# The schema.


def test_the_schema_is_a_schema(write: Write) -> None:
    """Of draft-07, which editors know; every option in it has a description."""
    schema = config.schema()
    jsonschema.Draft7Validator.check_schema(schema)
    assert "http://json-schema.org/draft-07/schema#" == schema["$schema"]
    assert json.loads(json.dumps(schema)) == schema
    assert "$defs" not in json.dumps(schema)
    for group in ("storage", "backend"):
        for kind in schema["definitions"][group]["anyOf"][:-1]:
            for name, option in kind["properties"]["options"]["properties"].items():
                assert option.get("description"), (kind, name)


SOUND = [
    {"kind": "file", "options": {"path": "x"}},
    {"storage": {"kind": "file", "options": {"path": "x", "private": "${P}"}}},
    {"storage": {"kind": "file", "options": {"path": "x", "durability": "${D:-auto}"}}},
    {"storage": {"kind": "file", "options": {"path": "x", "trust": {"allow": ["numpy"]}}}},
    {"storage": {"kind": "file", "options": {"path": "x", "trust": "pickle", "key": "k"}}},
    {"backend": {"kind": "local"}, "reuse": "never", "serializers": ["a:b"]},
    {"backend": {"kind": "local", "options": {"workers": "${N}", "executor": "${E}"}}},
    {"storage": {"kind": "${KIND}", "options": {"path": "x"}}, "reuse": "${R}"},
]
UNSOUND: list[Any] = [
    {},
    [],
    {"kind": "file"},
    {"kind": "fil", "options": {"path": "x"}},
    {"kind": "file", "options": {"pth": "x"}},
    {"storage": {"kind": "file", "options": {"path": "x", "private": "maybe"}}},
    {"storage": {"kind": "file", "options": {"path": "x", "trust": {"allw": []}}}},
    {"backend": {"kind": "local", "options": {"workers": 0}}},
    {"reuse": "sometimes"},
    {"serializers": "x"},
    {"storge": {}},
]


def test_the_schema_accepts_what_is_accepted_and_refuses_what_is_refused() -> None:
    """A variable may stand for every scalar, and only for the whole of it or its beginning."""
    validator = jsonschema.Draft7Validator(config.schema())
    assert [] == [example for example in SOUND if not validator.is_valid(example)]
    assert [] == [example for example in UNSOUND if validator.is_valid(example)]


def test_the_schema_has_the_options_of_plugins(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    """With what their models refer to; a plugin that can't be used is left out and named."""
    code = """
        from typing import Optional
        from pydantic import BaseModel, Field
        from functionfuse.hookspecs import StorageKind, hookimpl

        class Allow(BaseModel):
            deep: tuple[int, bool] = (1, True)

        class Options(BaseModel):
            size: int = Field(description="How big.")
            rate: Optional[float] = None
            allow: Allow = Allow()
            more: dict[str, list[int]] = {}

        @hookimpl
        def functionfuse_storages():
            return [StorageKind("Memory", Options, lambda options: options, api_version=1)]
    """
    install("their-plugin", "Memory", "their_memory", code)
    install("broken-plugin", "broken", "their_broken", "1 / 0")
    validator = jsonschema.Draft7Validator(config.schema())
    assert "left out of the schema: the storage 'broken' (module 'their_broken'" in caplog.text
    jsonschema.Draft7Validator.check_schema(validator.schema)

    def accepts(**options: Any) -> bool:
        accepted = {
            validator.is_valid({"storage": {"kind": kind, "options": options}})
            for kind in ("Memory", "memory")
        }
        return accepted == {True}

    assert accepts(size=1, rate=None, allow={"deep": [1, True]}, more={"a": [1]})
    assert accepts(size="${S}", rate="${R}", allow={"deep": ["${D}", "${E}"]}, more={"a": ["${F}"]})
    for wrong in (
        {},
        {"size": "x"},
        {"size": 1, "rate": "x"},
        {"size": 1, "allow": {"deep": ["x", True]}},
    ):
        assert not accepts(**wrong)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["file", "local", "x", "", "${A"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    "kind",
                    "options",
                    "storage",
                    "backend",
                    "reuse",
                    "serializers",
                    "path",
                    "trust",
                    "x",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(data=anything)
def test_any_config_is_accepted_or_is_an_error_of_ours(
    data: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Nothing else comes out; as a dictionary and as a file."""
    outcomes = []
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(data))
    for given_config in (data, path):
        try:
            workflow_factory(given_config, double(1), workflow_name="w")
            outcomes.append("fine")
        except FunctionFuseError as error:
            outcomes.append(type(error).__name__)
    if isinstance(data, dict) and "${A" not in json.dumps(data):
        assert outcomes[0] == outcomes[1]


def test_the_policies_are_those_of_workflows() -> None:
    """They are written down twice, so that a config needs no graph."""
    policies = settings.UNCHANGED, settings.ALWAYS, settings.NEVER
    assert policies == form.POLICIES


# Backends.


@pytest.mark.parametrize("executor", ["none", "threads", "processes"])
def test_a_local_backend_computes_where_its_options_say(tmp_path: Path, executor: str) -> None:
    """And the executor is gone after the run; one that is handed over is used instead."""
    options = {"executor": executor, "workers": 1}
    made = {"backend": {"kind": "local", "options": options}}
    code = """
        import json, os, sys, threading
        from functionfuse import workflow
        from functionfuse.backends import workflow_factory

        @workflow
        def where():
            return os.getpid(), threading.current_thread().name

        pid, thread = workflow_factory(json.loads(sys.argv[1]), where(), workflow_name="w").run()
        print(pid == os.getpid(), thread == "MainThread", threading.active_count())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), json.dumps(made)],
        check=True,
        capture_output=True,
        text=True,
    )
    expected = {"none": "True True 1", "threads": "True False 1", "processes": "False True 1"}
    assert expected[executor] == done.stdout.strip()


def test_a_backend_of_a_plugin(install: Install, tmp_path: Path) -> None:
    """It is given the checked options, the nodes and the name; then storage and policy."""
    code = """
        from pydantic import BaseModel
        from functionfuse.hookspecs import BackendKind, hookimpl

        class Options(BaseModel):
            size: int = 3

        class Workflow:
            def __init__(self, *made):
                self.made = made
            def set_storage(self, storage):
                self.storage = storage
            def set_reuse(self, policy):
                self.policy = policy

        @hookimpl
        def functionfuse_backends():
            build = lambda options, nodes, name: Workflow(options.size, nodes, name)
            return [BackendKind("theirs", build=build, options=Options, api_version=1)]
    """
    install("their-plugin", "theirs", "their_backend", code, group="functionfuse.backends")
    section = {"kind": "file", "options": {"path": str(tmp_path / "s")}}
    node = double(1)
    made = workflow_factory(
        {"storage": section, "backend": {"kind": "theirs"}, "reuse": "always"},
        node,
        workflow_name="w",
    )
    assert ((3, (node,), "w"), "always") == (made.made, made.policy)
    assert isinstance(made.storage, FileStorage)


def test_a_plugin_without_its_sdk_says_so(install: Install, write: Write) -> None:
    """What `build` imports may be missing; the error names plugin and place."""
    code = """
        from pydantic import BaseModel
        from functionfuse.hookspecs import StorageKind, hookimpl

        class Options(BaseModel):
            pass

        def build(options):
            import no_such_sdk

        @hookimpl
        def functionfuse_storages():
            return [StorageKind("memory", Options, build, api_version=1)]
    """
    install("their-plugin", "memory", "their_memory", code)
    write("kind: memory")
    match = (
        r"functionfuse.yaml:1:7: the storage 'memory' \(module 'their_memory' from their-plugin"
        r" 1\.2\) can't be made: ModuleNotFoundError: No module named 'no_such_sdk'"
    )
    with pytest.raises(PluginError, match=match) as caught:
        storage_factory("functionfuse.yaml")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_storage_from_a_file_can_be_pickled(write: Write, tmp_path: Path) -> None:
    """And sent to where the file is not."""
    write("kind: file\noptions: {path: results}")
    storage = storage_factory("functionfuse.yaml")
    storage.save("w", "t", 1)
    (tmp_path / "functionfuse.yaml").unlink()
    assert 1 == pickle.loads(pickle.dumps(storage)).read_task("w", "t")


def test_a_dictionary_imports_no_yaml(tmp_path: Path) -> None:
    """Each syntax is imported when a file of it is read."""
    code = """
        import sys
        from functionfuse.backends.builtin.localback import LocalWorkflow
        print(sorted({"yaml", "tomllib", "pydantic", "pluggy"} & set(sys.modules)))
        from functionfuse.storage import storage_factory
        storage_factory({"kind": "file", "options": {"path": "x"}})
        print(sorted({"yaml", "tomllib"} & set(sys.modules)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True, text=True
    )
    assert "[]\n[]\n" == done.stdout
