"""The record of a run with 100,000 nodes: all of them are in it, and it is read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from functionfuse import workflow
from functionfuse.backends.builtin.localback import LocalWorkflow
from functionfuse.storage.filestorage import FileStorage


@workflow
def plus(before: int, number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} is below 0")
    return before + number


def test_many_nodes(tmp_path: Path, full: bool) -> None:
    """Computed, reused and failed ones; each with its own arguments and result."""
    count = 100_000 if full else 2_000
    storage = FileStorage(tmp_path)
    for numbers in (range(count), [*range(count - 1), -1]):
        first = plus(0, 1).set_name("first")
        nodes = [plus(first, number).set_name(f"n{place}") for place, number in enumerate(numbers)]
        flow = LocalWorkflow(*nodes, workflow_name="w")
        flow.set_storage(storage)
        if numbers[-1] >= 0:
            flow.run()
        else:
            with pytest.raises(ValueError, match="below 0"):
                flow.run()
    computed, other = storage.runs("w")
    assert [count + 1] * 2 == [len(computed.nodes), len(other.nodes)]
    assert {"computed"} == {node.action for node in computed.nodes}
    assert ["reused"] * count + ["failed"] == [node.action for node in other.nodes]
    for place in (0, 17, count - 2):
        node = other[f"n{place}"]
        assert {"before": {"node": "first"}, "number": place} == node.arguments
        assert place + 1 == computed.read(node.name) == other.read(node.name)
    changes = computed.compare(other)
    assert {("argument", f"n{count - 1}")} == {(c.what, c.node) for c in changes if c.name}
    assert count == len(storage.lineage("w", "first", down=True)) - 1
