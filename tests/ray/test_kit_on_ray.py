"""The kit of backends: both of ours on every kind of storage."""

from __future__ import annotations

from uuid import uuid4

import pytest
from moto.server import ThreadedMotoServer

from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import storage_factory
from functionfuse.testing import BackendSuite
from functionfuse_ray import RayWorkflow

pytestmark = pytest.mark.usefixtures("ray_up")


@pytest.fixture(scope="module")
def bucket():
    """A bucket on a server of S3 in this process, as options."""
    import boto3

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {
        "endpoint_url": f"http://{host}:{port}",
        "region": "us-east-1",
        "access_key_id": "key",
        "secret_access_key": "secret",
    }
    boto3.client(
        "s3",
        endpoint_url=options["endpoint_url"],
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    ).create_bucket(Bucket="tests")
    yield options
    server.stop()


class OnEveryStorage(BackendSuite):
    """What uses a storage runs on each kind."""

    @pytest.fixture(params=["file", "ray", "S3", "sqlite"])
    def storage(self, request, tmp_path):
        kind, options = request.param, {"path": str(tmp_path / "store")}
        if kind == "ray":
            options = {"path": str(request.getfixturevalue("emptied"))}
        elif kind == "S3":
            options = {"path": f"tests/{uuid4()}", **request.getfixturevalue("bucket")}
        return storage_factory({"kind": kind, "options": options})


class TestRayWorkflow(OnEveryStorage):
    """On Ray."""

    @pytest.fixture
    def backend(self):
        return RayWorkflow

    def run(self, workflow):
        return workflow.run(return_results=True)


class TestLocalWorkflow(OnEveryStorage):
    """In this process."""

    @pytest.fixture
    def backend(self):
        return LocalWorkflow
