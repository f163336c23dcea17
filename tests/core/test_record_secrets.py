"""Values in `ignore` can be secrets: no form of them gets into the record of a run."""

from __future__ import annotations

import functools
import json
import os
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, quote_plus

import numpy as np
import pytest
import secret_module
from result_bytes import MemoryStore

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.run.ignored import _MOST, _MOST_ATTRIBUTES
from functionfuse.storage import Storage
from functionfuse.storage.runs import RunRecord

CANARY = "canary/4711 \u00e4'\"\\x"


@dataclass(slots=True)
class Slotted:
    text: str


class Unwilling:
    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no attributes")


@workflow(ignore=["token"])
def refuses(token: Any, text: str) -> None:
    raise ValueError(f"refused: {text}")


@workflow(ignore=["token"])
def returns(token: Any) -> Any:
    return token


@workflow
def canary() -> str:
    return CANARY


@workflow
def refuses_all(value: Any) -> None:
    raise ValueError(f"refused: {value}")


def failed(node: Any) -> RunRecord:
    """Return the record of a run whose last node fails."""
    storage = Storage(MemoryStore())
    flow = LocalWorkflow(node.set_name("last"), workflow_name="w")
    flow.set_storage(storage)
    with pytest.raises(ValueError, match="refused"):
        flow.run()
    [record] = storage.runs("w")
    return record


def texts(record: RunRecord) -> list[str]:
    assert record.error is not None
    return [record.error["text"], record["last"].reason.removeprefix("ValueError: ")]


LINES = f"BEGIN\n  {CANARY}\r\nEND"
VALUES: dict[str, tuple[object, str]] = {
    "bytearray": (bytearray(b"canary"), f"{b'canary'!r}"),
    "bytes as text": (CANARY.encode(), CANARY),
    "array": (np.array(["canary"]), "canary"),
    "number of numpy": (np.int64(4711), "4711"),
    "path": (PurePosixPath("/home/canary"), "/home/canary"),
    "uuid": (uuid.UUID(int=4711), str(uuid.UUID(int=4711))),
    "slots": (Slotted("canary"), "canary"),
    "deque": (deque(["canary"]), "canary"),
    "key": ({"canary": 1}, "canary"),
    "partial": (functools.partial(print, "canary"), "canary"),
    "deep": ([[[[[[["canary"]]]]]]], "canary"),
    "many": ([f"{number} other" for number in range(_MOST // 2)] + ["canary"], "canary"),
    "line": (LINES, CANARY),
    "password": ("sql://ada:canary%2B@host/base", "for canary+"),
    "utf-8": (CANARY, repr(CANARY.encode())),
    "json": (CANARY, json.dumps(CANARY)),
    "json in json": (CANARY, json.dumps(json.dumps([CANARY], ensure_ascii=False))),
    "repr of repr": (CANARY, repr(repr(CANARY))),
    "path of a url": (CANARY, quote(CANARY)),
    "query of a url": (CANARY, quote_plus(CANARY)),
}


@pytest.mark.parametrize("kind", VALUES)
def test_each_form_is_removed(kind: str) -> None:
    """Of each value, in each usual form; the rest of the text stays."""
    value, text = VALUES[kind]
    for found in texts(failed(refuses(value, text))):
        assert found.startswith("refused: ")
        assert "***" in found
        assert not any(part in found for part in ("canary", "4711"))


@pytest.mark.parametrize(
    "value",
    [10**5000, "lone \udcff", None, True],
    ids=["int", "surrogate", "none", "bool"],
)
def test_values_without_a_usual_text(value: object) -> None:
    """They do not hide the error, and nothing is removed for them."""
    text = "None True"
    assert [f"refused: {text}"] * 2 == texts(failed(refuses(value, text)))


@pytest.mark.parametrize("make", [Unwilling, lambda: list(range(2 * _MOST))])
def test_a_value_that_cannot_be_looked_through(make: Callable[[], object]) -> None:
    """The error has its type, but no text; the run raises it unchanged."""
    record = failed(refuses(make(), "canary"))
    assert ["", ""] == texts(record)
    assert record.error is not None
    assert ("ValueError", "last") == (record.error["type"], record.error["node"])


def test_a_large_object() -> None:
    """Only its first attributes are removed: those nearest to it."""
    client = type("Client", (), {})()
    client.inner = type("Client", (), {})()
    client.inner.words = [f"word {number}." for number in range(2 * _MOST_ATTRIBUTES)]
    client.token = "canary"
    found = texts(failed(refuses(client, f"canary, word {_MOST_ATTRIBUTES + 1}.")))
    assert [f"refused: ***, word {_MOST_ATTRIBUTES + 1}."] * 2 == found


@pytest.mark.parametrize("wrap", [lambda node: node, lambda node: [node], lambda node: node[0:]])
def test_values_of_nodes(wrap: Callable[[Any], Any]) -> None:
    """If a node takes one, its errors and those of all nodes after it have no text."""
    node = wrap(canary().set_name("canary"))
    assert ["", ""] == texts(failed(refuses(node, CANARY)))
    after = returns(wrap(canary().set_name("canary"))).set_name("client")
    assert ["", ""] == texts(failed(refuses_all([after])))


# Names.


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@workflow(ignore=["token"])
@logged
def wrapped(number: int, token: str = "canary-by-default") -> None:
    raise ValueError(f"refused: {token}")


@workflow(ignore=["tokens", "*1"])
def variadic(*tokens: str, **more: str) -> None:
    raise ValueError(f"refused: {tokens} {more}")


@workflow(ignore=["more"])
def keywords(number: int, **more: str) -> None:
    raise ValueError(f"refused: {more}")


@workflow(ignore=["token"])
class Client:
    def __init__(self, number: int, token: str = "canary-by-default") -> None:
        self.token = token

    def call(self) -> None:
        raise ValueError(f"refused: {self.token}")


@workflow(ignore=["secret_module.TOKEN"])
def reads_a_module() -> None:
    secret_module.refuse()


CALLS: dict[str, Callable[[], Any]] = {
    "wrapped": lambda: wrapped(5, "canary"),
    "default of a wrapped function": lambda: wrapped(5),
    "variadic": lambda: variadic("canary 1", "canary 2"),
    "keywords": lambda: keywords(5, token="canary"),
    "default of a class": lambda: Client(5).call(),
    "another module": reads_a_module,
}


@pytest.mark.parametrize("kind", CALLS)
def test_where_it_comes_from(kind: str) -> None:
    """Neither the arguments in a record nor the errors have it, by whatever name it is ignored."""
    record = failed(CALLS[kind]())
    assert "canary" not in str(record.nodes)
    assert "***" in texts(record)[0]
    assert {5} >= {value for node in record.nodes for value in node.arguments.values()}


def test_another_function() -> None:
    """What a name in `ignore` hides, it hides too if the function is replaced by one of another."""

    def other(secret: str, text: str) -> None:
        raise ValueError(f"refused: {secret}")

    storage = Storage(MemoryStore())
    node = refuses("canary", "x").set_name("last")
    flow = LocalWorkflow(node, workflow_name="w")
    flow.set_storage(storage)
    flow.replace_func(node, other)
    with pytest.raises(ValueError, match="canary"):
        flow.run()
    record = storage.runs("w")[-1]
    assert {"text": "x"} == record["last"].arguments
    assert ["refused: ***"] * 2 == texts(record)


class Picky:
    """An object that can't be unpickled, and says what was in it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __setstate__(self, state: dict[str, str]) -> None:
        if "PICKY" in os.environ:
            raise ValueError(f"refused: {state}")
        vars(self).update(state)


@workflow(ignore=["token"])
def picky(token: str) -> Picky:
    return Picky(token)


@workflow
def takes(value: Any, number: int) -> int:
    return number


def test_a_stored_result_of_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason quotes an error, too, although the node did not fail."""
    storage = Storage(MemoryStore())
    for number in (1, 2):
        node = takes(picky("canary").set_name("picky"), number)
        flow = LocalWorkflow(node, workflow_name="w")
        flow.set_storage(storage)
        if number == 2:
            monkeypatch.setenv("PICKY", "")
        flow.run()
    reason = storage.runs("w")[-1]["picky"].reason
    assert "refused: {'text': '***'}" in reason
