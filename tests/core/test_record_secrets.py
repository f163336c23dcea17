"""Values in `ignore` can be secrets: they don't get into the record of a run."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import secret_module
from pydantic import SecretStr
from result_bytes import MemoryStore

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import Storage
from functionfuse.storage.runs import RunRecord
from run_records import raw


@workflow(ignore=["token"])
def refuses(token: Any, text: str = "refused: canary") -> None:
    raise ValueError(text)


@workflow(ignore=["token"])
def returns(token: Any) -> Any:
    return token


@workflow
def canary() -> str:
    return "canary"


@workflow
def refuses_all(*values: Any) -> None:
    raise ValueError(f"refused: {values}")


def failed(node: Any, *others: Any) -> RunRecord:
    """Return the record of a run whose last node fails; no record has the canary."""
    storage = Storage(MemoryStore())
    flow = LocalWorkflow(*others, node.set_name("last"), workflow_name="w")
    flow.set_storage(storage)
    with pytest.raises(ValueError, match="refused"):
        flow.run(keep_going=True)
    [record] = storage.runs("w")
    assert record.error is not None
    assert ("ValueError", "last") == (record.error["type"], record.error["node"])
    return record


def texts(record: RunRecord) -> list[str]:
    assert record.error is not None
    return [record.error["text"], record["last"].reason]


SECRETS = ["canary", b"canary", 4711, 47.11e9, ["canary"], {"key": "canary"}, SecretStr("canary")]


@pytest.mark.parametrize("value", [*SECRETS, np.array([4711])], ids=lambda v: type(v).__name__)
def test_an_error_that_may_quote_one_has_no_text(value: object) -> None:
    """Its type is recorded; the arguments that are not ignored are, too."""
    record = failed(refuses(value, text="refused: canary"))
    assert ["", "ValueError"] == texts(record)
    assert {"text": "refused: canary"} == record["last"].arguments


@pytest.mark.parametrize("value", [None, True, 999, -0.5])
def test_what_is_no_secret_hides_no_error(value: object) -> None:
    """A flag, None, and a number below 1,000."""
    assert ["refused: it", "ValueError: refused: it"] == texts(
        failed(refuses(value, "refused: it"))
    )


@pytest.mark.parametrize("wrap", [lambda node: node, lambda node: [node], lambda node: node[0:]])
def test_values_of_nodes(wrap: Callable[[Any], Any]) -> None:
    """If a node takes one, its errors and those of all nodes after it have no text."""
    node = wrap(canary().set_name("canary"))
    assert ["", "ValueError"] == texts(failed(refuses(node)))
    after = returns(wrap(canary().set_name("canary"))).set_name("client")
    assert ["", "ValueError"] == texts(failed(refuses_all(1, [after])))


def test_errors_of_other_nodes_have_a_text() -> None:
    """Those that don't follow a node with a secret."""
    other = returns("canary").set_name("other")
    assert ["refused: (1,)", "ValueError: refused: (1,)"] == texts(failed(refuses_all(1), other))


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


TOKEN = "canary-of-a-global"


@workflow(ignore=["TOKEN"])
def reads_a_global() -> None:
    raise ValueError(f"refused: {TOKEN}")


CALLS: dict[str, Callable[[], Any]] = {
    "wrapped": lambda: wrapped(5, "canary"),
    "default of a wrapped function": lambda: wrapped(5),
    "variadic": lambda: variadic("canary 1", "canary 2"),
    "keywords": lambda: keywords(5, token="canary"),
    "default of a class": lambda: Client(5).call(),
    "another module": reads_a_module,
    "a global": reads_a_global,
}


@pytest.mark.parametrize("kind", CALLS)
def test_where_it_comes_from(kind: str) -> None:
    """Neither the arguments in a record nor the errors have it, by whatever name it is ignored."""
    record = failed(CALLS[kind]())
    assert "canary" not in str(record.nodes)
    assert ["", "ValueError"] == texts(record)
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
    assert {"text": "x"} == storage.runs("w")[-1]["last"].arguments
    assert ["", "ValueError"] == texts(storage.runs("w")[-1])
    assert b"canary" not in raw(storage)


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
    assert "stored result is of no use" == storage.runs("w")[-1]["picky"].reason
    assert b"canary" not in raw(storage)


def _wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@workflow(ignore=["token"])
@_wrapped
def fetch(url: str, token: str) -> int:
    return len(url)


@workflow(ignore=["options"])
def send(url: str, **options: str) -> int:
    return len(url)


@pytest.mark.parametrize(
    "make",
    [
        lambda secret: fetch("u", secret),
        lambda secret: send("u", password=secret),
        lambda secret: send("u", url2="x", password=secret),
    ],
)
def test_arguments_of_a_wrapper_are_not_shown(make: Callable[[str], Any]) -> None:
    """They count, as only the wrapper knows what it hands on; but no text of them is stored."""
    store = MemoryStore()
    storage = Storage(store)
    for secret in ("canary 1", "canary 2"):
        flow = LocalWorkflow(make(secret).set_name("last"), workflow_name="w")
        flow.set_storage(storage)
        flow.run()
        report = flow.report
        assert report is not None
        assert "computed" == report["last"].action
    assert "changed" in report["last"].reason
    assert "canary" not in str(report)
    assert "canary" not in str(storage.report("w").page())
    assert b"canary" not in raw(storage)
    assert not [blob.key for blob in store.list("") if b"canary" in bytes(store.get(blob.key))]
