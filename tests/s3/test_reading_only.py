"""Who may only read a bucket gets the values that are stored there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from s3_servers import Server, counted

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.errors import StorageAccessError
from functionfuse_s3 import S3FileStorage

RAN: list[int] = []


@workflow(version="1")
def double(number: int) -> int:
    RAN.append(number)
    return 2 * number


def flow(storage: S3FileStorage, number: int) -> LocalWorkflow:
    last = double(double(number).set_name("first")).set_name("last")
    made = LocalWorkflow(last, workflow_name="w")
    made.set_storage(storage)
    RAN.clear()
    return made


def public(server: Server) -> tuple[S3FileStorage, S3FileStorage]:
    """Return a storage in a bucket that everybody may read, as its owner and as anybody has it."""
    bucket = uuid4().hex
    server.by_hand.create_bucket(Bucket=bucket)
    reading: dict[str, Any] = {"Effect": "Allow", "Principal": "*"}
    where = f"arn:aws:s3:::{bucket}"
    rules = [
        {**reading, "Action": ["s3:ListBucket"], "Resource": where},
        {**reading, "Action": ["s3:GetObject"], "Resource": f"{where}/*"},
    ]
    text = json.dumps({"Version": "2012-10-17", "Statement": rules})
    server.by_hand.put_bucket_policy(Bucket=bucket, Policy=text)
    options = server.options(bucket, max_attempts=1)
    owner = S3FileStorage(**options)
    for name in ("access_key_id", "secret_access_key"):
        del options[name]
    return owner, S3FileStorage(**options, anonymous=True)


def test_an_anonymous_reader(seaweedfs_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Stored values and earlier ones are given, with a line each; nothing else is computed."""
    owner, reader = public(seaweedfs_server)
    for number in (1, 2):
        flow(owner, number).run()
    assert 8 == flow(reader, 2).run()
    assert 4 == flow(reader, 1).run()
    lines = ["the record of run .* can't be stored: .*put object", "2 reused .* the latest again"]
    for line, said in zip(lines, caplog.messages, strict=True):
        assert re.match(line, said)
    caplog.clear()
    with pytest.raises(
        StorageAccessError, match="s3:PutObject, which the bucket doesn't give"
    ) as caught:
        flow(reader, 3).run()
    assert ["up to 2 node(s) of workflow 'w' must be computed"] == caught.value.__notes__
    assert ([], []) == (RAN, caplog.messages)
    assert 8 == owner.read_task("w", "last")


def test_a_run_that_reuses_asks_for_no_right(server: Server, path: str) -> None:
    """It lists and reads, and puts its record; one that computes tries an upload before."""

    def sent_by(run: Callable[[LocalWorkflow], Any], number: int) -> dict[str, int]:
        storage = S3FileStorage(**server.options(path))
        with counted(storage.store.bucket.client) as sent:
            run(flow(storage, number))
            return dict(sent)

    first = sent_by(LocalWorkflow.run, 1)
    probe = {"GetObject": 1, "DeleteObject": 1}
    # The probe, the record and the marker are put, too.
    assert {"ListObjectsV2": 1, "PutObject": 2 + 3, **probe} == first
    assert {"ListObjectsV2": 1, "GetObject": 2 + 1, "PutObject": 1} == sent_by(LocalWorkflow.run, 1)
    again = sent_by(lambda flow: flow.value(flow.leaves[0][0]), 1)
    assert {"ListObjectsV2": 1, "GetObject": 2 + 1} == again
