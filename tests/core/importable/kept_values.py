"""A value that a serializer keeps in a file beside the result, and the serializer."""

from __future__ import annotations

from typing import Any

from functionfuse.serializers import FILE_PROTOCOL, generate_name


class Kept:
    def __init__(self, data: bytes) -> None:
        self.data = data


class KeptSerializer:
    """Writes one file for each `Kept`."""

    name = "kept"
    serializer_class = Kept

    @staticmethod
    def pickle(obj: Kept, protocols: dict[str, Any]) -> tuple[str, str]:
        pid = generate_name()
        with protocols[FILE_PROTOCOL].open(pid, "wb") as file:
            file.write(obj.data)
        return KeptSerializer.name, pid

    @staticmethod
    def unpickle(pid: str, protocols: dict[str, Any]) -> Kept:
        with protocols[FILE_PROTOCOL].open(pid) as file:
            return Kept(file.read())

    @staticmethod
    def remove(pid: str, protocols: dict[str, Any]) -> None:
        protocols[FILE_PROTOCOL].remove(pid)
