"""The rows that a benchmark gives, and the table that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pairs import Pair

__all__ = ["Row", "amount", "as_markdown", "as_text", "at_least", "at_most", "beside"]

COLUMNS = ("measure", "ours", "peer", "ratio", "bound", "")


@dataclass(frozen=True)
class Row:
    """One figure beside its bound; `ratio` is empty where the bound is on the figure itself."""

    what: str
    ours: str
    peer: str
    ratio: str
    bound: str
    verdict: str

    def cells(self) -> tuple[str, ...]:
        return self.what, self.ours, self.peer, self.ratio, self.bound, self.verdict


def at_most(what: str, bound: float, pair: Pair) -> Row:
    """Return the row of a comparison in which ours / peer must not exceed the bound."""
    return _compared(what, pair, f"≤ {bound:g}", pair.ratio, pair.ratio <= bound)


def at_least(what: str, bound: float, pair: Pair) -> Row:
    """Return the row of a comparison in which peer / ours must reach the bound."""
    ratio = 1 / pair.ratio
    return _compared(what, pair, f"≥ {bound:g}", ratio, ratio >= bound)


def beside(what: str, pair: Pair) -> Row:
    """Return the row of a comparison without a bound."""
    return Row(what, _time(pair.ours), _time(pair.peer), f"{pair.ratio:.2f}", "", "")


def amount(what: str, figure: float, bound: float, *, unit: str, peer: str = "") -> Row:
    """Return the row of a figure that must not exceed the bound itself."""
    verdict = _verdict(figure <= bound)
    return Row(what, f"{figure:.3g} {unit}", peer, "", f"≤ {bound:g} {unit}", verdict)


def as_text(rows: Sequence[Row]) -> str:
    """Return the rows as an aligned table."""
    lines = [COLUMNS, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if 1 <= place <= 4 else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def as_markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [COLUMNS, ("---", *["---:"] * 4, "---"), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _compared(what: str, pair: Pair, bound: str, ratio: float, kept: bool) -> Row:
    return Row(what, _time(pair.ours), _time(pair.peer), f"{ratio:.2f}", bound, _verdict(kept))


def _verdict(kept: bool) -> str:
    return "ok" if kept else "short"


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"
