"""Runs are compared, and put into rows: arguments, code, results and actions."""

from __future__ import annotations

import math
import os
import random
import sys
from typing import Any

import pandas as pd
import pytest
from remote_store import RemoteStore
from result_bytes import MemoryStore

from functionfuse.errors import InvalidNameError, NoMatchError, PluginError
from functionfuse.storage import Storage
from functionfuse.storage.runchanges import MISSING, Change, Changes
from functionfuse.storage.runrecord import RecordedNode
from run_records import id_of, ran, record

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"


@pytest.fixture
def storage() -> Storage:
    return Storage(MemoryStore())


def node(name: str, action: str = "computed", **fields: Any) -> RecordedNode:
    return RecordedNode(name, action, **fields)


def compared(before: list[RecordedNode], after: list[RecordedNode]) -> Changes:
    """Return the changes between two runs that had these nodes."""
    storage = Storage(MemoryStore())
    record(storage, 1, *before)
    record(storage, 2, *after)
    first, second = storage.runs("w")
    return first.compare(second)


# Each is another value than all others, with the text of those that are not plain.
VALUES: list[tuple[Any, str]] = [
    *((value, "") for value in (None, True, False, 1, 0, 1.0, 0.0, -0.0, "1", "", "None")),
    ("missing", ""),
    ("node 'a'", ""),
    (math.nan, ""),
    ({"node": "a"}, "node 'a'"),
    ({"node": "a", "item": "[0]"}, "node 'a'[0]"),
    ({"type": "numpy.ndarray", "digest": "0" * 16}, f"numpy.ndarray {'0' * 16}"),
    ({"type": "numpy.ndarray", "digest": "1" * 16}, f"numpy.ndarray {'1' * 16}"),
    ({"type": "list", "digest": "1" * 16}, f"list {'1' * 16}"),
    ({"type": "list", "digest": ""}, "list (unknown content)"),
    ({"type": "numpy.float64", "value": 1.0}, "numpy.float64 1.0"),
    ({"type": "numpy.float64", "value": 1}, "numpy.float64 1"),
    ({"type": "numpy.float64", "float": "inf"}, "numpy.float64 inf"),
    ({"type": "numpy.str_", "value": "1"}, "numpy.str_ '1'"),
]


@pytest.mark.parametrize("before", range(len(VALUES)))
def test_only_equal_arguments_are_equal(before: int) -> None:
    """True is not 1, 1 is not 1.0, and NaN is itself. No content is known: then nothing differs."""
    for after, (value, text) in enumerate(VALUES):
        first, shown = VALUES[before]
        found = compared([node("f", arguments={"c": first})], [node("f", arguments={"c": value})])
        kinds = [v.get("type") for v in (first, value) if isinstance(v, dict) and "digest" in v]
        unknown = ["list", "list"] == kinds
        assert (before == after or unknown) == (not found)
        for change in found:
            assert (shown or repr(first)) == repr(change.before)
            assert (text or repr(value)) == repr(change.after)


def test_changes_print_as_a_table() -> None:
    """Texts have quotation marks, descriptions don't; digests are cut."""
    before = node("fit", arguments={"c": 0.5, "d": None}, code="a" * 32, value="1" * 32)
    after = node("fit", "failed", arguments={"c": "x", "e": {"node": "load"}}, code="b" * 32)
    found = compared([before, node("gone")], [node("load", "reused"), after])
    expected = """\
load  action                      →  reused
fit   argument  c  0.5            →  'x'
fit   argument  e  missing        →  node 'load'
fit   argument  d  None           →  missing
fit   code         aaaaaaaa       →  bbbbbbbb
fit   action       computed       →  failed
gone  action       computed       →"""
    assert expected.split() == str(found).split()
    assert 1 == len({line.index("→") for line in str(found).splitlines()})
    assert "no changes" == str(compared([after], [after]))


def test_plugins_of_one_type_are_all_compared() -> None:
    """A change of the first of them is named."""
    before, after = ([["Seed", first], ["Seed", "2" * 16]] for first in ("0" * 16, "1" * 16))
    [change] = compared([node("f", plugins=before)], [node("f", plugins=after)])
    assert ("f", "plugin", "Seed") == change[:3]


def test_digests_that_are_not_known_are_not_compared() -> None:
    """Of code and results. Equal values can have other bytes in another process."""
    one = node("f", code="a" * 32, digest="1" * 32, value="3" * 32)
    assert [] == compared([one], [one._replace(code="", digest="", value="")])
    assert [] == compared([one._replace(code="", digest="", value="")], [one])
    assert [] == compared([one], [one._replace(digest="2" * 32)])
    other = one._replace(value="4" * 32)
    assert [Change("f", "result", "", "3" * 32, "4" * 32)] == compared([one], [other])
    plain = one._replace(value="")
    other = plain._replace(digest="2" * 32)
    assert [Change("f", "result", "", "1" * 32, "2" * 32)] == compared([plain], [other])


class Model:
    """Two runs: random nodes, and what random edits made of them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.edits: dict[tuple[str, str, str], tuple[str, str]] = {}
        names = [f"n{number}" for number in range(self.random.randrange(1, 12))]
        self.before = [self.node(name) for name in names]
        self.after = [n._replace(arguments=dict(n.arguments)) for n in self.before]

    def digest(self) -> str:
        return f"{self.random.getrandbits(128):032x}"

    def value(self) -> tuple[Any, str]:
        """Return an argument, and the repr of what is told about it."""
        known = [value for value in VALUES if value[1] != "list (unknown content)"]
        value, text = self.random.choice(known)
        return value, text or repr(value)

    def node(self, name: str) -> RecordedNode:
        values = {f"p{number}": self.value()[0] for number in range(self.random.randrange(4))}
        plugins = [[kind, self.digest()] for kind in ("Seed", "Log") if self.random.random() < 0.3]
        digests = {"code": self.digest(), "digest": self.digest(), "value": self.digest()}
        action = self.random.choice(["computed", "reused", "failed"])
        return RecordedNode(name, action, arguments=values, plugins=plugins, **digests)

    def told(self, value: Any) -> str:
        return next(text or repr(v) for v, text in VALUES if repr(v) == repr(value))

    def edit(self) -> None:
        """Change one thing, which no other edit changes."""
        if self.random.random() < 0.1 or not self.after:
            new = self.node(f"new{len(self.edits)}")
            self.after.insert(self.random.randint(0, len(self.after)), new)
            self.edits[new.name, "action", ""] = ("''", repr(new.action))
            return
        index = self.random.randrange(len(self.after))
        old = self.after[index]
        edited = {key[0] for key in self.edits}
        if old.name.startswith("new"):
            return
        if self.random.random() < 0.1 and old.name not in edited:
            del self.after[index]
            self.edits[old.name, "action", ""] = (repr(old.action), "''")
            return
        what = self.random.choice(["argument", "code", "plugin", "result", "action", "reason"])
        getattr(self, f"edit_{what}")(index, old)

    def edit_argument(self, index: int, old: RecordedNode) -> None:
        name = f"p{self.random.randrange(5)}"
        if (old.name, "argument", name) in self.edits:
            return
        given = dict(old.arguments)
        before, (new, after) = "missing", self.value()
        if name in given:
            before = self.told(given.pop(name))
            if self.random.random() < 0.3:
                new, after = MISSING, "missing"
        if new is not MISSING:
            given[name] = new
        self.after[index] = old._replace(arguments=given)
        if before != after:
            self.edits[old.name, "argument", name] = (before, after)

    def edit_code(self, index: int, old: RecordedNode) -> None:
        self.edit_digest(index, "code", "code")

    def edit_result(self, index: int, old: RecordedNode) -> None:
        self.after[index] = old._replace(digest=self.digest())  # also of an equal value
        if self.random.random() < 0.7:
            self.edit_digest(index, "result", "value")

    def edit_digest(self, index: int, what: str, field: str) -> None:
        old, new = self.after[index], self.digest()
        if (old.name, what, "") not in self.edits:
            self.after[index] = old._replace(**{field: new})
            self.edits[old.name, what, ""] = (repr(getattr(old, field)), repr(new))

    def edit_plugin(self, index: int, old: RecordedNode) -> None:
        kind, new = self.random.choice(["Seed", "Log", "Other"]), self.digest()
        if (old.name, "plugin", kind) in self.edits:
            return
        found = dict(old.plugins)
        before, after = repr(found[kind]) if kind in found else "missing", repr(new)
        if kind in found and self.random.random() < 0.3:
            after = "missing"
            del found[kind]
        else:
            found[kind] = new
        self.after[index] = old._replace(plugins=list(map(list, found.items())))
        self.edits[old.name, "plugin", kind] = (before, after)

    def edit_action(self, index: int, old: RecordedNode) -> None:
        if (old.name, "action", "") not in self.edits:
            new = {"computed": "reused", "reused": "failed", "failed": "computed"}[old.action]
            self.after[index] = old._replace(action=new)
            self.edits[old.name, "action", ""] = (repr(old.action), repr(new))

    def edit_reason(self, index: int, old: RecordedNode) -> None:
        self.after[index] = old._replace(reason="other", seconds=2.0, attempts=3)  # never told


@pytest.mark.battery
@pytest.mark.parametrize("seed", range(2000 if FULL else 60))
def test_what_changed_is_what_is_named(seed: int) -> None:
    """Nothing else is, whatever the edits; in the order of the later run, then what is gone."""
    model = Model(seed)
    for _ in range(model.random.randrange(20)):
        model.edit()
    found = compared(model.before, model.after)
    assert model.edits == {tuple(c[:3]): (repr(c.before), repr(c.after)) for c in found}
    assert len(model.edits) == len(found)
    names = [n.name for n in model.after]
    order = [*names, *(n.name for n in model.before if n.name not in names)]
    kinds = ["argument", "code", "plugin", "result", "action"]
    places = [(order.index(change.node), kinds.index(change.what)) for change in found]
    assert sorted(places) == places


def arguments(c: Any, **of_load: Any) -> dict[str, dict[str, Any]]:
    """Return arguments of `ran`: those of a chain of load, fit and score."""
    return {"load": of_load, "fit": {"rows": {"node": "load"}, "c": c}, "score": {}}


def test_rows_have_arguments_and_results(storage: Storage) -> None:
    """Of the nodes and their ancestors; None where there is nothing, so all have the same keys."""
    ran(storage, 1, {"load": "x", "fit": 1.5, "score": 0.9}, arguments(1, path="a"))
    ran(storage, 2, {"load": "x", "fit": 2.5, "score": ValueError("no")}, arguments(2, path="a"))
    ran(storage, 3, {"load": "x", "fit": 3.5}, {"fit": {**arguments(3)["fit"], "d": True}})
    ran(storage, 4, {"load": "y", "fit": 4.5, "score": 0.7}, arguments(4, path="b", scale=2))
    found = storage.runs("w")
    keys = ["id", "load.path", "load.scale", "fit.c", "fit.d", "score"]
    assert [
        [id_of(1), "a", None, 1, None, 0.9],
        [id_of(2), "a", None, 2, None, None],
        [id_of(3), None, None, 3, True, None],
        [id_of(4), "b", 2, 4, None, 0.7],
    ] == [list(row.values()) for row in found.rows("score")]
    assert [keys] * 4 == [list(row) for row in found.rows("score")]
    assert ["id", *keys[1:5], "fit", "load"] == list(found.rows("fit", "load")[0])
    assert ["id", "load.path", "load.scale", "load"] == list(found.rows("load")[0])
    assert keys[:5] == list(found.rows()[0])


def test_an_argument_that_is_no_plain_value_is_there_if_it_varies(storage: Storage) -> None:
    """Then it is a text. The numbers and texts of other types are plain."""

    def array(digit: str) -> dict[str, str]:
        return {"type": "numpy.ndarray", "digest": digit * 16}

    half = {"type": "numpy.float64", "value": 0.5}
    infinite = {"type": "float", "float": "inf"}
    always = {"same": array("0"), "rows": {"node": "load"}}
    ran(storage, 1, {"t": 1}, {"t": {**always, "data": array("1"), "c": half}})
    ran(storage, 2, {"t": 2}, {"t": {**always, "data": array("2"), "c": infinite, "more": half}})
    ran(storage, 3, {"t": 3}, {"t": {**always, "data": 7, "c": 1, "o": array("3")}})
    found = [list(row.values())[1:] for row in storage.runs("w").rows()]
    assert ["id", "t.data", "t.c", "t.o", "t.more"] == list(storage.runs("w").rows()[0])
    text = "numpy.ndarray " + 16 * "{}"
    assert [
        [text.format(*"1" * 16), 0.5, None, None],
        [text.format(*"2" * 16), math.inf, None, 0.5],
        [7, 1, text.format(*"3" * 16), None],
    ] == found


def test_each_result_of_rows_is_read_once() -> None:
    """However many runs have reused it. What is pruned or removed is None."""
    store = RemoteStore()
    storage = Storage(store)
    for number in range(6):
        ran(storage, number, {"fit": [number // 2], "score": "same"}, call=number // 2)
    found = storage.runs("w")
    str(found)
    store.asked.clear()
    rows = found.rows("fit", "fit")
    assert [[0], [0], [1], [1], [2], [2]] == [row["fit"] for row in rows]
    assert rows[0]["fit"] is rows[1]["fit"]
    assert 3 + 2 == store.asked["get"]  # the latest is looked at first
    storage.prune("w", keep=1)
    assert [None, None, [1], [1], [2], [2]] == [row["fit"] for row in found.rows("fit")]
    storage.remove_task("w", "fit")
    assert [None] * 6 == [row["fit"] for row in found.rows("fit")]


def test_rows_of_no_such_node(storage: Storage) -> None:
    """A name that no run has is an error; one that some runs have is none."""
    ran(storage, 1, {"load": 1})
    ran(storage, 2, {"load": 2, "score": 2})
    assert [None, 2] == [row["score"] for row in storage.runs("w").rows("score")]
    with pytest.raises(NoMatchError, match=r"no run .* has a node 'scor' \(did you mean 'score'"):
        storage.runs("w").rows("score", "scor")
    with pytest.raises(NoMatchError):
        storage.runs("w")[:0].rows("score")
    assert [] == storage.runs("w")[:0].rows()


def test_two_columns_never_share_a_name(storage: Storage) -> None:
    """A node can have the name of an argument or of the id."""
    ran(storage, 1, {"fit": 1, "fit.c": 2, "id": 3}, {"fit": {"c": 0}})
    [run] = found = storage.runs("w")
    for name in ("fit.c", "id"):
        with pytest.raises(InvalidNameError, match=f"two columns would be '{name}'"):
            found.rows(name)
    assert [{"id": run.id, "fit.c": 0, "fit": 1}] == found.rows("fit")
    assert (2, 3) == (run.read("fit.c"), run.read("id"))


def test_ancestors_end() -> None:
    """Also where a record was made by hand: parents that are missing, or go around."""
    storage = Storage(MemoryStore())
    around = [node("a", parents=["b"], arguments={"x": 1}), node("b", parents=["a", "none"])]
    record(storage, 1, *around, node("c", parents=["c"], arguments={"y": 1}))
    assert [{"id": id_of(1), "a.x": 1, "b": None}] == storage.runs("w").rows("b")


def test_a_frame_has_the_rows(storage: Storage) -> None:
    """By id; values of any type stay what they are."""
    for number in (1, 2):
        ran(storage, number, {"t": [number]}, {"t": {"c": number / 2}})
    frame = storage.runs("w").to_frame("t")
    index = pd.Index([id_of(1), id_of(2)], name="id")
    pd.testing.assert_frame_equal(pd.DataFrame({"t.c": [0.5, 1], "t": [[1], [2]]}, index), frame)
    assert (0, ["id"]) == (
        len(storage.runs("v").to_frame()),
        storage.runs("v").to_frame().index.names,
    )


def test_frames_need_pandas(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how to get it; rows don't need it."""
    ran(storage, 1, {"t": 1})
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert 1 == len(storage.runs("w").rows("t"))
    with pytest.raises(PluginError, match="pip install pandas"):
        storage.runs("w").to_frame("t")
