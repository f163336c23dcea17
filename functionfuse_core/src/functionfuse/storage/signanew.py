"""Sign the results and run records of a workflow anew, where they are.

A result is read and put as by a copy, but under its own key. So its digests are checked, each
result is replaced as a whole, and what is signed already is left: a call that was killed can be
made again. Who calls it trusts every byte in the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from ..errors import (
    DamagedResultError,
    OptionsError,
    ResultNotFoundError,
    SerializerMissingError,
)
from .blobstore import Buffer
from .carrying import Carried
from .catalog import is_result, may_hold
from .copying import Copied, Copier, Target
from .header import DIGEST_AT, HEADER_AT, SIGNATURE_AT, SideData, TaskInfo
from .keys import RUNS, folder_of
from .listed import Item, earlier_of, latest_of
from .ours import has_result
from .passing import Passing, encoded_anew
from .pickling import dumps
from .resultfile import aligned
from .results import Reader
from .sidecheck import Blocks, check_side_data
from .sidedata import SideWriter, known_serializer
from .signing import section_hexdigest

__all__ = ["Signed", "sign"]

_ACTIONS = {
    "copied": "signed",
    "replaced": "signed",
    "there already": "signed already",
    "not copied": "not signed",
}


@dataclass(frozen=True, slots=True)
class Signed(Copied):
    """The report of `Storage.sign` on one result, or on one run record.

    The attributes are those of `Copied`. The action is "signed", "signed already", "gone" (removed
    meanwhile) or "not signed"; of a dry run what would be done. `problem` says why it isn't signed.
    """


class Signable(Target, Protocol):
    """A `Storage`, as far as its results are signed."""

    _reader: Reader


def sign(storage: Signable, workflow: str, *, dry_run: bool) -> list[Signed]:
    """Sign the results and run records of a workflow; see `Storage.sign`."""
    if storage._key is None:
        raise OptionsError(f"{storage!r} has no key to sign with: give it the option 'key'")
    store, folder = storage.store, folder_of(workflow)
    blobs = list(store.list(folder))
    inside = (blob.key.removeprefix(folder) for blob in blobs)
    is_ours = has_result(store, folder, (name for name in inside if "/" not in name))
    results = [blob for blob in blobs if is_ours and is_result(blob.key)]
    items = [item for blob in results for item in latest_of(store, workflow, blob)]
    records = [blob for blob in blobs if blob.key.startswith(folder + RUNS)]
    if not items and not records and not is_ours:
        raise ResultNotFoundError(f"no workflow {workflow!r} has results in {storage!r}")
    signer = _Signer(storage, workflow, dry_run=dry_run)
    done = signer.results(sorted(items, key=lambda item: item.task))
    done += signer.results(earlier_of(blobs, folder, {item.task for item in items}))
    done += signer.records(records)
    if not dry_run:
        with signer.named("the results"):
            storage.remember(workflow)
    return [
        Signed(**asdict(report) | {"action": _ACTIONS.get(report.action, report.action)})
        for report in done
    ]


class _Signer(Copier):
    """Copies results of one workflow to their own place, signed."""

    doing = "signing"

    def __init__(self, storage: Signable, workflow: str, *, dry_run: bool) -> None:
        super().__init__(storage, storage, workflow, dry_run=dry_run)
        self._key = None  # whoever signs trusts what is there
        self._names = f"in {storage!r}"
        self._reader = storage._reader.without_key()

    def _is_there(self, item: Item, info: TaskInfo, head: bytes, there: object) -> bool:
        del item, there
        assert self._new_key is not None
        signature, signed = head[SIGNATURE_AT:HEADER_AT], (head[:DIGEST_AT], head[HEADER_AT:])
        return info.strong and self._new_key.has_signed(signature, *signed)

    def _is_second(self, item: Item, info: TaskInfo) -> bool:
        del item, info
        return False

    def _put(self, item: Item, passing: Passing, side_data: Carried, *, looks: bool) -> None:
        del side_data, looks
        info, store = passing.info, self._to
        checked = Blocks(store, signs=True)
        check_side_data(checked, self._folder, info.side_data)
        again = any(map(self._checks_itself, info.side_data))
        parts = self._saved_again(item, passing) if again else self._parts(item, passing, checked)
        if not may_hold(store, item.key, info.token, signed_by=None):
            raise DamagedResultError("another result has replaced it meanwhile")
        store.put(item.key, parts, durable=self._saver.is_durable(info.seconds))

    def _checks_itself(self, side: SideData) -> bool:
        """Return whether the serializer must write its objects again; see `Serializer`."""
        serializer = known_serializer(self._serializers, side)
        if serializer is None:
            raise SerializerMissingError(
                f"a part of it is kept by the serializer {side.serializer!r}"
                f"{f' from {side.distribution}' if side.distribution else ''}, which is neither"
                " installed nor registered here: call storage.sign where it is"
            )
        return bool(getattr(serializer, "checks_itself", False))

    def _saved_again(self, item: Item, passing: Passing) -> Sequence[Buffer]:
        """Read a result, let serializers write their objects again, and return its bytes.

        Its old files stay, because an earlier result may have them, too. `gc` removes them.
        """
        info, store = passing.info, self._to
        for _ in passing.rest():
            pass
        names = info.workflow, info.task
        value = self._reader.read_at(item.key, *names, info.digest, info.call)
        writer = SideWriter(store, self._folder, self._serializers.values(), signed=True)
        try:
            pickled = dumps(value, writer)
            if writer.write_noted():
                pickled = dumps(value, writer)
            sections: list[list[Any]] = [pickled.frames, *([view] for view in pickled.views)]
            found = [(sum(map(len, s)), section_hexdigest(*s, strong=True)) for s in sections]
            by_value = info.by_value or pickled.by_value
            side_data = writer.side_data()
            head = encoded_anew(passing.head, found, side_data, self._new_key, by_value=by_value)
            store.flush(writer.keys())
        except BaseException as error:
            try:
                store.delete(writer.keys())
            except OSError as second:
                error.add_note(f"its side data is left for gc: {second}")
            raise
        rest = aligned(len(head) + found[0][0], pickled.views)
        return [head, *pickled.frames, *rest]
