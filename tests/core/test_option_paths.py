"""Relative paths in the options of a config file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Required

import pytest
from pydantic import BaseModel, ConfigDict, Field, FilePath, RootModel
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from functionfuse.config import check_options
from functionfuse.config.source import Source


class Inner(BaseModel):
    ca: Path | None = None


@dataclass
class Data:
    ca: Path
    text: str = ""


@pydantic_dataclass
class Checked:
    ca: Path = Field(alias="cert")


class Pair(NamedTuple):
    ca: Path
    text: str = ""
    other: Path = Path()


class Typed(TypedDict, total=False):
    ca: Required[Path]
    text: str


class Root(RootModel[list[Path]]):
    """Is a list in a file."""


class Tree(BaseModel):
    """Has others of its type."""

    ca: Path
    below: list[Tree] | None = None


class Paths(BaseModel):
    """Options with paths in them; those of the other types are none."""

    model_config = ConfigDict(populate_by_name=True)

    plain: Path = Path()
    checked: FilePath | None = None
    switch: bool | Path = True
    choice: Literal["auto"] | Path = "auto"
    many: list[Path] = []
    pair: tuple[Path, str] | None = None
    by_name: dict[str, Annotated[Path, Field(description="x")]] = {}
    inner: Inner | None = None
    inners: Sequence[Inner] = ()
    like: os.PathLike[str] | None = None
    other: Path | None = Field(default=None, alias="else")
    text: str | Path = ""
    bucket: str = ""
    data: Data | None = None
    datas: dict[str, Data] = {}
    checked_data: Checked | None = None
    named: Pair | None = None
    typed: Typed | None = None
    root: Root | None = None
    tree: Tree | None = None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"plain": "p"}, ["p"]),
        ({"checked": "file"}, ["file"]),
        ({"switch": "ca.pem"}, ["ca.pem"]),
        ({"choice": "p"}, ["p"]),
        ({"many": ["p", "/q", "~/r"]}, ["p", "/q", "~/r"]),
        ({"pair": ["p", "q"]}, ["p", "=q"]),
        ({"by_name": {"a": "p", "b": "q"}}, ["p", "q"]),
        ({"inner": {"ca": "p"}}, ["p"]),
        ({"inners": [{"ca": "p"}, {}]}, ["p"]),
        ({"like": "p"}, ["p"]),
        ({"else": "p"}, ["p"]),
        ({"other": "p"}, ["p"]),
        ({"data": {"ca": "p", "text": "q"}}, ["p", "=q"]),
        ({"datas": {"a": {"ca": "p"}, "b": {"ca": "~/q"}}}, ["p", "=", "~/q", "="]),
        ({"checked_data": {"cert": "p"}}, ["p"]),
        ({"named": ["p", "q"]}, ["p", "=q", "=."]),
        ({"named": ["p", "q", "r"]}, ["p", "=q", "r"]),
        ({"named": {"ca": "p", "other": "r"}}, ["p", "=", "r"]),
        ({"typed": {"ca": "p", "text": "q"}}, ["p", "=q"]),
        ({"root": ["p", "/q"]}, ["p", "/q"]),
        ({"tree": {"ca": "p", "below": [{"ca": "q"}]}}, ["p", "q"]),
        ({"switch": "false"}, []),
        ({"choice": "auto"}, ["=auto"]),
        ({"text": "p", "bucket": "q"}, ["=p", "=q"]),
    ],
)
def test_a_path_anywhere_in_the_type_of_an_option_starts_at_the_file(
    given: dict[str, Any], expected: list[str], tmp_path: Path
) -> None:
    """In unions, lists, dictionaries and models within; what is a text or a switch stays."""
    (tmp_path / "file").touch()
    (tmp_path / "c.yaml").write_text("kind: x\n")
    options = check_options(Paths, kind="x", options=given, source=Source(str(tmp_path / "c.yaml")))
    told = options.model_dump(exclude_unset=True, exclude_none=True)
    wanted = [
        text.removeprefix("=") if text[0] in "=~" else str(tmp_path / text) for text in expected
    ]
    assert wanted == [str(leaf) for leaf in leaves(told) if leaf is not False]


def leaves(value: Any) -> Iterator[Any]:
    """Iterate over what is neither a collection nor a dictionary."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from leaves(each)
    else:
        yield value
