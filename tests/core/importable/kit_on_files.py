"""The kit of blob stores on files, looked at past the store."""

from __future__ import annotations

from pathlib import Path

from functionfuse.storage.blobstore import BlobStore
from functionfuse.testing import BlobStoreSuite


class OnFiles(BlobStoreSuite):
    """The helpers of the kit read and write the files themselves."""

    def raw_get(self, store: BlobStore, key: str) -> bytes | None:
        path = Path(store.root, key)  # type: ignore[attr-defined]
        return path.read_bytes() if path.is_file() else None

    def raw_put(self, store: BlobStore, key: str, data: bytes) -> None:
        path = Path(store.root, key)  # type: ignore[attr-defined]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def raw_keys(self, store: BlobStore) -> list[str]:
        root = Path(store.root)  # type: ignore[attr-defined]
        keys = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
        return sorted(key for key in keys if "/.tmp-" not in f"/{key}")

    def leftovers(self, store: BlobStore) -> list[str]:
        return [path.name for path in Path(store.root).rglob(".tmp-*")]  # type: ignore[attr-defined]
