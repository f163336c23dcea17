"""Credentials of our own options are in no stored object, whatever a function returns or raises."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from s3_servers import BUCKET, Server

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import UnpicklableResultError
from functionfuse.serializers import S3_PROTOCOL
from functionfuse_s3 import S3FileStorage

KEY = "KEY-THAT-SIGNS"

_own = threading.local()  # the storage under test: a function that reads it hides nothing in it


@workflow
def give(make: Callable[[S3FileStorage], Any]) -> Any:
    return make(_own.storage)


@workflow
def pass_on(value: Any) -> Any:
    return value


class HoldsError(Exception):
    """An error that holds what it is given."""


def lazy(storage: S3FileStorage) -> Any:
    """Return a dataset of xarray that is read from our own zarr store when it is used."""
    xr = pytest.importorskip("xarray")
    store = protocol(storage)["zarr_store"]("in.zarr")
    xr.Dataset({"t": ("x", [1.0, 2.0])}).to_zarr(store, consolidated=False, zarr_format=3)
    return xr.open_zarr(store, consolidated=False, chunks=None)


def protocol(storage: S3FileStorage) -> dict[str, Any]:
    found: dict[str, Any] = storage.store.protocols("w/.data/")[S3_PROTOCOL]
    return found


def graph(storage: S3FileStorage) -> Any:
    """Return a dask array that a storage has read; its graph has the store."""
    da = pytest.importorskip("dask.array")
    storage.save("arrays", "t", da.arange(20, chunks=5))
    return storage.read_task("arrays", "t")


def fails(storage: S3FileStorage) -> Any:
    raise HoldsError(storage, storage.store.bucket.options, protocol(storage))  # type: ignore[attr-defined]


REFUSED: dict[str, Callable[[S3FileStorage], Any]] = {
    "storage": lambda storage: storage,
    "store": lambda storage: [storage.store],
    "bucket": lambda storage: storage.store.bucket,  # type: ignore[attr-defined]
    "options": lambda storage: {"o": storage.store.bucket.options},  # type: ignore[attr-defined]
    "secret": lambda storage: storage.store.bucket.options.secret_access_key,  # type: ignore[attr-defined]
    "client": lambda storage: protocol(storage)["client"],
    "zarr_store": lambda storage: protocol(storage)["zarr_store"]("x"),
    "protocols": lambda storage: storage.store.protocols("w/"),
    "method": lambda storage: protocol(storage)["zarr_store"],
    "bound": lambda storage: storage.read_task,
    "closure": lambda storage: lambda: storage,
    "error": HoldsError,
    "flow": lambda storage: set_up(LocalWorkflow(workflow_name="x"), storage),
    "frame": lambda storage: graph(storage).reshape(10, 2).to_dask_dataframe(columns=["a", "b"]),
    "delayed": lambda storage: graph(storage).to_delayed().tolist(),
    "graph": lambda storage: graph(storage).dask,
    "raised": fails,
}
STORED: dict[str, Callable[[S3FileStorage], Any]] = {
    "text": lambda storage: [repr(storage), str(storage.store.bucket.options)],  # type: ignore[attr-defined]
    "array": graph,
    "xarray": lazy,
    "table": lambda storage: storage.runs("w"),
}


def set_up(flow: LocalWorkflow, storage: S3FileStorage) -> LocalWorkflow:
    flow.set_storage(storage)
    return flow


@pytest.mark.parametrize(
    ("older", "stored"), [(False, list(STORED)), (True, ["text"])], ids=["newer names", "older"]
)
def test_no_stored_object_has_a_secret(
    moto_server: Server, path: str, stored: list[str], *, older: bool
) -> None:
    """Not a result, header, record, side data, nor the record of an error, in either spelling."""
    refused = ("options", "secret", "closure") if older else tuple(REFUSED)
    secrets = moto_server.access_key, moto_server.secret_key, KEY
    if older:
        given: dict[str, Any] = {
            "s3fs": {
                "key": moto_server.access_key,
                "secret": moto_server.secret_key,
                "endpoint_url": moto_server.url,
            },
            "path": path,
        }
    else:
        given = moto_server.options(path)
    storage = _own.storage = S3FileStorage(**given, key=KEY)
    nodes = [
        give(make).set_name(name)  # type: ignore[attr-defined]
        for name, make in {**REFUSED, **STORED}.items()
        if name in (*refused, *stored)
    ]
    taken = [pass_on(storage).set_name("argument"), pass_on([storage.store]).set_name("store too")]  # type: ignore[attr-defined]
    flow = set_up(LocalWorkflow(*nodes, *taken, workflow_name="w"), storage)
    with pytest.raises((UnpicklableResultError, HoldsError)):
        flow.run(keep_going=True)
    assert set(stored) == set(storage.list_tasks("w"))
    if "xarray" in stored:
        assert [1.0, 2.0] == storage.read_task("w", "xarray")["t"].values.tolist()
    page = flow.report
    assert not any(secret in f"{page!r}{page}" for secret in secrets)
    found = list(storage.store.list(""))
    assert len(found) > len(stored)
    for blob in found:
        body = moto_server.by_hand.get_object(
            Bucket=BUCKET, Key=f"{path.partition('/')[2]}/{blob.key}"
        )["Body"].read()
        assert not any(secret.encode() in body for secret in secrets), blob.key
