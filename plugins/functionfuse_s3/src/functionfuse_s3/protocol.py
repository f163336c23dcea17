"""`S3Protocol`: what serializers get besides files, to read and write objects by themselves."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

from functionfuse.errors import PluginError
from functionfuse.storage import BlobStore
from functionfuse.storage.keys import segment_of

from .bucket import Bucket

if TYPE_CHECKING:
    from .zarrstore import ZarrStore

__all__ = ["S3Protocol"]


class S3Protocol(dict[str, Any]):
    """A client, the folder of the side data, and a function that returns stores for zarr.

    Args:
        store, bucket: the blob store and its bucket.
        folder: the key prefix of the side data; empty, or it ends in "/".
        files: the file protocol for this folder.
    """

    def __init__(self, store: BlobStore, bucket: Bucket, folder: str, files: Any) -> None:
        self._bucket = bucket
        where = f"{bucket.name}/{bucket.prefix}{folder}".rstrip("/")

        def zarr_store(name: str) -> ZarrStore:
            """Return the zarr store of a name, any text, in the folder."""
            return _zarr_store(store, bucket, f"{folder}{segment_of(name)}/")

        super().__init__(folder=where, zarr_store=zarr_store)
        self.use_files(files)

    def use_files(self, files: Any) -> None:
        """Have the client open files through another file protocol; see `SafeFiles.offer`."""
        self["client"] = _Client(self._bucket, self["folder"], files)


class _Client:
    """This process's client of boto3, with `open` for files in the folder.

    Older serializers call `open` of a file system of the package s3fs. A file that is written so is
    one of the result's, like those of the file protocol.
    """

    def __init__(self, bucket: Bucket, folder: str, files: Any) -> None:
        self._bucket = bucket
        self._folder = folder
        self._files = files

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bucket.client, name)

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a client of boto3 can't be pickled")

    def open(self, path: str, mode: str = "rb") -> IO[Any]:
        """Open a file in the folder by its path, "bucket/prefix/name", as the file protocol does.

        Closing a file that is written stores it, unless an error ends its `with`.

        Raises:
            FileNotFoundError: there is no such file to read.
            ValueError: the path is not in the folder, or the mode is for appending or updating.
        """
        name = path.removeprefix("s3://").lstrip("/").removeprefix(f"{self._folder}/")
        if not name or not path.endswith(f"{self._folder}/{name}"):
            raise ValueError(f"{path!r} is not in the folder of side data, {self._folder!r}")
        found: IO[Any] = self._files.open(name, mode)
        return found


def _zarr_store(store: BlobStore, bucket: Bucket, folder: str) -> ZarrStore:
    try:
        from .zarrstore import ZarrStore
    except ImportError as error:
        raise PluginError(
            f"zarr can't be imported: {error}. Install it: pip install functionfuse-s3[zarr]"
        ) from error
    return ZarrStore(store, bucket, folder)
