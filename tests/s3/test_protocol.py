"""The client that serializers get: boto3's, with `open` for files that belong to the result."""

from __future__ import annotations

import pickle
from contextlib import suppress
from typing import Any

import pytest
from s3_servers import BUCKET, Server

from functionfuse.errors import DamagedResultError, SerializerError
from functionfuse.serializers import FILE_PROTOCOL, S3_PROTOCOL, generate_name
from functionfuse.storage.blobstore import StagedFiles
from functionfuse_s3 import S3FileStorage

KEY = "a key of the test's own"


class Table:
    def __init__(self, text: str, name: str = "") -> None:
        self.text = text
        self.name = name


class TableSerializer:
    """A serializer as it was written for the file system of s3fs."""

    name = "table"
    serializer_class = Table

    @classmethod
    def pickle(cls, obj: Table, protocols: Any) -> tuple[str, str]:
        s3, name = protocols[S3_PROTOCOL], obj.name or generate_name()
        with s3["client"].open(f"{s3['folder']}/{name}", "wb") as file:
            file.write(obj.text.encode())
            if obj.text == "half":
                raise LookupError("half of it is written")
        return cls.name, name

    @classmethod
    def unpickle(cls, pid: str, protocols: Any) -> Table:
        s3 = protocols[S3_PROTOCOL]
        with s3["client"].open(f"s3://{s3['folder']}/{pid}", "r") as file:
            return Table(file.read())

    @classmethod
    def remove(cls, pid: str, protocols: Any) -> None:
        protocols[FILE_PROTOCOL].remove(pid)


@pytest.fixture(params=[None, KEY], ids=["without a key", "with a key"])
def storage(request: pytest.FixtureRequest, moto_server: Server, path: str) -> S3FileStorage:
    found = S3FileStorage(**moto_server.options(path, key=request.param))
    found.register_persistent_serializers(TableSerializer)
    return found


def side_keys(storage: S3FileStorage) -> list[str]:
    return [blob.key for blob in storage.store.list("w/.data/")]


def test_a_file_belongs_to_its_result(storage: S3FileStorage) -> None:
    """It is in the header with its digest; gc leaves it, and it is removed with the result."""
    storage.save("w", "t", [Table("first"), Table("größe")])
    found = storage.read_task("w", "t")
    assert ["first", "größe"] == [table.text for table in found]
    files = [file for side in storage.task_info("w", "t").side_data for file in side.files]
    assert [5, 7] == [size for _, size, _ in files]
    assert sorted(f"w/.data/{name}" for name, *_ in files) == side_keys(storage)
    assert [] == storage.gc(-60)
    assert [""] == [result.problem for result in storage.verify()]
    storage.remove_task("w", "t")
    assert [] == side_keys(storage)


def test_altered_bytes_are_found(storage: S3FileStorage) -> None:
    """By `verify` always, and by a read if the results are signed."""
    storage.save("w", "t", Table("first"))
    storage.store.put(side_keys(storage)[0], [b"other"])
    assert all(result.problem for result in storage.verify())
    if storage._key is not None:
        with pytest.raises(DamagedResultError):
            storage.read_task("w", "t")


def test_an_error_stores_no_half_file(storage: S3FileStorage) -> None:
    """Neither the file whose writing fails, nor the result."""
    with pytest.raises(SerializerError, match="half of it"):
        storage.save("w", "t", Table("half"))
    assert [] == side_keys(storage)
    assert not storage.file_exists("w", "t")


def test_a_name_that_is_taken(storage: S3FileStorage) -> None:
    """A file of another result is not replaced."""
    storage.save("w", "t", Table("first", name="same"))
    with pytest.raises(SerializerError, match="'same' is taken"):
        storage.save("w", "u", Table("other", name="same"))
    assert "first" == storage.read_task("w", "t").text


@pytest.mark.parametrize("mode", ["wb", "w"])
def test_closing_stores_and_an_error_does_not(server: Server, path: str, mode: str) -> None:
    """Also in text; nothing is stored before."""
    storage = S3FileStorage(**server.options(path))
    s3 = storage.protocols[S3_PROTOCOL]
    data: Any = "text" if mode == "w" else b"text"
    with suppress(LookupError), s3["client"].open(f"{path}/f", mode) as file:
        file.write(data)
        raise LookupError
    assert [] == list(storage.store.list(""))
    with s3["client"].open(f"/{path}/f", mode) as file:
        file.write(data)
        assert [] == list(storage.store.list(""))
    assert b"text" == s3["client"].open(f"{path}/f").read()
    with pytest.raises(FileNotFoundError):
        s3["client"].open(f"{path}/missing")


@pytest.mark.parametrize("path", ["{}", "{}/", "{}-beside/f", "other/f", "f", "x/{}/f"])
def test_a_path_elsewhere_is_refused(moto_server: Server, path: str) -> None:
    storage = S3FileStorage(**moto_server.options(f"{BUCKET}/p"))
    client = storage.protocols[S3_PROTOCOL]["client"]
    for mode in ("rb", "wb"):
        with pytest.raises(ValueError, match="is not in the folder of side data, 'tests/p'"):
            client.open(path.format(f"{BUCKET}/p"), mode)


def test_all_else_is_boto3s_client(moto_server: Server, path: str) -> None:
    """The one of this process, which can't be pickled."""
    storage = S3FileStorage(**moto_server.options(path))
    protocol = storage.store.protocols("w/.data/")[S3_PROTOCOL]
    ours, boto3s = protocol["client"], storage.store.bucket.client
    assert ours.meta is boto3s.meta
    assert ours.exceptions.NoSuchKey is boto3s.exceptions.NoSuchKey
    bucket, _, prefix = protocol["folder"].partition("/")
    ours.put_object(Bucket=bucket, Key=f"{prefix}/by-hand", Body=b"x")
    assert b"x" == ours.open(f"{protocol['folder']}/by-hand").read()
    with pytest.raises(AttributeError, match="no_such"):
        ours.no_such  # noqa: B018
    for thing in (ours, protocol):
        with pytest.raises((TypeError, AttributeError), match="pickle"):
            pickle.dumps(thing)


def test_files_are_the_stores_own_without_a_storage(moto_server: Server, path: str) -> None:
    store = S3FileStorage(**moto_server.options(path)).store
    protocols = store.protocols("w/.data/")
    with protocols[S3_PROTOCOL]["client"].open(f"{path}/w/.data/f", "wb") as file:
        file.write(b"x")
    files = protocols[FILE_PROTOCOL]
    assert isinstance(files, StagedFiles)
    assert {"f"} == files.digests.keys()


class Raw(TableSerializer):
    """Writes with boto3's client, in a folder that it has claimed."""

    @classmethod
    def pickle(cls, obj: Table, protocols: Any) -> tuple[str, str]:
        s3, name = protocols[S3_PROTOCOL], generate_name()
        protocols[FILE_PROTOCOL].claim(name)
        bucket, _, folder = s3["folder"].partition("/")
        key = f"{folder}/{name}/part"
        s3["client"].put_object(Bucket=bucket, Key=key, Body=obj.text.encode())
        return cls.name, name


def test_objects_in_a_claimed_folder_belong_to_the_result(moto_server: Server, path: str) -> None:
    storage = S3FileStorage(**moto_server.options(path))
    storage.register_persistent_serializers(Raw)
    storage.save("w", "t", Table("first"))
    assert 1 == len(side_keys(storage))
    assert [] == storage.gc(-60)
    storage.store.put(side_keys(storage)[0], [b"other"])
    assert all(result.problem for result in storage.verify())
    storage.remove_task("w", "t")
    assert [] == side_keys(storage)
