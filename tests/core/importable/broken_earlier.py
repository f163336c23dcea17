"""Storages that break one promise about earlier results each; see `broken_stores.py`."""

from __future__ import annotations

from dataclasses import replace

from kit_plugins import DictStore

from functionfuse.storage import Storage
from functionfuse.storage.catalog import beside, headers_of
from functionfuse.storage.keys import key_of

__all__ = ["EARLIER"]


class HidesEarlier(DictStore):
    """Lists no earlier results."""

    def list(self, prefix):
        return (blob for blob in super().list(prefix) if "/.earlier/" not in blob.key)


class KeepsTheLatest(DictStore):
    """Takes the latest result for the one that it is asked to restore."""

    def copy(self, key, to):
        if "/.earlier/" not in key:
            super().copy(key, to)


class Older(Storage):
    """A sound storage on a sound store, whose parts others exchange."""

    def __init__(self) -> None:
        super().__init__(DictStore())


class NeverGoesBack(Older):
    """Finds no earlier results for a plan."""

    def earlier_results(self, workflow_name):
        return None


class RestoresNothing(Older):
    """Reuses an earlier result, and leaves the latest as it is."""

    def restore(self, workflow_name, tasks):
        return {}


class OldestFirst(Older):
    """Lists earlier results in the order in which they were made."""

    def earlier(self, workflow_name, task_name):
        return super().earlier(workflow_name, task_name)[::-1]


class IgnoresCalls(Older):
    """Reads the latest result, whichever call it is asked for."""

    def read_task(self, workflow_name, task_name, *, call=""):
        return super().read_task(workflow_name, task_name)


class CollectsTooMuch(Older):
    """Takes side data for a leftover if no latest result refers to it."""

    def gc(self, *options, **more):
        found = super().gc(*options, **more)
        latest = [key_of("w", task) for task in self.list_tasks("w")]
        used = str(headers_of(self.store, latest, signed_by=None))
        blobs = self.store.list("w/.data/")
        self.store.delete([blob.key for blob in blobs if blob.key.rpartition("/")[2] not in used])
        return found


class PrunesOnATrial(Older):
    """A dry run is none."""

    def prune(self, *names, dry_run=False, **limits):
        return super().prune(*names, **limits)


class PrunesTheLatest(Older):
    """Removes a pruned result's side data, whatever else refers to it."""

    def prune(self, workflow_name, **limits):
        keys = [blob.key for blob in self.store.list("w/.earlier/")]
        headers = headers_of(self.store, keys, signed_by=None)
        found = super().prune(workflow_name, **limits)
        for left in found:
            self.store.delete(beside(self.store, "w/", headers[left.key]))
        return found


class LeavesSideData(Older):
    """Prunes the blobs, and not the files beside them."""

    def prune(self, *names, **limits):
        blobs = [(blob.key, self.store.get(blob.key)) for blob in self.store.list("w/.data/")]
        found = super().prune(*names, **limits)
        for key, data in blobs:
            self.store.put(key, [data])
        return found


class CountsAllAsOne(Older):
    """Measures earlier results with the others."""

    def du(self, *names):
        found = super().du(*names)
        return [replace(usage, size=usage.size + usage.earlier, earlier=0) for usage in found]


class ChecksTheLatest(Older):
    """Doesn't check earlier results."""

    def verify(self, *names):
        return [record for record in super().verify(*names) if not record.call]


class RemovesTheLatest(Older):
    """Removes the latest result of a task, and leaves the earlier ones."""

    def remove_task(self, workflow_name, task_name=None, pattern=None):
        kept = [(blob.key, self.store.get(blob.key)) for blob in self.store.list("w/.earlier/")]
        super().remove_task(workflow_name, task_name, pattern)
        for key, data in kept:
            self.store.put(key, [data])


EARLIER: list[type[DictStore | Older]] = [
    HidesEarlier,
    KeepsTheLatest,
    NeverGoesBack,
    RestoresNothing,
    OldestFirst,
    IgnoresCalls,
    CollectsTooMuch,
    PrunesOnATrial,
    PrunesTheLatest,
    LeavesSideData,
    CountsAllAsOne,
    ChecksTheLatest,
    RemovesTheLatest,
]
