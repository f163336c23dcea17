"""`DaskArraySerializer` under the conformance kit of serializers: HDF5, compressed HDF5, zarr."""

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
        numbers = da.from_array(rng.random((40, 30)), chunks=(16, 10))
        return [
            numbers,
            numbers[numbers > 0.5],
            da.ma.masked_greater(numbers, 0.5),
            da.from_array(np.array(["a", "é☃", ""] * 5), chunks=4),
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
