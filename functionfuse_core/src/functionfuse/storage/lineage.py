"""`Lineage`: a stored result and those it was computed from; and the headers as a table."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, overload

from ..errors import FunctionFuseError
from ..show.texts import duration, table
from .blobstore import BlobStore
from .catalog import infos_of_tasks, tasks
from .header import TaskInfo
from .keys import folder_of
from .runtable import frame_of
from .signing import Key as SigningKey

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Key", "Lineage", "LineageNode", "frame"]

logger = logging.getLogger(__name__)

_COLUMNS = ["task", "function", "created", "seconds", "bytes", "type", "digest", "call", "run"]
_DEEPEST, _MOST = 40, 200  # of a drawing: levels and lines

Key = tuple[str, str, str]  # task, call and digest of a result


class LineageNode(NamedTuple):
    """A result in a lineage.

    Attributes:
        task: the name it was saved under.
        call: the digest of its call, for `read_task`; "" if it isn't known.
        digest: the digest of its value.
        function: module and qualified name of its function.
        code: the digest of the code.
        arguments: by name of the parameter: the text of a short literal; the name of a `File`, and
            a digest; otherwise a digest.
        parents: task, call and digest of each result that it was computed from, for a method also
            of the call before it on the same object.
        created: the time it was saved: ISO 8601, UTC.
        seconds: the run time of its function; None if it isn't known.
        run: the id of the run that saved it; "" if it isn't known.
        stored: whether it is stored. Otherwise the records of its children tell task, call and
            digest. The rest is known only if another result of the same call is stored.
        note: why its parents aren't known, or that it isn't stored; "" otherwise.
    """

    task: str
    call: str
    digest: str
    function: str = ""
    code: str = ""
    arguments: Mapping[str, str] = {}  # never changed
    parents: tuple[Key, ...] = ()
    created: str = ""
    seconds: float | None = None
    run: str = ""
    stored: bool = False
    note: str = "not stored"

    @property
    def key(self) -> Key:
        """Task, call and digest, as in `parents` of others; no two in a lineage are equal."""
        return self.task, self.call, self.digest


class Lineage(Sequence[LineageNode]):
    """A result, then its ancestors, nearest first; or its descendants. Prints as a tree.

    Attributes:
        down: whether the others are its descendants.
    """

    def __init__(self, nodes: Sequence[LineageNode], *, down: bool) -> None:
        self.down = down
        self._nodes = tuple(nodes)

    @overload
    def __getitem__(self, index: int) -> LineageNode: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LineageNode]: ...
    def __getitem__(self, index: int | slice) -> LineageNode | Sequence[LineageNode]:
        return self._nodes[index]

    def __len__(self) -> int:
        return len(self._nodes)

    def __str__(self) -> str:
        """Draw a tree; each result once, up to a number of levels and lines."""
        rows, drawn = self._rows()
        left = len(self) - drawn
        return table(rows) + (f"\n… and {left:,} more" if left else "")

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from ..show.notebook import block, drawing

        of = f"{self[0].task!r}, and {len(self) - 1:,} result{'' if len(self) == 2 else 's'}"
        way = "computed from it" if self.down else "that it was computed from"
        return block(f"{of} {way}", drawing(str(self)))

    def _rows(self) -> tuple[list[tuple[str, str]], int]:
        """Return branch and name, and the text beside it, of each line; and how many are drawn."""
        known = {node.key: node for node in self}
        after: dict[Key, list[Key]] = {key: [] for key in known}
        for node in self:
            for parent in node.parents:
                if parent in known:
                    above, below = (parent, node.key) if self.down else (node.key, parent)
                    after[above].append(below)
        names = Counter(node.task for node in self)
        drawn: set[Key] = set()
        rows: list[tuple[str, str]] = []
        # What is drawn next is last: the result, the branch in front of it, that of its children.
        stack = [(self[0].key, "", "")]
        while stack and len(rows) < _MOST:
            key, branch, indent = stack.pop()
            node = known[key]
            name = node.task
            if names[node.task] > 1 and node.call:
                name += f" [{ascii(node.call)[1:9]}]"
            if key in drawn:
                rows.append((branch + name, "(above)"))
                continue
            drawn.add(key)
            rows.append((branch + name, _beside(node)))
            children = after[key] if len(indent) < 3 * _DEEPEST else []
            for number, child in enumerate(reversed(children)):
                ends, goes_on = ("├─ ", "│  ") if number else ("└─ ", "   ")
                stack.append((child, indent + ends, indent + goes_on))
        return rows, len(drawn)


def _beside(node: LineageNode) -> str:
    """Return the text beside a result in a drawing."""
    note = f"({node.note})" if node.note else ""
    return "  ".join(filter(None, (duration(node.seconds), note)))


def frame(store: BlobStore, workflow: str, *, signed_by: SigningKey | None) -> pd.DataFrame:
    """Return the headers of a workflow's latest results as a table; see `Storage.to_frame`."""
    names = tasks(store, folder_of(workflow))
    rows = []
    infos = infos_of_tasks(store, workflow, names, signed_by=signed_by)
    for name, info in zip(names, infos, strict=True):
        try:
            if isinstance(info, FunctionFuseError):
                raise info
            if info is not None:
                rows.append(_row(info.info))
        except FunctionFuseError as error:
            logger.warning("the result of task %r is not in the table: %s", name, error)
    found = frame_of(rows, _COLUMNS)
    import pandas as pd

    created = pd.to_datetime(found["created"], utc=True, format="ISO8601", errors="coerce")
    return found.assign(created=created)


def _row(info: TaskInfo) -> tuple[object, ...]:
    size = info.size + info.side_size
    about = info.function, info.created, info.seconds, size, info.type, info.digest
    return info.task, *about, info.call, info.run
