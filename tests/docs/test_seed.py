"""The storage chapter that users know, up to its section on serializers, runs unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sybil import Sybil
from sybil.parsers.rest import PythonCodeBlockParser

from functionfuse import workflow

if TYPE_CHECKING:
    import pytest

CHAPTER = Path(__file__).with_name("storage_chapter.rst")


@workflow
def one() -> int:
    return 1


@workflow
def double(number: int) -> int:
    return 2 * number


def test_the_chapter_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given `node1` and `node2`, the chapter's blocks store, list and read as it says."""
    document = Sybil([PythonCodeBlockParser()]).parse(CHAPTER)
    node1 = one().set_name("node1")
    node2 = double(node1).set_name("node2")
    document.namespace.update(node1=node1, node2=node2)
    monkeypatch.chdir(tmp_path)

    blocks = list(document.examples())
    for block in blocks:
        block.evaluate()

    expected = (3, "All graph node names:  ['node1', 'node2']\n", 2)
    assert expected == (len(blocks), capsys.readouterr().out, document.namespace["node2_result"])
    assert (tmp_path / "storage").is_dir()
