"""Previews of values: small, plain, and without an import."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pandas as pd
import pytest

from functionfuse.show.preview import preview


def pixels(url: str) -> tuple[int, int, bytes]:
    """Return width, height and the bytes of the rows of a PNG file, without their filters."""
    data = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    wide, high = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    at = data.index(b"IDAT")
    size = int.from_bytes(data[at - 4 : at], "big")
    rows = zlib.decompress(data[at + 4 : at + 4 + size])
    step = len(rows) // high
    return wide, high, b"".join(rows[n * step + 1 : (n + 1) * step] for n in range(high))


def test_array_has_shape_type_statistics_and_histogram() -> None:
    """Numbers that aren't finite are counted, and left out."""
    found = preview(np.array([1.0, 2.0, 3.0, np.nan, np.inf]))
    assert "float64 5, 2 not finite" == found["text"]
    assert {"min": "1", "mean": "2", "max": "3"} == found["stats"]
    assert [1, 1, 1] == [count for count in found["bins"] if count]
    assert "[1.0, 2.0, 3.0, nan, inf]" == found["values"]


def test_array_of_two_dimensions_is_an_image() -> None:
    """From black, its least number, to white; thinned out to 96 pixels a side."""
    assert (2, 2, bytes([0, 85, 170, 255])) == pixels(preview(np.arange(4).reshape(2, 2))["image"])
    wide, high, _ = pixels(preview(np.zeros((1000, 50)))["image"])
    assert (50, 91) == (wide, high)
    colours = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert (2, 2, bytes(range(12))) == pixels(preview(colours)["image"])


def test_large_array_is_looked_at_in_part() -> None:
    """The text says so."""
    found = preview(np.ones(1_000_000, dtype=np.int8))
    assert "int8 1,000,000, every 5th number looked at" == found["text"]


UNUSUAL = (
    *(np.array([]), np.array(["a", "b"]), np.array(3.0), np.array([None]), np.array([1 + 2j])),
    *(np.full((3, 3), np.nan), np.array([-1e308, 1e308]), np.zeros((0, 5)), np.zeros(4)),
)


@pytest.mark.parametrize("value", UNUSUAL)
def test_unusual_arrays(value: Any) -> None:
    """They have a preview that JSON can hold."""
    found = preview(value)
    assert "array" == found["kind"]
    json.dumps(found, allow_nan=False)


def test_frame_has_20_rows_and_12_columns() -> None:
    """With the index first; a series is a frame of one column."""
    found = preview(pd.DataFrame({f"c{n}": np.arange(100) / 3 for n in range(30)}))
    assert "DataFrame 100 × 30" == found["text"]  # noqa: RUF001
    assert (20, 13) == (len(found["rows"]), len(found["columns"]))
    assert ["1", "0.333333"] == found["rows"][1][:2]
    assert [["0", "5"]] == preview(pd.Series([5], name="x"))["rows"]


def test_texts_and_numbers() -> None:
    """A text has 2,000 characters, also that of another object."""
    assert {"kind": "text", "text": "3.5"} == preview(3.5)
    assert "a" * 2000 + "… and 500 more" == preview("a" * 2500)["text"]
    assert len(preview(list(range(10**6)))["text"]) < 2100
    assert len(preview(dict.fromkeys(range(1000), "x" * 1000))["text"]) < 2100
    assert "3 B: b'abc'" == preview(b"abc")["text"]


def test_parts_of_a_container() -> None:
    """Eight, if one of them is more than a text; deeper ones are texts."""
    found = preview({"x": np.zeros(3), "y": "text", "z": [np.zeros(2)]})
    assert [("['x']", "array"), ("['y']", "text"), ("['z']", "text")] == [
        (key, part["kind"]) for key, part in found["parts"]
    ]
    assert "list of 20; 12 more" == preview([np.zeros(1)] * 20)["text"]


def test_bytes_of_an_image() -> None:
    """They are known by their beginning."""
    found = preview(b"\x89PNG\r\n\x1a\nrest")
    assert ("image", "PNG, 12 B") == (found["kind"], found["text"])
    assert found["image"].startswith("data:image/png;base64,iVBOR")


class Hostile:
    def __repr__(self) -> str:
        raise KeyError("secret")


def test_a_value_that_fails_gives_a_text() -> None:
    """The error's type is told, and not its text."""
    text = preview(Hostile())["text"]
    assert text.startswith("There is no preview: KeyError") or "Hostile" in text
    assert "secret" not in text


def test_nothing_is_imported() -> None:
    """numpy, pandas and PIL are looked at only if the process has them."""
    code = (
        "import sys; from functionfuse.show.preview import preview; preview([1, 'a', b'b'])\n"
        "assert not {'numpy', 'pandas', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
