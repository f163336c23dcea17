"""A dask array of 64 MiB to S3, on a SeaweedFS server of our own: ours and zarr through obstore."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import dask
import dask.array as da
import numpy as np
from obstore.store import S3Store
from zarr.storage import ObjectStore

from functionfuse_s3 import S3FileStorage
from pairs import time_pair
from table import Row, at_least

sys.path.append(str(Path(__file__).parents[1] / "tests" / "s3" / "importable"))

from s3_servers import BUCKET, Server, seaweedfs, weed  # found by the line above

SIZE = 64 << 20
CHUNKS = 8
ROUNDS = 7


def measure() -> Iterator[Row]:
    if weed() is None:
        return
    dask.config.set(scheduler="threads", num_workers=2)
    with seaweedfs() as server:
        yield written(server)


def written(server: Server) -> Row:
    count = SIZE // 8
    array = da.from_array(np.random.default_rng(0).random(count), chunks=count // CHUNKS)
    storage = S3FileStorage(**server.options(f"{BUCKET}/ours"))

    def to_zarr() -> None:
        store = S3Store(
            BUCKET,
            prefix=f"peer/{uuid.uuid4()}",
            endpoint=server.url,
            access_key_id=server.access_key,
            secret_access_key=server.secret_key,
            region="us-east-1",
            client_options={"allow_http": True},
            virtual_hosted_style_request=False,
        )
        da.to_zarr(array, ObjectStore(store))

    pair = time_pair(lambda: storage.save("bench", "array", array), to_zarr, rounds=ROUNDS)
    return at_least("write 64 MiB: da.to_zarr through obstore / ours", 0.7, pair)
