"""Many at once: one key, one winner, folders that others remove."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("side", [False, True], ids=["plain", "side data"])
@pytest.mark.parametrize("threads", [False, True], ids=["processes", "threads"])
def test_writers_and_readers_of_one_key(
    threads: bool, side: bool, full: bool, workers: Any, tmp_path: Path, counts: Any
) -> None:
    """8 writers and 8 readers: no read is torn, raises or finds nothing."""
    job = {"do": "crowd", "root": str(tmp_path / "store"), "seed": counts.seed}
    job |= {"threads": threads, "side": side, "sizes": [10, 5000, 70_000, 1_500_000]}
    found = workers.one(job | {"seconds": 60 if full else 0.5}, timeout=300)
    counts.add("writes", found["writes"])
    counts.add("reads", found["reads"])
    counts.add("torn, raising or absent", len(found["wrong"]))
    assert [] == found["wrong"]
    assert min(found["reads"], found["writes"]) > 0
    checked = workers.one({"do": "check", "gc": True, "root": job["root"]})
    assert [] == checked["problems"] + checked["left"]
    if not side:  # of two that replace one result, each removes the side data that it saw
        assert [] == checked["orphans"]


@pytest.mark.parametrize("side", [False, True], ids=["plain", "side data"])
def test_exactly_one_wins(
    side: bool, full: bool, workers: Any, tmp_path: Path, counts: Any
) -> None:
    """Of 16 that save one key if it is absent, one wins, and its result is what is stored."""
    keys = (1000 if full else 30) if not side else (200 if full else 10)
    job = {"do": "race", "root": str(tmp_path / "store"), "keys": keys, "side": side}
    found = workers.one(job, timeout=300)
    counts.add("keys", keys)
    counts.add("winners", found["winners"])
    counts.add("racers that won some", sum(wins > 0 for wins in found["by"]))
    assert [] == found["wrong"]
    assert keys == found["winners"]
    checked = workers.one({"do": "check", "root": job["root"]})
    assert [] == checked["problems"] + checked["orphans"]


@pytest.mark.parametrize("side", [False, True], ids=["plain", "side data"])
def test_workflows_are_removed_while_others_save(
    side: bool, full: bool, workers: Any, tmp_path: Path, counts: Any
) -> None:
    """A save succeeds while others remove its workflow; then its result is there, or is not."""
    job = {"do": "removal_race", "root": str(tmp_path / "store"), "side": side}
    found = workers.one(job | {"seconds": 20 if full else 0.5})
    counts.add("saves", found["saves"])
    counts.add("removals", found["removals"])
    counts.add("wrong or raising", len(found["wrong"]))
    assert [] == found["wrong"]
    assert min(found["saves"], found["removals"]) > 0


def test_a_folder_that_vanishes_is_made_again(
    full: bool, workers: Any, tmp_path: Path, counts: Any
) -> None:
    """A storage whose folder somebody removed saves as if it were new."""
    times = 500 if full else 50
    workers.one({"do": "vanish", "root": str(tmp_path / "deep" / "store"), "times": times})
    counts.add("times", times)
