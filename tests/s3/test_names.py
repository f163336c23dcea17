"""The bucket and the prefix of a path: what is allowed works, and the rest is refused."""

from __future__ import annotations

import numpy as np
import pytest
from s3_servers import BUCKET, Server

from functionfuse import LocalWorkflow, workflow
from functionfuse.errors import OptionsError
from functionfuse.serializers import FILE_PROTOCOL, S3_PROTOCOL
from functionfuse_s3 import S3FileStorage
from functionfuse_s3.options import place_of

LETTERS = " a b+c%2F%zz&=?#;,@!'()*~$:^`{|}[]<>\""
WIDE = "é\u00a0日本👩\u200d🔬\u2028e\u0301"
PREFIXES = ["", "a", f"{LETTERS}/{WIDE} ", "?uploads=/.../a.", "%/+ /s3:"]


@workflow
def add(number: int, more: int) -> int:
    return number + more


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_of_any_letters(server: Server, prefix: str) -> None:
    """All that a storage does works below it, and in the root of a bucket; nothing is left."""
    bucket = f"{BUCKET}-{PREFIXES.index(prefix)}"
    server.by_hand.create_bucket(Bucket=bucket)
    storage = S3FileStorage(**server.options(f"s3://{bucket}/{prefix}" if prefix else bucket))
    actions = []
    for more in (1, 2, 1):  # the last one finds the earlier result again
        flow = LocalWorkflow(add(1, more).set_name("t 1+%"), workflow_name="w?")
        flow.set_storage(storage)
        flow.run()
        actions += [record.action for record in flow.report.nodes]
    assert ["computed", "computed", "reused"] == actions
    storage.save("w?", "absent", [1], if_absent=True)
    with pytest.raises(FileExistsError):
        storage.save("w?", "absent", [2], if_absent=True)
    assert ["w?"] == storage.list_workflows()
    assert ["absent", "t 1+%"] == storage.list_tasks("w?")
    assert {"absent": [1], "t 1+%": 2} == storage.read_tasks("w?", ["absent", "t 1+%"])
    assert {""} == {result.problem for result in storage.verify()}
    _use_side_data(storage)
    storage.remove_task("w?", "absent")
    assert ["t 1+%"] == storage.list_tasks("w?")
    beside = f"{prefix}-beside/w?/t" if prefix else "beside"
    server.by_hand.put_object(Bucket=bucket, Key=beside, Body=b"x")
    storage.remove_workflow("w?")
    left = server.by_hand.list_objects_v2(Bucket=bucket)["Contents"]
    assert [beside] == [entry["Key"] for entry in left if not entry["Key"].endswith("/")]


def _use_side_data(storage: S3FileStorage) -> None:
    """Write files and an array beside results, and have gc remove them: no result has them."""
    zarr = pytest.importorskip("zarr")
    protocols = storage.store.protocols("w%3F/.data/")
    s3, path = protocols[S3_PROTOCOL], f"{protocols[S3_PROTOCOL]['folder']}/f"
    with protocols[FILE_PROTOCOL].open("f", "w") as file:
        file.write("text")
    assert "text" == s3["client"].open(path, "r").read()
    zarr.create_array(s3["zarr_store"]("z?"), data=np.arange(9))
    assert 36 == zarr.open_array(s3["zarr_store"]("z?"), mode="r")[:].sum()
    removed = {leftover.key.partition(".data/")[2] for leftover in storage.gc(-60)}
    assert {"f", "z%3F/zarr.json", "z%3F/c/0"} <= removed


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("bucket/a//b", "the prefix 'a//b': it has '//', and some servers join two slashes"),
        ("bucket/s3://b", "the prefix 's3://b': it has '//'"),
        ("bucket/a/../b", "the prefix 'a/../b': its part '..' is another folder"),
        ("bucket/./b", "the prefix './b': its part '.' is another folder"),
        ("bucket/a\nb/c", r"the prefix 'a\nb/c': its part 'a\nb' has a control character"),
        ("bucket/a/\x85", r"its part '\x85' has a control character"),
        ("bucket/\ud800", r"its part '\ud800' has a control character"),
        ("bucket/a\\b", r"its part 'a\\b' has a backslash, which some servers take for a slash"),
        ("bucket/" + "é" * 150, "the prefix has more than 300 bytes"),
        ("http://bucket/a", "a path like 's3://bucket/prefix' or 'bucket/prefix' is expected"),
        ("a bucket/a", "'a bucket' is no name of a bucket"),
    ],
)
def test_a_wrong_prefix_is_refused_with_its_reason(path: str, told: str) -> None:
    """And its part, when the storage is made; letters that can't be seen are written out."""
    with pytest.raises(OptionsError) as caught:
        S3FileStorage(path)
    assert told in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("path", ["bucket", "bucket/", "/bucket", "s3://bucket", "s3a://bucket/"])
def test_the_root_of_a_bucket(path: str) -> None:
    assert ("bucket", "") == place_of(path)
