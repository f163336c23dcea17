"""Tables of runs: the columns of arguments, and data frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import PluginError
from .runchanges import MISSING, Described, form, shown

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["columns_of", "frame_of"]


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
    return pd.DataFrame.from_records(rows, columns=list(columns)).set_index(columns[0])
