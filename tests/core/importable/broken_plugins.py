"""Serializers and backends that break one promise each."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from kit_plugins import Table, Tables

from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.serializers import FILE_PROTOCOL, generate_name
from functionfuse.storage import Storage


class OneName(Tables):
    """Writes every table into the same file."""

    def pickle(self, obj: Table, protocols: dict[str, Any]) -> tuple[str, Any]:
        with protocols[FILE_PROTOCOL].open("table", "wb") as file:
            file.write(json.dumps({"rows": obj.rows}).encode())
        return self.name, "table"


class LosesTypes(Tables):
    """Keeps numbers as text."""

    def unpickle(self, pid: Any, protocols: dict[str, Any]) -> Table:
        rows = super().unpickle(pid, protocols).rows
        return Table([[str(cell) for cell in row] for row in rows])


class Remembers(Tables):
    """Keeps in memory what it should store."""

    def __init__(self) -> None:
        self.seen: dict[str, Table] = {}

    def __reduce__(self) -> Any:
        return type(self), ()

    def pickle(self, obj: Table, protocols: dict[str, Any]) -> tuple[str, Any]:
        name, pid = super().pickle(Table([]), protocols)
        self.seen[pid] = obj
        return name, pid

    def unpickle(self, pid: Any, protocols: dict[str, Any]) -> Table:
        return self.seen[pid]


class ReadsWhatItFinds(Tables):
    """Makes something of any file."""

    def unpickle(self, pid: Any, protocols: dict[str, Any]) -> Table:
        try:
            return super().unpickle(pid, protocols)
        except ValueError:
            return Table([])


class PidOfItsOwn(Tables):
    """What it returns names a class of its own."""

    def pickle(self, obj: Table, protocols: dict[str, Any]) -> tuple[str, Any]:
        name, pid = super().pickle(obj, protocols)
        return name, Path(pid)

    def unpickle(self, pid: Any, protocols: dict[str, Any]) -> Table:
        return super().unpickle(str(pid), protocols)

    def remove(self, pid: Any, protocols: dict[str, Any]) -> None:
        super().remove(str(pid), protocols)


class LeavesFiles(Tables):
    """Leaves a local file behind."""

    def pickle(self, obj: Table, protocols: dict[str, Any]) -> tuple[str, Any]:
        with tempfile.NamedTemporaryFile(delete=False) as file:
            file.write(b"a copy on the way")
        return super().pickle(obj, protocols)


class LeavesOpen(Tables):
    """Doesn't close what it reads."""

    opened: list[Any] = []  # noqa: RUF012

    def unpickle(self, pid: Any, protocols: dict[str, Any]) -> Table:
        self.opened.append(protocols[FILE_PROTOCOL].open(pid, "rb"))
        return super().unpickle(pid, protocols)


class AnotherNameEachTime(Tables):
    """Its name is made with the instance."""

    def __init__(self) -> None:
        self.name = generate_name()

    def __reduce__(self) -> Any:
        return type(self), ()


class ChangesTheValue(Tables):
    """Takes out of the value what it stores."""

    def pickle(self, obj: Table, protocols: dict[str, Any]) -> tuple[str, Any]:
        stored = super().pickle(obj, protocols)
        obj.rows = []
        return stored


class RemovesNothing(Tables):
    """Leaves what it should remove."""

    def remove(self, pid: Any, protocols: dict[str, Any]) -> None:
        pass


class ComputesAlways(LocalWorkflow):
    """Takes no stored result."""

    def __init__(self, *nodes: object, workflow_name: str) -> None:
        super().__init__(*nodes, workflow_name=workflow_name)
        self._policy = "never"


class TakesWhateverIsThere(LocalWorkflow):
    """Takes stored results by name alone."""

    def __init__(self, *nodes: object, workflow_name: str) -> None:
        super().__init__(*nodes, workflow_name=workflow_name)
        self._policy = "always"


class ReturnsAnyway(LocalWorkflow):
    """Returns when something has failed."""

    def run(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().run(*arguments, **options)
        except (LookupError, OSError, TypeError):
            return None


class _Quiet(Storage):
    def save(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().save(*arguments, **options)
        except OSError:
            return super().save(*arguments[:2], None, **options)


class LosesWhatDoesNotFit(LocalWorkflow):
    """Doesn't tell of a failed save."""

    def set_storage(self, storage: Any) -> None:
        super().set_storage(storage)
        if isinstance(storage, Storage):
            self.storage = _Quiet(storage.store)


class SwallowsInterrupts(LocalWorkflow):
    """Returns None after Ctrl-C."""

    def run(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().run(*arguments, **options)
        except KeyboardInterrupt:
            return None


class TriesAgain(LocalWorkflow):
    """Calls a function that failed a second time, unasked."""

    def run(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().run(*arguments, **options)
        except LookupError:
            return super().run(*arguments, **options)


class NoPlugins(LocalWorkflow):
    """Doesn't run node plugins where the node runs."""

    def run(self, *arguments: Any, **options: Any) -> Any:
        for node, plugins in self._plugins.items():
            for plugin in plugins:
                plugin.local_initialize()
            self._plugins[node] = ()
        return super().run(*arguments, **options)


SERIALIZERS = [
    OneName,
    LosesTypes,
    Remembers,
    ReadsWhatItFinds,
    PidOfItsOwn,
    LeavesFiles,
    LeavesOpen,
    AnotherNameEachTime,
    ChangesTheValue,
    RemovesNothing,
]
BACKENDS = [
    ComputesAlways,
    TakesWhateverIsThere,
    ReturnsAnyway,
    LosesWhatDoesNotFit,
    SwallowsInterrupts,
    TriesAgain,
    NoPlugins,
]
