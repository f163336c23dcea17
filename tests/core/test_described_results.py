"""What a header tells of what a value refers to, and that it is read without the rest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from described_values import Model
from kept_values import Kept, KeptSerializer
from result_bytes import MemoryStore, header_of, of_pickle, rest_of, sealed
from xxhash import xxh3_64_hexdigest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import DamagedResultError, UntrustedResultError
from functionfuse.reuse.described import described
from functionfuse.storage import Storage, header
from functionfuse.storage.filestorage import FileStorage
from functionfuse.storage.options import StorageOptions
from functionfuse.storage.summary import Summary

OWN = ["m:A", "m:B.C"]
VALUE = "0123456789abcdef" * 2
IMITATION = {"own": ["x:Y"], "value": "f" * 32, "key": "f" * 16}


def telling(own: Sequence[str] = OWN, value: str = VALUE) -> Any:
    return lambda obj, pickled: (own, value)


def stored(storage: Storage, task: str = "t") -> Summary:
    (found,) = storage.task_infos("w", [task])
    assert isinstance(found, Summary)
    return found


@pytest.fixture
def storage() -> Storage:
    return Storage(MemoryStore())


def blob(storage: Storage) -> bytes:
    return bytes(storage.store.get("w/t"))


@pytest.mark.parametrize("fingerprint", [{}, {"call": "0" * 32, "packages": {"numpy": "2.0"}}])
def test_the_header_ends_with_it(storage: Storage, fingerprint: dict[str, Any]) -> None:
    """In the documented order; the key stands for the names and the fingerprint's packages."""
    info = storage.save("w", "t", 1, fingerprint=fingerprint, describe=telling(OWN[::-1] + OWN))
    told = header_of(blob(storage))
    assert ["fingerprint", "run", "own", "value", "key"] == list(told)[-5:]
    text = json.dumps([OWN, fingerprint.get("packages", {})], separators=(",", ":"))
    key = xxh3_64_hexdigest(text.encode())
    assert {"own": OWN, "value": VALUE, "key": key}.items() <= told.items()
    assert (tuple(OWN), VALUE, key) == (info.own, info.value, info.key)
    assert info == storage.task_info("w", "t") == stored(storage).info
    found = stored(storage)
    assert (info.digest, VALUE, key) == (found.digest, found.value, found.key)
    assert fingerprint.get("call", "") == found.call


@pytest.mark.parametrize("describe", [None, telling([], "")])
def test_what_refers_to_nothing_has_empty_fields(storage: Storage, describe: Any) -> None:
    """The value counts by the digest of its bytes; packages alone have a key."""
    info = storage.save("w", "t", 1, describe=describe)
    assert ((), "", "") == (info.own, info.value, info.key)
    assert {"own": [], "value": "", "key": ""}.items() <= header_of(blob(storage)).items()
    assert (info.digest, "") == (stored(storage).value, stored(storage).key)
    packages = {"packages": {"numpy": "2.0"}}
    assert 16 == len(storage.save("w", "t", 1, fingerprint=packages, describe=describe).key)


def test_a_big_result_has_it_too(tmp_path: Path) -> None:
    """Where the digests are made while the bytes are written."""
    storage = FileStorage(tmp_path)
    info = storage.save("w", "t", np.ones(3 << 20), describe=telling())
    assert info == storage.task_info("w", "t")
    assert (tuple(OWN), VALUE, info.key) == (info.own, stored(storage).value, stored(storage).key)


@pytest.mark.parametrize(
    "fingerprint",
    [
        IMITATION,
        {"z": IMITATION},
        {"z": [IMITATION]},
        {"z": {**IMITATION, "value": ""}},
        {**IMITATION, "value": ""},
        {"z": json.dumps(IMITATION)[:-1]},
        {'","value":"' + "f" * 32 + '","key":"' + "f" * 16 + '"}\n': 1},
        {"call": "0" * 32, **IMITATION},
    ],
)
def test_nothing_else_in_a_header_is_taken_for_it(
    storage: Storage, fingerprint: dict[str, Any]
) -> None:
    """Neither in a new header, nor in one of an earlier version, which lacks the fields."""
    told = storage.save("w", "t", 1, fingerprint=fingerprint, describe=telling())
    found = stored(storage)
    assert (told.value, told.key, told) == (found.value, found.key, found.info)
    earlier = header_of(blob(storage))
    rest = blob(storage)[-told.pickle[0] :]
    for name in ("own", "value", "key", "fingerprint"):
        del earlier[name]
    begun = json.dumps(earlier, separators=(",", ":"))[:-1] + ',"fingerprint":'
    encoded = begun + json.dumps(fingerprint, separators=(",", ":")) + "}\n"
    storage.store.put("w/t", [sealed(encoded.encode(), rest)])
    found = stored(storage)
    assert (told.digest, "") == (found.value, found.key)
    assert ((), "", "") == (found.info.own, found.info.value, found.info.key)
    assert 1 == storage.read_task("w", "t")


def test_another_writer_s_order_is_read(storage: Storage) -> None:
    """Fields come in any order."""
    told = header_of(of_pickle(b"N."))
    told = {**told, "key": "f" * 16, "own": OWN, "value": VALUE, "later": 1, "host": "h"}
    storage.store.put("w/t", [sealed(told, b"N.")])
    found = stored(storage)
    assert (VALUE, "f" * 16, tuple(OWN)) == (found.value, found.key, found.info.own)
    names = {"workflow": "w", "task": "t", "value": VALUE, "key": "f" * 16}
    compact = json.dumps({**names, **told}, separators=(",", ":")).encode()
    storage.store.put("w/t", [sealed(compact + b"\n", b"N.")])
    assert (VALUE, "f" * 16) == (stored(storage).value, stored(storage).key)


@pytest.mark.parametrize("wrong", [{"own": [1]}, {"own": 1}, {"value": 1}, {"key": None}])
def test_fields_of_other_types_are_damage(storage: Storage, wrong: dict[str, Any]) -> None:
    """As in the other fields of a header."""
    storage.store.put("w/t", [sealed({**header_of(of_pickle(b"N.")), **wrong}, b"N.")])
    with pytest.raises(DamagedResultError, match="not as specified"):
        storage.task_info("w", "t")


def test_a_signature_covers_it() -> None:
    """Neither names nor digest can be changed without the key."""
    storage = Storage(MemoryStore(), StorageOptions(key="key"))
    storage.save("w", "t", 1, describe=telling())
    told, rest = header_of(blob(storage)), rest_of(blob(storage))
    storage.store.put("w/t", [sealed(told, rest, key=b"key")])
    assert 1 == storage.read_task("w", "t")
    for change in ({"own": ["m:X"]}, {"value": "f" * 32}, {"key": ""}):
        storage.store.put("w/t", [sealed({**told, **change}, rest, key=b"another")])
        with pytest.raises(UntrustedResultError):
            storage.read_task("w", "t")


@pytest.mark.parametrize("wrong", ["raises", "no digest"])
def test_a_value_that_can_t_be_described_is_kept(
    storage: Storage, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And nothing may reuse it, or what was made of it: no fingerprint, and a digest of its own."""

    def describe(obj: Any, pickled: Any) -> tuple[list[str], str]:
        if wrong == "raises":
            raise ZeroDivisionError("no way")
        return [], "no way"

    infos = [
        storage.save("w", "t", [1], fingerprint={"call": "0" * 32}, describe=describe)
        for _ in range(2)
    ]
    assert [1] == storage.read_task("w", "t")
    assert infos[0].digest == infos[1].digest
    assert infos[0].value != infos[1].value
    assert infos[1].value == stored(storage).value
    assert ({}, (), "") == (infos[1].fingerprint, infos[1].own, stored(storage).call)
    assert 2 == caplog.text.count("no way")
    assert "result of task 't' of workflow 'w'" in caplog.text


def test_an_interruption_is_none(storage: Storage) -> None:
    """Only errors are about the value."""

    def describe(obj: Any, pickled: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage.save("w", "t", 1, describe=describe)
    assert [] == storage.list_tasks("w")


def test_side_data_counts_by_its_bytes(tmp_path: Path) -> None:
    """What an object refers to can be equal where what was written of it is not."""
    storage = FileStorage(tmp_path)
    storage.register_persistent_serializers(KeptSerializer)
    info = storage.save("w", "t", [Kept(b"x")], describe=telling())
    assert (tuple(OWN), "") == (info.own, info.value)


def test_a_run_saves_it(tmp_path: Path) -> None:
    """Each of its results tells what it refers to."""
    storage = FileStorage(tmp_path)
    flow = LocalWorkflow(made().set_name("t"), workflow_name="w")
    flow.set_storage(storage)
    flow.run()
    info = storage.task_info("w", "t")
    assert ("described_values:Model",) == info.own
    assert 32 == len(info.value)
    assert info.fingerprint["call"]


@workflow
def made() -> Any:
    return [Model(), {"a", "b"}]


def test_a_plan_s_reading_parses_no_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 2,000 results with an own class each; all of a header is parsed when it is asked for."""
    storage, names = FileStorage(tmp_path), [f"t{number}" for number in range(2000)]
    for name in names:
        fingerprint = {"call": "0" * 32, "packages": {}}
        storage.save("w", name, Model(name), fingerprint=fingerprint, describe=described)
    parsed = []

    class Counting(json.JSONDecoder):
        def raw_decode(self, *arguments: Any) -> Any:
            parsed.append(1)
            return super().raw_decode(*arguments)

    monkeypatch.setattr(header, "_decoder", Counting())
    found = list(storage.task_infos("w", names))
    assert all(isinstance(each, Summary) for each in found)
    assert 1 == len({each.key for each in found})  # type: ignore[union-attr]
    assert 2000 == len({each.value for each in found})  # type: ignore[union-attr]
    assert [] == parsed
    assert ("described_values:Model",) == found[7].info.own  # type: ignore[union-attr]
    assert ("described_values:Model",) == found[7].info.own  # type: ignore[union-attr]
    assert [1] == parsed
