"""Tables of runs: the columns of arguments, data frames, and HTML for notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..errors import DamagedResultError, PluginError
from ..show.notebook import ROWS, block, facts, more, nodes, table
from .runchanges import MISSING, Described, form, shown
from .runrecord import SHORT, nodes_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ROWS", "columns_of", "frame_of", "record_html", "runs_html"]


def columns_of(runs: Sequence[Mapping[str, Mapping[str, Any]]]) -> list[tuple[str, list[Any]]]:
    """Return the columns of arguments, with their keys, in the order of the newest run.

    Args:
        runs: the arguments of each run by node.
    """
    keys = {
        (node, name): None
        for nodes in reversed(runs)
        for node, arguments in nodes.items()
        for name in arguments
    }
    columns = []
    for node, name in keys:
        given = [nodes[node].get(name, MISSING) for nodes in runs if node in nodes]
        plain = not all(isinstance(_cell(argument), Described) for argument in given)
        if plain or len(set(map(form, given))) > 1:
            cells = [_cell(nodes.get(node, {}).get(name)) for nodes in runs]
            columns.append((f"{node}.{name}", cells))
    return columns


def _cell(argument: Any) -> Any:
    """Return a recorded argument for a row, where numbers and texts of any type are plain."""
    if isinstance(argument, dict) and "value" in argument:
        return argument["value"]
    if isinstance(argument, dict) and "float" in argument:
        return float(argument["float"])
    return shown(argument)


def frame_of(rows: Sequence[Any], columns: Sequence[str]) -> pd.DataFrame:
    """Return rows as a data frame, whose index is the first of the columns.

    Raises:
        PluginError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "pandas"
        cure = "pip install pandas" if missing else "it can't be imported"
        raise PluginError(f"a data frame needs pandas: {cure} ({error})") from error
    if rows and isinstance(rows[0], Mapping):
        rows = [[row.get(name) for name in columns] for row in rows]
    cells = [[_encodable(cell) for cell in row] for row in rows]
    names = list(map(_encodable, columns))
    return pd.DataFrame.from_records(cells, columns=names).set_index(names[0])


def _encodable(cell: Any) -> Any:
    """Return a text as pandas can keep it: without half characters; others as they are."""
    if not isinstance(cell, str) or cell.isascii():
        return cell
    return cell.encode("utf-8", "backslashreplace").decode("utf-8")


def record_html(title: str, about: Sequence[tuple[str, str]], body: bytes) -> str:
    """Return the record of a run as HTML, without its nodes if they are too many.

    Args:
        body: the nodes, as from `runrecord.decoded`.
    """
    shown = ""
    if len(body) <= SHORT:
        with suppress(DamagedResultError):  # then `about` has no counts, and says so
            shown = nodes(nodes_of(body), lambda node: node.reason)
    return block(title, facts(about), shown)


def runs_html(workflow: str, rows: Sequence[Sequence[str]], count: int) -> str:
    """Return the newest runs as HTML.

    Args:
        rows: start (ISO 8601, UTC), id, time, actions and error of each.
        count: of all runs.
    """
    title = f"{count:,} run{'' if count == 1 else 's'} of workflow {workflow!r}"
    told = [(run, begin[:19].replace("T", " "), *rest) for begin, run, *rest in rows]
    heads = "run", "started (UTC)", "took", "nodes", "error"
    body = table(heads, told, right=(2,)) if told else ""
    return block(title, more(count - len(rows), "older run"), body)
