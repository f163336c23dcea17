"""Small previews of values, as plain data: arrays, tables, images, texts and numbers.

numpy, pandas and PIL are used if the process has imported them; nothing is imported here. The code
of a value's own type runs, as it does in `repr`.
"""

from __future__ import annotations

import base64
import math
import reprlib
import struct
import sys
import zlib
from collections.abc import Iterator, Mapping
from io import BytesIO
from itertools import islice
from typing import Any

from .texts import size

__all__ = ["preview"]

_TEXT = 2_000  # characters
_ROWS, _COLUMNS, _CELL = 20, 12, 60
_PARTS = 8  # of a container
_BINS = 24
_SIDE = 96  # pixels of a thumbnail
_IMAGE = 300_000  # bytes
_SAMPLE = 200_000  # numbers of an array that are looked at
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF8", "gif"),
)

_TIMES = " × "  # noqa: RUF001  # of sizes

_short = reprlib.Repr()
_short.maxlist = _short.maxtuple = _short.maxdict = _short.maxset = 40
_short.maxstring = _short.maxother = 400
_short.maxlong = 200


def preview(value: Any) -> dict[str, Any]:
    """Return the preview of a value, with a "kind" and what that needs; JSON can hold it.

    - "array": "text"; for numbers "stats", "bins" and "range"; for two dimensions "image".
    - "table": "text", "columns" and 20 "rows", as texts.
    - "image": "image", a URL of data, and "text".
    - "parts": "text", and "parts" of a container, as pairs of a key and a preview.
    - "text": "text", up to 2,000 characters.

    A value that can't be looked at gives a text that says so.
    """
    try:
        return _preview(value, deep=True)
    except Exception as error:  # noqa: BLE001  # these methods are the user's
        return _text(f"There is no preview: {type(error).__name__} while looking at the value.")


def _preview(value: Any, *, deep: bool) -> dict[str, Any]:
    numpy, pandas, pil = map(sys.modules.get, ("numpy", "pandas", "PIL.Image"))
    if numpy is not None and isinstance(value, numpy.ndarray):
        return _array(value, numpy)
    if pandas is not None and isinstance(value, (pandas.DataFrame, pandas.Series)):
        return _table(value)
    if pil is not None and isinstance(value, pil.Image):
        return _picture(value)
    if isinstance(value, (bytes, bytearray)):
        return _bytes(bytes(value))
    if isinstance(value, str):
        return _text(value)
    if deep and type(value) in (list, tuple, dict) and (parts := list(_parts(value))):
        more = len(value) - len(parts)
        text = f"{type(value).__name__} of {len(value):,}"
        return {"kind": "parts", "text": f"{text}; {more:,} more" if more else text, "parts": parts}
    return _text(_short.repr(value))


def _parts(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Iterate over the first parts of a container, if one of them is more than a text."""
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
    first = [(key, _preview(part, deep=False)) for key, part in islice(pairs, _PARTS)]
    if any(shown["kind"] != "text" for _, shown in first):
        for key, shown in first:
            yield f"[{_short.repr(key)}]", shown


def _text(text: str) -> dict[str, Any]:
    more = len(text) - _TEXT
    return {"kind": "text", "text": f"{text[:_TEXT]}… and {more:,} more" if more > 0 else text}


def _bytes(value: bytes) -> dict[str, Any]:
    for magic, kind in _MAGIC:
        if value.startswith(magic) and len(value) <= _IMAGE:
            return _image(value, f"{kind.upper()}, {size(len(value))}", kind)
    return _text(f"{size(len(value))}: {_short.repr(value)}")


def _picture(value: Any) -> dict[str, Any]:
    """Return the preview of an image of PIL."""
    text, small, file = f"{value.mode} {value.width}{_TIMES}{value.height}", value.copy(), BytesIO()
    small.thumbnail((320, 320))
    small.convert("RGBA" if "A" in value.mode else "RGB").save(file, "PNG")
    return _image(file.getvalue(), text)


def _image(data: bytes, text: str, kind: str = "png") -> dict[str, Any]:
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"kind": "image", "text": text, "image": url}


def _table(value: Any) -> dict[str, Any]:
    """Return the preview of a frame or a series of pandas: 20 rows, and 12 columns of them."""
    text = f"{type(value).__name__} {_TIMES.join(f'{side:,}' for side in value.shape)}"
    frame = value.head(_ROWS)
    if len(value.shape) == 1:
        frame = frame.to_frame()
    frame = frame.iloc[:, :_COLUMNS]
    columns = ["", *map(_cell, frame.columns)]
    rows = [list(map(_cell, row)) for row in frame.itertuples(name=None)]
    return {"kind": "table", "text": text, "columns": columns, "rows": rows}


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _CELL else f"{text[:_CELL]}…"


def _array(value: Any, numpy: Any) -> dict[str, Any]:
    shape = _TIMES.join(f"{side:,}" for side in value.shape) or "one number"
    found: dict[str, Any] = {"kind": "array", "text": f"{value.dtype} {shape}"}
    if value.dtype.kind not in "biuf" or not value.size:
        return {**found, "values": _short.repr(value.ravel()[:20].tolist())}
    # A copy of every n-th number: the array can be a mapped file of any size.
    step = -(-value.size // _SAMPLE)
    flat = value.reshape(-1)[::step] if value.flags.contiguous else value.flat[::step]
    numbers = numpy.asarray(flat, dtype=float)
    finite = numbers[numpy.isfinite(numbers)]
    if step > 1:
        found["text"] += f", every {step:,}th number looked at"
    if lost := numbers.size - finite.size:
        found["text"] += f", {lost:,} not finite"
    if finite.size:
        low, mean, high = float(finite.min()), float(finite.mean()), float(finite.max())
        if math.isfinite(high - low):
            bins, _ = numpy.histogram(finite, bins=_BINS, range=(low, high))
            found["bins"] = bins.tolist()
        found["stats"] = {"min": f"{low:.5g}", "mean": f"{mean:.5g}", "max": f"{high:.5g}"}
    if value.size <= 20:
        found["values"] = _short.repr(value.tolist())
    pixels = _pixels(value, numpy)
    return {**found, "image": pixels} if pixels else found


def _pixels(value: Any, numpy: Any) -> str:
    """Return an array as an image, thinned out: of colours, or from its least to its largest."""
    coloured = value.ndim == 3 and value.shape[2] in (3, 4) and value.dtype == numpy.uint8
    if not (coloured or value.ndim == 2) or min(value.shape[:2]) < 2:
        return ""
    steps = tuple(-(-side // _SIDE) for side in value.shape[:2])
    part = value[:: steps[0], :: steps[1]]
    if not coloured:
        part = part.astype(float)
        finite = part[numpy.isfinite(part)]
        if not finite.size:
            return ""
        low, high = float(finite.min()), float(finite.max())
        scale = 255 / (high - low) if high > low and math.isfinite(high - low) else 0.0
        part = numpy.nan_to_num((part - low) * scale, nan=0.0, posinf=255.0, neginf=0.0)
    image = _image(_png(part.astype(numpy.uint8)), "")["image"]
    return str(image)


def _png(pixels: Any) -> bytes:
    """Return the bytes of a PNG file (ISO/IEC 15948) of grey, RGB or RGBA pixels of 8 bits."""
    high, wide = pixels.shape[:2]
    color = {1: 0, 3: 2, 4: 6}[pixels.shape[2] if pixels.ndim == 3 else 1]
    rows = b"".join(b"\0" + pixels[row].tobytes() for row in range(high))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", wide, high, 8, color, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
