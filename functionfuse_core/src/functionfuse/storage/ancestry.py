"""Find the results that a stored result was computed from, or those computed from it.

The header of a result records its parents: name, digest and call of each. The digest is that of the
value, and the call tells the latest result of that name from the earlier ones. So the walk follows
a record only to a header that fits both, level by level, and reads no value. Anybody can have
written a header, so nothing is taken for granted about a record's shape.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import FunctionFuseError, ResultNotFoundError
from .blobstore import BlobStore
from .catalog import headers_of, infos_at, infos_of_tasks, segments
from .earlier import keys_of
from .header import TaskInfo
from .keys import EARLIER, earlier_name, folder_of
from .lineage import Key, Lineage, LineageNode
from .signing import Key as SigningKey
from .summary import Summary

__all__ = ["ancestors", "descendants", "node_of"]

logger = logging.getLogger(__name__)

_STEPS = 8  # levels that are read one after the other before the size of the workflow is looked at


class _Ref(NamedTuple):
    """A parent as a record names it; `value` and `call` are "" if it doesn't tell."""

    task: str
    call: str
    value: str

    def fits(self, info: TaskInfo) -> bool:
        """Return whether a header is that of the recorded result."""
        call = self.call in ("", info.call)
        return call and (not self.value or self.value == (info.value or info.digest))


def _refs(info: TaskInfo) -> list[_Ref]:
    """Return the parents in a record: [name, digest, call, recipe], with code in it also a value.

    The digest is that of the value and of the code in it; then the value's own is the fifth item.
    """
    record = info.fingerprint
    parents = record.get("parents")
    found: list[_Ref] = []
    for entry in (*(parents if isinstance(parents, list) else ()), record.get("before")):
        match entry:
            case [str(task), str(), str(call), _, str(value), *_] if task:
                found.append(_Ref(task, call, value))
            case [str(task), str(digest), str(call), *_] if task:
                found.append(_Ref(task, call, digest))
    told = {ref[:2] for ref in found if ref.value}  # the call before a method's has no digest
    return [ref for ref in found if ref.value or (ref.call and ref[:2] not in told)]


class _Headers:
    """The headers that were read, by task and call, and by task and value; and reads more."""

    def __init__(self, store: BlobStore, workflow: str, signed_by: SigningKey | None) -> None:
        self._signed_by = signed_by
        self.notes: dict[str, str] = {}  # by task: what is wrong with its latest result
        self._store, self._workflow = store, workflow
        self._by_call: dict[tuple[str, str], TaskInfo] = {}
        self._by_value: dict[tuple[str, str], TaskInfo] = {}
        self._read: set[object] = set()  # tasks, and references to earlier results
        self._names: list[str] | None = None  # of all latest results
        self._levels = 0

    def add(self, infos: Iterable[TaskInfo]) -> None:
        """Take headers; the first one of a task and call, or of a task and value, counts."""
        for info in infos:
            self._by_call.setdefault((info.task, info.call), info)
            self._by_value.setdefault((info.task, info.value or info.digest), info)

    def find(self, ref: _Ref) -> TaskInfo | None:
        """Return the header of the recorded call; or, if that is unknown, of the value."""
        if ref.call:
            return self._by_call.get((ref.task, ref.call))
        return self._by_value.get((ref.task, ref.value))

    def key(self, ref: _Ref) -> Key:
        """Return the key of a recorded result, whether it is stored or not."""
        info = self.find(ref)
        if info is not None and ref.fits(info):
            return _key(info)
        return ref.task, ref.call, ref.value

    def read(self, refs: Iterable[_Ref]) -> None:
        """Read the latest results of the names, and the earlier ones where those don't fit."""
        refs = list(refs)
        self._levels += 1
        if self._levels > _STEPS and self._store.concurrency > 1:
            self._read_all()
        names = [name for name in dict.fromkeys(ref.task for ref in refs) if self._is_new(name)]
        where, by = (self._store, self._workflow), self._signed_by
        found = infos_of_tasks(*where, names, originals=names, signed_by=by)
        for name, info in zip(names, found, strict=True):
            self._take(name, info)
        self._read_earlier([ref for ref in refs if not self._has(ref) and self._is_new(ref)])

    def _has(self, ref: _Ref) -> bool:
        info = self.find(ref)
        return info is not None and ref.fits(info)

    def _is_new(self, item: object) -> bool:
        new = item not in self._read
        self._read.add(item)
        return new

    def _take(self, name: str, info: Summary | FunctionFuseError | None) -> None:
        try:
            if isinstance(info, Summary):
                self.add([info.info])
        except FunctionFuseError as error:  # the parts that a summary has were in order
            info = error
        if isinstance(info, FunctionFuseError):
            self.notes[name] = str(info)

    def _read_all(self) -> None:
        """Read all latest results at once, if the levels so far took as long as that would.

        One level is one request's time, and so are as many headers as are read at once.
        """
        folder = folder_of(self._workflow)
        if self._names is None:
            self._names = list(segments(self._store, folder))
        if self._names and self._levels > len(self._names) / self._store.concurrency:
            keys = [folder + name for name in self._names]
            headers = headers_of(self._store, keys, signed_by=self._signed_by)
            self.add(info for info in headers.values() if info.task not in self._read)
            self._read.update(info.task for info in headers.values())
            self._names = []

    def _read_earlier(self, refs: Sequence[_Ref]) -> None:
        """Read earlier results; those without a recorded call are found by listing all."""
        folder = folder_of(self._workflow) + EARLIER
        called = [ref for ref in refs if ref.call]
        names = [earlier_name(ref.task, ref.call) for ref in called]
        tasks, where = [ref.task for ref in called], (self._store, self._workflow, folder)
        found = infos_at(*where, names, tasks, signed_by=self._signed_by)
        for ref, info in zip(called, found, strict=True):
            if isinstance(info, Summary) and info.call == ref.call:
                self._take(ref.task, info)
        if tasks_ := [ref.task for ref in refs if not ref.call]:
            keys = keys_of(self._store, self._workflow, tasks_)
            self.add(headers_of(self._store, keys, signed_by=self._signed_by).values())


def ancestors(
    store: BlobStore, workflow: str, task: str, call: str, *, signed_by: SigningKey | None
) -> Lineage:
    """Return the lineage of a result; see `Storage.lineage`.

    Raises as `catalog.info_of` for the result itself.
    """
    headers = _Headers(store, workflow, signed_by)
    start = _start(store, workflow, task, call, signed_by)
    headers.add([start])
    found: dict[Key, TaskInfo | None] = {_key(start): start}
    level = [start]
    while level:
        refs = list(dict.fromkeys(ref for info in level for ref in _refs(info)))
        headers.read(refs)
        level = []
        for ref in refs:
            key = headers.key(ref)
            if key not in found:
                # If only the call fits, it was computed again: code, arguments, parents are alike.
                info = found[key] = headers.find(ref)
                if info is not None:
                    level.append(info)
    return Lineage(_nodes(found, headers), down=False)


def descendants(
    store: BlobStore, workflow: str, task: str, call: str, *, signed_by: SigningKey | None
) -> Lineage:
    """Return the results computed from a result, and from those; reads all headers. As `ancestors`.

    Results whose headers can't be read are left out, and logged.
    """
    start = _start(store, workflow, task, call, signed_by)
    folder = folder_of(workflow)
    keys = [folder + name for name in sorted(segments(store, folder))]
    keys += [f"{folder}{EARLIER}{name}" for name in sorted(store.names(folder + EARLIER))]
    infos = headers_of(store, keys, signed_by=signed_by)
    if lost := [key for key in keys if key not in infos]:
        logger.warning(
            "lineage: the headers of %d result(s) can't be used: %s", len(lost), ", ".join(lost[:5])
        )
    headers = _Headers(store, workflow, signed_by)
    headers.add([start, *infos.values()])
    children: dict[_Ref, list[TaskInfo]] = {}
    for info in infos.values():
        for ref in _refs(info):
            children.setdefault(ref, []).append(info)
    found: dict[Key, TaskInfo | None] = {_key(start): start}
    level = [start]
    while level:
        level, above = [], level
        for info in above:
            for child in _children(info, children):
                if _key(child) not in found:
                    found[_key(child)] = child
                    level.append(child)
    return Lineage(_nodes(found, headers), down=True)


def _children(info: TaskInfo, children: Mapping[_Ref, Sequence[TaskInfo]]) -> Iterator[TaskInfo]:
    """Iterate over the results whose records name a result, with or without its call and value."""
    value, call = info.value or info.digest, info.call
    for known in ((call, value), ("", value), (call, "")):
        yield from children.get(_Ref(info.task, *known), ())


def _start(
    store: BlobStore, workflow: str, task: str, call: str, signed_by: SigningKey | None
) -> TaskInfo:
    """Return the header of the latest result, or of the one with a call."""
    [latest] = infos_of_tasks(store, workflow, [task], originals=[task], signed_by=signed_by)
    if isinstance(latest, Summary) and call in ("", latest.call):
        return latest.info
    if not call:
        raise latest if isinstance(latest, FunctionFuseError) else ResultNotFoundError(task)
    folder = folder_of(workflow) + EARLIER
    names = [earlier_name(task, call)]
    [found] = infos_at(store, workflow, folder, names, [task], signed_by=signed_by)
    if isinstance(found, Summary) and found.call == call:
        return found.info
    raise found if isinstance(found, FunctionFuseError) else ResultNotFoundError(task)


def _nodes(found: Mapping[Key, TaskInfo | None], headers: _Headers) -> list[LineageNode]:
    """Return the nodes of a lineage.

    The call before a method's is recorded without a digest. If its result is gone, and another
    record tells the digest, it is one node.
    """
    same = {key[:2]: key for key in found if key[1] and key[2]}
    whole = {key: key if key[2] else same.get(key[:2], key) for key in found}
    nodes = []
    for key, info in found.items():
        if whole[key] != key:
            continue
        if info is None:
            note = headers.notes.get(key[0])
            nodes.append(LineageNode(*key, note=f"not stored: {note}" if note else "not stored"))
            continue
        parents = (headers.key(ref) for ref in _refs(info))
        keys = tuple(dict.fromkeys(whole.get(parent, parent) for parent in parents))
        nodes.append(_node(key, info, keys))
    return nodes


def _node(key: Key, info: TaskInfo, parents: tuple[Key, ...]) -> LineageNode:
    record, arguments, note = info.fingerprint, {}, ""
    given = record.get("arguments")
    for name, entry in given.items() if isinstance(given, dict) else ():
        match entry:
            case [str(text), str(digest), *_]:
                is_file = text.startswith(
                    "File("
                )  # the name of a `File`, which may have another content
                arguments[name] = f"{text} {digest}" if is_file else text or digest
    if "call" not in record and not parents:
        note = _text(record.get("why not")) or "stored without a fingerprint"
    code = _text(record.get("code"))
    known = LineageNode(*key, info.function, code, arguments, parents)
    if key != _key(info):
        return known
    return known._replace(
        created=info.created, seconds=info.seconds, run=info.run, stored=True, note=note
    )


def node_of(info: TaskInfo) -> LineageNode:
    """Return what a header alone tells about its result; parents are named as it records them."""
    return _node(_key(info), info, tuple((ref.task, ref.call, ref.value) for ref in _refs(info)))


def _key(info: TaskInfo) -> Key:
    return info.task, info.call, info.digest


def _text(value: Any) -> str:
    """Return a text from a record; "" for anything else."""
    return value if isinstance(value, str) else ""
