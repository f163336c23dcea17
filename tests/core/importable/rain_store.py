"""A storage with two settings of a small workflow, and two records; and what commands show of it.

Times and digests are masked: see `masked`.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest

from functionfuse.storage import resultfile

__all__ = ["CALLS", "DOCUMENTS", "RUNS", "TEXTS", "fill", "fixed", "head", "masked"]

CALLS = {name: f"{name.encode().hex():0<32}" for name in ("load", "old", "new", "err")}
RUNS = "20260131T120000.000000Z-000001", "20260201T120000.000000Z-000002"

DIGEST, TIME = "d" * 32, "2026-01-01T00:00:00.000000Z"  # in masked texts

_TIME = re.compile(r"\d{4}-\d\d-\d\d([ T])\d\d:\d\d:\d\d(\.\d{6}Z)?")
_DIGEST = re.compile(r"\b[0-9a-f]{32}\b|\b[0-9a-f]{8}\b")


def fixed(patch: pytest.MonkeyPatch) -> None:
    """Let headers have the same size on each machine."""
    tokens = itertools.count()
    patch.setattr(resultfile, "_HOST", "vm")
    patch.setattr(resultfile, "PYTHON", "3.11.7")
    patch.setattr(resultfile, "unique", lambda: f"{next(tokens):020x}")


def fill(storage: Any) -> None:
    """Save the workflow "rain" as runs do: the second setting replaces results of the first."""
    load = storage.save("rain", "load", [3.0, 4.0], **_about("load", 0.0114, {"days": "2"}))
    for name, weight, seconds, run in (("old", "0.2", 1.25, 0), ("new", "0.5", 1.5, 1)):
        parents = [["load", load.digest, load.call, load.call]]
        arguments = {"weight": weight, "rain": ""}
        about = _about(name, seconds, arguments, parents=parents, run=RUNS[run])
        smooth = storage.save("rain", "smooth", [float(weight)], **about)
    parents = [["smooth", smooth.digest, smooth.call, smooth.call], *parents]
    about = _about("err", 0.139, {"levels": ""}, parents=parents, run=RUNS[1])
    storage.save("rain", "score/error", 2.03, **about)
    storage.save("by hand", "t", "text")
    first = {"name": ["load", "smooth"], "action": ["computed", "computed"]}
    first |= {"reason": ["nothing stored", "nothing stored"], "seconds": [0.0114, 1.25]}
    first |= {"bytes": [812, 901], "arguments": [{"days": 2}, {"weight": 0.2}]}
    first |= {"call": [CALLS["load"], CALLS["old"]], "digest": ["d" * 32, "e" * 32]}
    storage.record_run("rain", head(0, 1.3, None), first)
    second = {"name": ["load", "smooth", "score/error"]}
    second |= {"action": ["reused", "computed", "failed"], "seconds": [0.0, 1.5, 0.139]}
    second |= {"reason": ["", "argument 'weight' changed (0.2 → 0.5)", "ValueError: it rains"]}
    second |= {"bytes": [812, 901, 0], "arguments": [{"days": 2}, {"weight": 0.5}, {}]}
    second |= {"call": [CALLS["load"], CALLS["new"], ""], "digest": ["d" * 32, "f" * 32, ""]}
    error = {"type": "ValueError", "text": "it rains", "node": "score/error"}
    storage.record_run("rain", head(1, 75.2, error), second)


def masked(text: str) -> str:
    """Replace times and digests by others of the same length, but not those of `CALLS`."""

    def time(found: re.Match[str]) -> str:
        return TIME.replace("T", found[1])[: len(found[0])]

    text = _TIME.sub(time, text)
    calls = *CALLS.values(), *(call[:8] for call in CALLS.values())
    return _DIGEST.sub(lambda found: found[0] if found[0] in calls else "d" * len(found[0]), text)


def _about(
    name: str, seconds: float, arguments: dict[str, str], parents: Any = (), run: str = RUNS[0]
) -> dict[str, Any]:
    function = {"old": "smooth", "new": "smooth", "err": "error"}.get(name, name)
    fingerprint = {"call": CALLS[name], "recipe": CALLS[name], "parents": [*parents]}
    fingerprint |= {"before": None, "rule": 2, "python": "3.11", "function": f"forecast.{function}"}
    fingerprint |= {"code": "c" * 32, "uses": {}, "globals": {}, "packages": {}}
    fingerprint["arguments"] = {key: [text, "a" * 16] for key, text in arguments.items()}
    about = {"function": f"forecast.{function}", "seconds": seconds, "run": run}
    return about | {"fingerprint": fingerprint}


def head(number: int, seconds: float, error: Any) -> dict[str, Any]:
    head = {"id": RUNS[number], "workflow": "rain", "seconds": seconds, "error": error}
    head |= {"started": f"2026-0{number + 1}-01T12:00:00.000000Z", "user": "ada", "host": "vm"}
    return head | {"python": "3.11.7", "commit": "", "backend": "in process"}


# By command; the words in quotation marks are one.
TEXTS = {
    "list": """\
WORKFLOW  RESULTS    SIZE  EARLIER
by hand         1   476 B      0 B
rain            3  4.2 kB    968 B
""",
    "list r*": """\
WORKFLOW  RESULTS    SIZE  EARLIER
rain            3  4.2 kB    968 B
""",
    "list rain": """\
TASK           SIZE    TIME  COMPUTED (UTC)       TYPE
load          826 B   11 ms  2026-01-01 00:00:00  list
score/error  1.1 kB  139 ms  2026-01-01 00:00:00  float
smooth        967 B   1.5 s  2026-01-01 00:00:00  list
""",
    "list rain s*r": """\
TASK           SIZE    TIME  COMPUTED (UTC)       TYPE
score/error  1.1 kB  139 ms  2026-01-01 00:00:00  float
""",
    "show rain smooth --call 6f": """\
task      smooth
workflow  rain
result    earlier
function  forecast.smooth
computed  2026-01-01 00:00:00 UTC
time      1.2 s
size      968 B
type      builtins.list
digest    dddddddddddddddddddddddddddddddd
call      6f6c6400000000000000000000000000
run       20260131T120000.000000Z-000001
python    3.11.7 on vm

ARGUMENT  TEXT OR DIGEST
weight    0.2
rain      aaaaaaaaaaaaaaaa

PARENT  CALL      DIGEST
load    6c6f6164  dddddddd
""",
    "show 'by hand' t --value": """\
task          t
workflow      by hand
result        latest
computed      2026-01-01 00:00:00 UTC
size          476 B
type          builtins.str
digest        dddddddddddddddddddddddddddddddd
python        3.11.7 on vm
not reusable  stored without a fingerprint

VALUE
'text'
""",
    "earlier rain": """\
TASK     SIZE   TIME  COMPUTED (UTC)       CALL
smooth  968 B  1.2 s  2026-01-01 00:00:00  6f6c6400000000000000000000000000
""",
    "earlier rain smooth": """\
TASK     SIZE   TIME  COMPUTED (UTC)       CALL
smooth  968 B  1.2 s  2026-01-01 00:00:00  6f6c6400000000000000000000000000
""",
    "earlier rain load": "No earlier results of task 'load'.\n",
    "lineage rain score/error": """\
score/error  139 ms
├─ smooth    1.5 s
│  └─ load   11 ms
└─ load      (above)
""",
    "lineage rain load --down": """\
load                  11 ms
├─ score/error        139 ms
├─ smooth [6e657700]  1.5 s
│  └─ score/error     (above)
└─ smooth [6f6c6400]  1.2 s
""",
    "lineage rain smooth --call 6f": """\
smooth   1.2 s
└─ load  11 ms
""",
    "runs rain": """\
RUN                              TIME  NODES                           ERROR
20260131T120000.000000Z-000001  1.3 s  2 computed
20260201T120000.000000Z-000002   75 s  1 reused, 1 computed, 1 failed  ValueError in 'score/error'
""",
    "runs rain --last 1": """\
RUN                             TIME  NODES                           ERROR
20260201T120000.000000Z-000002  75 s  1 reused, 1 computed, 1 failed  ValueError in 'score/error'
""",
    "runs 'by hand'": "No runs of workflow 'by hand'.\n",
    "runs rain --run -1": """\
run       20260201T120000.000000Z-000002
workflow  rain
started   2026-01-01 00:00:00 UTC
time      75 s
by        ada on vm
python    3.11.7
backend   in process
error     ValueError in 'score/error': it rains

NODE         ACTION      TIME   SIZE  REASON
load         reused            812 B
smooth       computed   1.5 s  901 B  argument 'weight' changed (0.2 → 0.5)
score/error  failed    139 ms         ValueError: it rains
""",
    "runs rain --compare 20260131 -1": """\
before  20260131T120000.000000Z-000001
after   20260201T120000.000000Z-000002

load         action            computed  →  reused
smooth       argument  weight  0.2       →  0.5
smooth       result            dddddddd  →  dddddddd
score/error  action                      →  failed
""",
}

_SMOOTH = {"seconds": 1.25, "created": TIME, "type": "builtins.list", "digest": DIGEST}
_LOAD = {"task": "load", "call": CALLS["load"], "digest": DIGEST}
_BEGUN = {"started": TIME, "user": "ada", "host": "vm", "python": "3.11.7", "commit": ""}
_FIRST = {"run": RUNS[0], "seconds": 1.3, **_BEGUN, "backend": "in process", "error": None}
_FIRST |= {"actions": {"computed": 2}}
_NODE = {"begun": 0.0, "worker": "", "attempts": 0, "parents": [], "function": "", "code": ""}
_NODE |= {"plugins": [], "action": "computed", "reason": "nothing stored", "digest": DIGEST}
_NODE |= {"value": DIGEST}

DOCUMENTS: dict[str, dict[str, Any]] = {
    "list": {
        "workflows": [
            {"workflow": "by hand", "results": 1, "bytes": 476, "earlier_bytes": 0},
            {"workflow": "rain", "results": 3, "bytes": 4201, "earlier_bytes": 968},
        ]
    },
    "list rain l*": {
        "workflow": "rain",
        "tasks": [
            {"task": "load", "bytes": 826, "seconds": 0.0114, "created": TIME}
            | {"type": "builtins.list", "digest": DIGEST}
        ],
    },
    "show rain smooth --call 6f6c64 --value": {
        "workflow": "rain",
        "task": "smooth",
        "earlier": True,
        "bytes": 968,
        **_SMOOTH,
        "side_bytes": 0,
        "function": "forecast.smooth",
        "call": CALLS["old"],
        "run": RUNS[0],
        "python": "3.11.7",
        "host": "vm",
        "packages": {},
        "by_value": False,
        "signed": False,
        "not_reusable": "",
        "side_data": [],
        "arguments": {"weight": "0.2", "rain": "a" * 16},
        "parents": [_LOAD],
        "fingerprint": {
            "call": CALLS["old"],
            "recipe": CALLS["old"],
            "before": None,
            "rule": 2,
            "parents": [["load", DIGEST, CALLS["load"], CALLS["load"]]],
            "python": "3.11",
            "function": "forecast.smooth",
            "code": DIGEST,
            "uses": {},
            "globals": {},
            "packages": {},
            "arguments": {"weight": ["0.2", "a" * 16], "rain": ["", "a" * 16]},
        },
        "value": "[0.2]",
    },
    "earlier rain": {
        "workflow": "rain",
        "earlier": [{"task": "smooth", "call": CALLS["old"], "bytes": 968, **_SMOOTH}],
    },
    "lineage rain smooth --call 6f": {
        "workflow": "rain",
        "task": "smooth",
        "down": False,
        "nodes": [
            {"task": "smooth", "call": CALLS["old"], "digest": DIGEST, "stored": True, "note": ""}
            | {"function": "forecast.smooth", "code": DIGEST, "created": TIME, "seconds": 1.25}
            | {"run": RUNS[0], "arguments": {"weight": "0.2", "rain": "a" * 16}}
            | {"parents": [_LOAD]},
            {**_LOAD, "function": "forecast.load", "code": DIGEST, "arguments": {"days": "2"}}
            | {"parents": [], "created": TIME, "seconds": 0.0114, "run": RUNS[0]}
            | {"stored": True, "note": ""},
        ],
    },
    "runs rain": {
        "workflow": "rain",
        "runs": [
            _FIRST,
            {"run": RUNS[1], "seconds": 75.2, **_BEGUN, "backend": "in process"}
            | {"error": {"type": "ValueError", "text": "it rains", "node": "score/error"}}
            | {"actions": {"reused": 1, "computed": 1, "failed": 1}},
        ],
    },
    "runs rain --run -2": {
        "workflow": "rain",
        **_FIRST,
        "nodes": [
            {**_NODE, "node": "load", "seconds": 0.0114, "bytes": 812, "call": CALLS["load"]}
            | {"arguments": {"days": 2}},
            {**_NODE, "node": "smooth", "seconds": 1.25, "bytes": 901, "call": CALLS["old"]}
            | {"arguments": {"weight": 0.2}},
        ],
    },
    "runs rain --compare -2 -1": {
        "workflow": "rain",
        "before": RUNS[0],
        "after": RUNS[1],
        "changes": [
            {"node": "load", "what": "action", "name": "", "before": "computed", "after": "reused"},
            {"node": "smooth", "what": "argument", "name": "weight", "before": 0.2, "after": 0.5},
            {"node": "smooth", "what": "result", "name": "", "before": DIGEST, "after": DIGEST},
            {"node": "score/error", "what": "action", "name": "", "before": "", "after": "failed"},
        ],
    },
}
