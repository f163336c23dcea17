"""The check of a cluster, before a run computes its first node.

The driver puts a token into the storage, and sends one small task to each node of the cluster on
which a node of the graph can run. The task compares versions, reads the token through the storage,
tries whether it may write there, and compares the code of the graph's functions. Each worker
process does this once more, except for the code, before its first job: a process can have another
environment, and a cluster can grow. So the driver puts the token again and again, in case that a
`gc` removes it. It is removed when the run ends.

The task goes to workers by value, because what a worker has can be older, or lack.
"""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Callable, Sequence
from math import inf
from os import urandom
from threading import Thread
from time import monotonic
from typing import Any

import ray
from ray.exceptions import NodeDiedError, RayError, RayTaskError, TaskUnschedulableError
from ray.experimental import internal_kv
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from functionfuse.backends import Job, Packer, outcome_of
from functionfuse.errors import (
    CodeDiffersError,
    OptionsError,
    PluginError,
    WorkerDiedError,
)
from functionfuse.run.packing import pack
from functionfuse.storage.blobstore import BlobStore
from functionfuse.storage.keys import LEASES, folder_of, unique

from .examining import SHIP, Token, kept_at, look, versions
from .tasks import APART, Remote

__all__ = ["Check"]

logger = logging.getLogger(__name__)

_PATIENCE = 15.0  # seconds until a warning says which nodes have not answered
_GRACE = 1.0  # seconds between two looks at the answers: one error waits so long for others
_LATE = 10.0  # seconds for which workers look for the token, if they don't find it at once
_BIG = 64 << 10  # bytes; more goes into Ray's object store, once for all nodes
_MOST = 1 << 20  # bytes of one function

_NONE = Token("", "", b"", 0)  # for a storage without a `BlobStore`

_told: set[str] = set()  # warnings


_look = ray.remote(look)


class Check:
    """The check of the cluster for one run.

    Args:
        run: the key of the run in Ray's key-value store.
    """

    def __init__(self, run: bytes) -> None:
        self._run = run
        self._has_begun = False
        self._store: BlobStore | None = None
        self._token = _NONE
        self._renewing: Thread | None = None

    def begin(
        self,
        storage: Any,
        workflow_name: str,
        jobs: Sequence[Job],
        packer: Packer,
        remote_of: Callable[[Job], Remote],
    ) -> None:
        """Check all nodes on which jobs can run; see `Backend`.

        Args:
            packer: of the run.
            remote_of: returns how Ray runs a job. May raise OptionsError.

        Raises:
            StorageError: a node sees another storage than the driver, or can't use it; it has the
                class of the worker's own error, which is the cause.
            PluginError: a node lacks a module.
            CodeDiffersError: a node has other code, or another version of Function Fuse or Python.
            WorkerDiedError: the process died in which a node was checked.
        """
        token = None if storage is None else self._put(storage, workflow_name)
        self._has_begun = True
        expected, modules = versions(), _modules()
        internal_kv._internal_kv_put(kept_at(self._run), pickle.dumps((expected, token)))
        opens = b"" if storage is None else pack(storage, APART)
        packed = [_packed(job, packer) for job in jobs]
        remotes = [_allowed(remote_of, job) for job in jobs]
        heads: dict[tuple[int, ...], Any] = {}
        asked: dict[Any, Any] = {}
        nodes: Any = ray.nodes()  # type: ignore[no-untyped-call]
        for node in nodes:
            alive = node["Alive"]
            fitting = tuple(at for at, each in enumerate(remotes) if alive and _fits(each, node))
            if fitting:
                head = heads.get(fitting)
                if head is None:
                    code = [each for at in fitting if (each := packed[at])]
                    head = pickle.dumps((self._run, token, code), 5)
                    head = heads[fitting] = ray.put(head) if len(head) > _BIG else head
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                task = _look.options(num_cpus=0, scheduling_strategy=there)
                asked[task.remote(expected, modules, head, opens)] = node
        self._take(asked)

    def renew(self) -> None:
        """Put the token again, as a `gc` may have removed it; to be called every few seconds.

        A thread does it, for a storage that can't be reached must not hold up the run.
        """
        if self._store is not None and not (self._renewing and self._renewing.is_alive()):
            self._renewing = Thread(target=self._put_again, args=[self._store], daemon=True)
            self._renewing.start()

    def _put_again(self, store: BlobStore) -> None:
        try:
            store.put(self._token.key, [self._token.content])
        except Exception as error:  # noqa: BLE001  # it may be over the next time
            logger.info("the blob %r can't be put again: %r", self._token.key, error)

    def lose(self) -> None:
        """Leave the token where it is: the storage can't be reached, and an attempt takes long."""
        self._store = None

    def end(self) -> None:
        """Remove the token. An error of the store is logged: the results are right anyway."""
        store, self._store = self._store, None
        if self._has_begun:
            try:
                internal_kv._internal_kv_del(kept_at(self._run))
            except Exception as error:  # noqa: BLE001  # Ray has gone, with all that it kept
                logger.info("Ray's key of the run can't be removed: %r", error)
        if store is None:
            return
        if self._renewing:
            self._renewing.join()  # or it could put the token after the end
        try:
            try:
                store.delete([self._token.key])
            except PermissionError:
                store.put(self._token.key, [b""])  # as a lease: `gc` removes it
        except Exception as error:  # noqa: BLE001
            logger.warning("the blob %r can't be removed: %r", self._token.key, error)

    def _put(self, storage: Any, workflow_name: str) -> Token:
        """Put a token into the storage."""
        store = getattr(storage, "store", None)
        if not isinstance(store, BlobStore):
            kind = type(getattr(storage, "storage", storage)).__qualname__
            if kind not in _told:
                _told.add(kind)
                logger.warning(
                    "the storage of class %r can't be checked on the nodes of the Ray cluster. Each"
                    " worker has a copy of it: results that it keeps in its memory are lost",
                    kind,
                )
            return _NONE
        folder = folder_of(workflow_name)
        key = f"{folder}{LEASES}.check-{unique()}"
        token = Token(folder, key, urandom(16).hex().encode(), _LATE)
        store.put(token.key, [token.content])
        self._store, self._token = store, token
        return token

    def _take(self, asked: dict[Any, Any]) -> None:
        """Wait for the answers of all nodes, and raise the first error that is in one.

        An error doesn't wait for nodes that answer late, or never. Their tasks are not cancelled:
        if one ends just then, Ray aborts this process.
        """
        until = monotonic() + _PATIENCE
        while asked:
            ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=_GRACE)
            refused = [error for each in ready if (error := _answer(each, asked.pop(each)))]
            if refused:
                for error in refused[1:6]:
                    refused[0].add_note(f"also: {error}")
                if len(refused) > 6:
                    refused[0].add_note(f"and {len(refused) - 6} more nodes")
                raise refused[0]
            if late and monotonic() >= until:
                until = inf
                logger.warning(
                    "%d node(s) of the Ray cluster have not answered the check of this run for %g"
                    " s, and it waits for them: %s. Ray may be setting up a 'runtime_env' there,"
                    " or the storage doesn't answer",
                    *(len(late), _PATIENCE, ", ".join(_name(asked[each]) for each in late[:10])),
                )


def _name(node: Any) -> str:
    return f"{node['NodeManagerHostname']!r} ({node['NodeManagerAddress']})"


def _packed(job: Job, packer: Packer) -> list[Any]:
    """Return a packed job; [] if it can't be packed, which will be the error of its node.

    Also [] if its function carries much data, or what only Ray can carry, such as references. That
    is compared before its first call.
    """
    try:
        packed = packer.pack(job)
    except Exception:  # noqa: BLE001
        return []
    stands_apart = type(packed[-1]) is dict
    return [] if stands_apart or sum(map(len, packed[:2])) > _MOST else packed


def _allowed(remote_of: Callable[[Job], Remote], job: Job) -> Remote | None:
    """Return how Ray runs a job; None if it refuses that, which will be the error of its node."""
    try:
        return remote_of(job)
    except OptionsError:
        return None


def _fits(remote: Remote | None, node: Any) -> bool:
    """Return whether a job can run on a node of the cluster, as far as this is known beforehand.

    False if the job's options tell of another environment or place. Its worker is checked later.
    """
    if remote is None:
        return False
    options = remote.options
    if any(options.get(name) for name in ("runtime_env", "label_selector", "placement_group")):
        return False
    strategy = options.get("scheduling_strategy")
    if isinstance(strategy, NodeAffinitySchedulingStrategy):
        if not strategy.soft and strategy.node_id != node["NodeID"]:
            return False
    elif strategy is not None and not isinstance(strategy, str):
        return False
    return all(amount <= node["Resources"].get(name, 0) for name, amount in remote.needs.items())


def _modules() -> dict[str, str]:
    """Return the versions of all packages that are loaded here."""
    found = {}
    for name, module in list(sys.modules.items()):
        if "." not in name and name not in sys.stdlib_module_names:
            version = getattr(module, "__dict__", {}).get("__version__")
            if isinstance(version, str):
                found[name] = version
    return found


def _answer(task: Any, node: Any) -> Exception | None:
    """Return the error that a node has found; None if all is well, or the node is gone."""
    name = f"node {_name(node)} of the Ray cluster"
    try:
        different, lacking, rest, hints = ray.get(task)
    except (NodeDiedError, TaskUnschedulableError):
        logger.info("%s was lost before it was checked", name)
        return None
    except RayTaskError as error:
        return _caused(PluginError(f"{name} can't begin a check: {error.cause!r}. {SHIP}"), error)
    except RayError as error:
        text = str(error).strip()
        return _caused(WorkerDiedError(f"the check of {name} came to no end: {text}"), error)
    if lacking:
        return PluginError(f"{name} can't compute: {lacking}. {SHIP}")
    if different:
        text = ", ".join(
            f"{what} {there or 'missing'} (the driver has {here})"
            for what, (here, there) in different.items()
        )
        return CodeDiffersError(f"{name} has other versions: {text}; nothing was computed. {SHIP}")
    told = ", ".join(f"{what} {there} (here {here})" for what, (here, there) in hints.items())
    outcomes = [outcome_of(0, each) for each in rest]
    if outcomes:
        found, *causes = (each.error for each in outcomes)
        assert isinstance(found, Exception)
        del found.__notes__  # tracebacks of a worker that has called no function
        if told:
            found.add_note(f"versions differ there, which may be the reason: {told}")
        return _caused(found, *filter(None, causes)) if causes else found
    if told and told not in _told:
        _told.add(told)
        logger.warning("%s has other versions than the driver: %s", name, told)
    return None


def _caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error
