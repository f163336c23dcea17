"""Runs nodes of all forms, of this script and of modules, on processes of one kind.

Prints what was computed for another reason than that nothing was stored, and what is not reused
afterwards; then the number of workflows that are stored.
"""

from __future__ import annotations

import enum
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from loky import ProcessPoolExecutor as Loky

import worker_zoo.forms
from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage.filestorage import FileStorage
from worker_zoo import forms, nodes

OFFSET = 5
CACHE = {}
SCALES = {"a": forms.twice}


@dataclass
class Own(forms.Model):
    more: int = 3
    others: list[int] = field(default_factory=list)


class Level(enum.Enum):
    LOW = 1


def own(x):
    return forms.plain(x) + OFFSET


@workflow
def of_script(x):
    return own(x) + worker_zoo.forms.cached(x) + Level.LOW.value + Own(x).predict(1)


@workflow
def caching(x):
    CACHE[x] = SCALES["a"](x)
    return len(CACHE)


@workflow
def importing(x):
    import worker_zoo.nodes as module
    from worker_zoo.forms import LIMIT

    return module.helper(x) + LIMIT


@workflow
@forms.traced
def traced(x):
    return x


@workflow
class Memory:
    def __init__(self):
        self.model = Own(1.0)

    def predict(self, x):
        return self.model.predict(x) + forms.LIMIT


def build():
    """Return nodes of what this script defines."""
    memory = Memory()
    return {
        "of script": of_script(1),
        "caching": caching(1),
        "caching again": caching(2),
        "importing": importing(2),
        "traced": traced(1),
        "object": memory.predict(1),
        "object again": memory.predict(2),
        "takes own": nodes.takes(Own(2), Level.LOW, own),
    }


@contextmanager
def pool_of(kind):
    if kind == "dask":
        from distributed import Client, LocalCluster

        one = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
        with LocalCluster(**one) as cluster, Client(cluster) as client:
            yield client.get_executor()
    elif kind == "loky":
        with Loky(1) as pool:
            yield pool
    else:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(kind)) as pool:
            yield pool


def main(kind, path):
    storage = FileStorage(path)
    with pool_of(kind) as pool:
        for name, node in {**nodes.build(), **build()}.items():
            flow = LocalWorkflow(node, workflow_name=name)
            flow.set_storage(storage)
            flow.run(pool)
            for record in flow.report.nodes:
                if record.reason not in ("nothing stored", "an object is never stored", ""):
                    print(name, record)
            if "compute" == flow.plan().nodes[-1].action:
                print(name, flow.plan())
    print(len(storage.list_workflows()))


if __name__ == "__main__":
    main(*sys.argv[1:])
