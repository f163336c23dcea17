"""Random graphs as data, which edits change; `test_reuse_property.py` runs them.

Their functions are compiled anew from their source for each run, as in a new process.
"""

from __future__ import annotations

import copy
import sys
from contextlib import suppress
from types import ModuleType

from functionfuse import workflow
from functionfuse.errors import DamagedResultError, NewerFormatError
from functionfuse.storage import Storage
from functionfuse.storage.catalog import info_of

# The code of a project. Results are small numbers, so that they often stay equal.

SOURCE = """
import functools
import operator

TABLE = {{"a": {table}, "b": [1, {table}]}}
calls = []

def flat(value):
    if isinstance(value, dict):
        return sum(flat(item) for pair in value.items() for item in pair)
    if isinstance(value, (list, tuple, set, frozenset)):
        return sum(map(flat, value))
    return len(value) if isinstance(value, str) else int(value)

def low(x):
    return x * {low} % 7

def high(x):
    return low(x) + {high}

class Scale:
    factor = {factor}

    def of(self, x):
        return x * self.factor

class Times:
    def __init__(self, func):
        functools.update_wrapper(self, func)
        self.func, self.factor = func, 1

    def __call__(self, x):
        return self.func(x) * self.factor + {called}

@Times
def rest(x):
    return x % 4

rest.factor = {times}

part = functools.partial(operator.{operation}, {part})
shift = library.shifted({shift})
both = {{low, high}}

@workflow
def plain(*args, **kwargs):
    {note}
    calls.append("plain")
    return (flat(args) * {plain} + flat(kwargs)) % 5

@workflow
def parts(x, y={default}):
    return {{"x": x, "y": [flat(x) % 3, {parts}], "z": (flat(y) * {parts}) % 4}}

@workflow
def helped(*args):
    return high(flat(args)) % 4 + {helped}

@workflow
def table(x, *, key="a"):
    return flat(TABLE[key]) + flat(x) % 2

@workflow
def scaled(x):
    return Scale().of(flat(x)) % 6

@workflow
def wrapped(x):
    return rest(flat(x)) % 5

@workflow
def partly(x):
    return part(flat(x)) % 5

@workflow
def shifted(x):
    return shift(flat(x)) % 5

@workflow
def whole(x, module=settings):
    return (flat(x) + module.LIMIT) % 5

@workflow
def each(x):
    return sum(function(flat(x)) for function in both) % 5

@workflow
def distinct(x):
    return {{flat(x) % 3, "ab"[: {distinct} % 3], "abc"}}

@workflow
def grown(x):
    x.append({grown})
    return flat(x) % 5

@workflow(version="{version}", ignore=["noise"])
def versioned(x, noise=0):
    return flat(x) % 3 + {version}

@workflow
class Machine:
    def __init__(self, start):
        self.state = [flat(start) % 5]

    def turn(self, x):
        self.state.append((flat(x) + {machine}) % 4)
        return sum(self.state) % 6

    def show(self):
        return list(self.state)
"""
LIBRARY = """
def shifted(shift):
    return lambda x: x + shift
"""
CONSTANTS = {
    name: [1, 2, 3]
    for name in (
        *("table", "low", "high", "factor", "plain", "default", "parts", "helped", "version"),
        *("machine", "times", "called", "part", "shift", "limit", "distinct", "grown"),
    )
}
CONSTANTS["operation"] = ["add", "mul", "sub"]
CONSTANTS["note"] = ["", "# One.", "pass  # Two.\n"]
LITERALS = [0, 1, 2, 3, True, 1.0, "ab", "abc", [1, 2], (1, 2), {"k": 1}, {"k": [2]}, {1, 2}]
FUNCTIONS = (
    *("plain", "plain", "parts", "parts", "helped", "table", "scaled", "versioned", "wrapped"),
    *("partly", "shifted", "whole", "each", "distinct", "grown"),
)
USED = {  # constants of the functions that few others share
    "table": ["table"],
    "scaled": ["factor"],
    "wrapped": ["times", "called"],
    "partly": ["operation", "part"],
    "shifted": ["shift"],
    "whole": ["limit"],
    "each": ["low", "high"],
    "distinct": ["distinct"],
    "grown": ["grown"],
}
PATHS = ("x",), ("y",), ("y", 0), ("z",)


class Project:
    """A graph as data: `code` has the constants, `nodes` one dict for each node."""

    def __init__(self, chance):
        self.chance = chance
        self.code = {name: chance.choice(values) for name, values in CONSTANTS.items()}
        self.nodes = []
        self.by_hand = set()
        self.count = 0
        for _ in range(chance.randrange(3, 14)):
            self.add()
        self.handed = chance.sample(range(len(self.nodes)), min(2, len(self.nodes)))

    def add(self):
        chance, place = self.chance, len(self.nodes)
        machines = [i for i, node in enumerate(self.nodes) if node["function"] == "Machine"]
        kind = chance.randrange(8)
        node = {"name": f"n{self.count}", "path": (), "on": None}
        if kind == 0:
            node |= {"function": "Machine", "args": [self.argument(place)], "kwargs": {}}
        elif kind <= 3 and machines:
            function = chance.choice(("turn", "turn", "show"))
            args = [self.argument(place)] if function == "turn" else []
            on = chance.choice(machines)
            node |= {"function": function, "args": args, "kwargs": {}, "on": on}
        else:
            function = chance.choice(FUNCTIONS)
            node |= {"function": function, "args": [self.argument(place)], "kwargs": {}}
            if function == "plain":
                node["args"] += [self.argument(place) for _ in range(chance.randrange(3))]
                node["kwargs"] = {
                    name: self.argument(place) for name in chance.choice(("", "k", "kl"))
                }
            elif function == "parts":
                node["path"] = chance.choice(PATHS)
                if chance.random() < 0.5:
                    node["kwargs"] = {"y": self.argument(place)}
            elif function == "table":
                node["kwargs"] = {"key": chance.choice("ab")}
            elif function == "versioned":
                node["kwargs"] = {"noise": chance.randrange(3)}
            elif function == "grown":  # a list of its own, which it changes
                node["args"] = [("list", node["args"])]
        self.count += 1
        self.nodes.append(node)

    def argument(self, place, depth=0):
        """A literal, a node (as its place), or a container of them."""
        chance = self.chance
        usable = [i for i in range(place) if self.nodes[i]["function"] != "Machine"]
        kind = chance.randrange(10)
        if kind < 6 and usable:
            return ("node", chance.choice(usable))
        if kind < 8 or depth == 2:
            return ("literal", chance.choice(LITERALS))
        items = [self.argument(place, depth + 1) for _ in range(chance.randrange(3))]
        return (chance.choice(("list", "tuple", "dict")), items)

    def build(self):
        """Return the nodes and what was handed over, of functions that were compiled anew."""
        source = SOURCE.format(**self.code)
        library, settings = ModuleType("a_random_library"), ModuleType("settings")
        library.__file__, settings.LIMIT = "/site-packages/a_random_library.py", self.code["limit"]
        exec(compile(LIBRARY, library.__file__, "exec"), vars(library))
        sys.modules[library.__name__] = library
        names = {"__name__": "project", "workflow": workflow}
        names |= {"library": library, "settings": settings}
        exec(compile(source, "project", "exec"), names)
        made, results = [], []

        def resolved(argument):
            kind, content = argument
            if kind == "node":
                return results[content]
            if kind == "literal":
                return copy.deepcopy(content)
            items = [resolved(item) for item in content]
            return (
                dict(enumerate(items))
                if kind == "dict"
                else {"list": list, "tuple": tuple}[kind](items)
            )

        for node in self.nodes:
            args = [resolved(argument) for argument in node["args"]]
            kwargs = {
                name: resolved(value) if isinstance(value, tuple) else value
                for name, value in node["kwargs"].items()
            }
            called = names.get(node["function"])
            if node["on"] is not None:
                called = getattr(made[node["on"]], node["function"])
            made.append(called(*args, **kwargs).set_name(node["name"]))
            picked = made[-1]
            for key in node["path"]:
                picked = picked[key]
            results.append(picked)
        return made, [made[place] for place in self.handed]

    # Edits.

    def edit(self):
        chance = self.chance
        kind = chance.choice(
            ("code", "code", "literal", "literal", "add", "rename", "order", "hand")
        )
        node = chance.choice(self.nodes)
        if kind == "code":
            name = chance.choice(USED.get(node["function"], list(CONSTANTS)))
            self.code[name] = chance.choice(CONSTANTS[name])
        elif kind == "literal" and node["args"]:
            place = chance.randrange(len(node["args"]))
            argument = self.argument(self.nodes.index(node))
            own = node["function"] == "grown"
            node["args"][place] = ("list", [argument]) if own else argument
        elif kind == "add":
            self.add()
        elif kind == "rename":
            node["name"] = f"n{self.count}"
            self.count += 1
        elif kind == "order":
            chance.shuffle(node["args"])
        elif kind == "hand":
            self.handed = chance.sample(range(len(self.nodes)), 1)

    def go_back(self, state):
        """Be as in an earlier step: `state` is a deep copy of code, nodes and handed nodes."""
        self.code, self.nodes, self.handed = copy.deepcopy(state)

    def spoil(self, store):
        """Delete, damage, shorten, exchange or overwrite stored results."""
        chance = self.chance
        keys = [key for key in sorted(store.blobs) if "/." not in key or "/.earlier/" in key]
        for key in chance.sample(keys, min(len(keys), chance.randrange(4))):
            kind = chance.choice(("delete", "delete", "flip", "cut", "other", "overwrite"))
            data = bytearray(store.blobs[key])
            if kind == "delete":
                del store.blobs[key]
                continue
            if kind == "flip":
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            elif kind == "cut":
                del data[chance.randrange(len(data)) :]
            elif kind == "other":
                data = store.blobs[chance.choice([key for key in keys if key in store.blobs])]
            elif "/." in key:
                continue
            else:
                Storage(store).save("w", key.partition("/")[2], 99)
                self.by_hand.add(key)
                continue
            before, store.blobs[key] = store.blobs[key], bytes(data)
            with suppress(DamagedResultError):
                try:
                    info_of(store, key, signed_by=None)
                except NewerFormatError:  # which is no damage
                    store.blobs[key] = before

    def settings(self):
        """Return policies: of the workflow, of nodes by name, and which nodes are logged."""
        chance, policies, logged = self.chance, {}, set()
        names = [node["name"] for node in self.nodes]
        policy = chance.choice(("unchanged",) * 8 + ("never", "always"))
        for name in names:
            if chance.random() < 0.05:
                policies[name] = chance.choice(("never", "always", "unchanged"))
            if chance.random() < 0.03:
                logged.add(name)
        return policy, policies, logged
