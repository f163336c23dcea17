"""Ray is started once, with two CPUs, for all tests here that need it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import pytest

FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
IMPORTABLE = str(Path(__file__).parent / "importable")

if IMPORTABLE not in sys.path:
    sys.path.insert(0, IMPORTABLE)

LATE = "timed out during startup"
STARTED = {
    "address": "local",  # not the cluster of somebody else on this machine
    "num_cpus": 2,
    "include_dashboard": False,
    "object_store_memory": 160 << 20,
    "log_to_driver": False,
    "resources": {"disk": 1, "api": 1, "away": 1},
}


@pytest.fixture(scope="session")
def ray_folder() -> Iterator[str]:
    """A temporary folder for Ray, where the address of one that has gone still stands."""
    with TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        (Path(folder) / "ray").mkdir()
        (Path(folder) / "ray" / "ray_current_cluster").write_text("127.0.0.1:9")
        yield folder


@pytest.fixture(scope="session")
def ray_up(ray_folder) -> Iterator[None]:
    """Have Ray up for the tests of this folder, which follow each other."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", ray_folder)
        patch.setenv("PYTHONPATH", IMPORTABLE)  # for the workers
        for left in reversed(range(5)):
            try:
                ray.init(**STARTED)
                break
            except Exception as error:
                # It gives itself 30 seconds, whatever else the machine does.
                ray.shutdown()
                if not left or LATE not in str(error):
                    raise
    yield
    ray.shutdown()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Stop Ray after the last test here: its processes look into its log files all the time."""
    if nextitem is not None and nextitem.path.parent != item.path.parent and "ray" in sys.modules:
        import ray

        ray.shutdown()


@pytest.fixture(scope="session")
def folder(ray_up, tmp_path_factory):
    """One folder and one server for all: a server takes a second to start."""
    return tmp_path_factory.mktemp("kept") / "store"


@pytest.fixture
def emptied(folder):
    """Empty the folder, past the store."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


@pytest.fixture(scope="session")
def bucket():
    """A bucket on a server of S3 in this process, as options."""
    import boto3
    from moto.server import ThreadedMotoServer

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


@pytest.fixture
def storage(tmp_path):
    """A storage of files."""
    from functionfuse.storage import storage_factory

    return storage_factory({"kind": "file", "options": {"path": str(tmp_path / "store")}})


@pytest.fixture
def notes(tmp_path):
    """A folder for `remember` and `noted`."""
    folder = tmp_path / "notes"
    folder.mkdir()
    return str(folder)


# Out of the battery, these run on every kind of storage, and the other tests on files.
ON_EACH = {"test_every_result_is_stored", "test_backends_reuse_each_others_results"}
ON_EACH |= {"test_a_damaged_result", "test_a_run_on_two_nodes"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give tests that ask for `each_storage` the kinds."""
    if "each_storage" in metafunc.fixturenames:
        others = ["ray", "S3", "sqlite"] if FULL or metafunc.function.__name__ in ON_EACH else []
        kinds = ["file", *[pytest.param(kind, marks=pytest.mark.battery) for kind in others]]
        metafunc.parametrize("each_storage", kinds, indirect=True)


@pytest.fixture
def each_storage(request, tmp_path):
    """An empty storage of one kind."""
    from functionfuse.storage import storage_factory

    kind, options = request.param, {"path": str(tmp_path / "store")}
    if kind == "ray":
        options = {"path": str(request.getfixturevalue("emptied"))}
    elif kind == "S3":
        options = {"path": f"tests/{uuid4()}", **request.getfixturevalue("bucket")}
    return storage_factory({"kind": kind, "options": options})
