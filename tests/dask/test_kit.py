"""`DaskArraySerializer` under the conformance kit: HDF5, and zarr in files and in S3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest

from functionfuse.storage import Storage
from functionfuse.storage.filestore import FileStore
from functionfuse.testing import SerializerSuite
from functionfuse_dask import DaskArraySerializer


class Arrays(SerializerSuite):
    reads_at_once = False

    def examples(self) -> list[Any]:
        rng = np.random.default_rng(0)
        numbers = da.from_array(rng.random((20, 10)), chunks=(16, 10))
        return [
            numbers,
            numbers[numbers > 0.5],
            da.ma.masked_greater(numbers, 0.5),
            da.from_array(np.array(["a", "é☃", ""]), chunks=2),
        ]

    def equal(self, one: Any, two: Any) -> bool:
        first, second = one.compute(scheduler="sync"), two.compute(scheduler="sync")
        if (type(first), first.shape, first.dtype) != (type(second), second.shape, second.dtype):
            return False
        if np.ma.isMaskedArray(first) and not np.array_equal(first.mask, second.mask):
            return False
        return np.array_equal(np.ma.getdata(first), np.ma.getdata(second))


class TestHdf5(Arrays):
    @pytest.fixture
    def serializer(self) -> Any:
        return DaskArraySerializer()


class TestZarr(Arrays):
    @pytest.fixture
    def storage(self, serializer: Any, tmp_path: Path) -> Storage:
        storage = Storage(FileStore(str(tmp_path)))
        storage.register_persistent_serializers(serializer)
        return storage

    @pytest.fixture
    def serializer(self) -> Any:
        return DaskArraySerializer(format="zarr")


class TestS3(Arrays):
    """Natively, as zarr."""

    @pytest.fixture
    def serializer(self) -> Any:
        return DaskArraySerializer()

    @pytest.fixture
    def storage(self, serializer: Any, s3_storage: Storage) -> Storage:
        s3_storage.register_persistent_serializers(serializer)
        return s3_storage
