"""`GraphWorkflow`: draws the graph."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
from pathlib import Path

from ...errors import GraphError, StoragePathError
from ...graph.drawing import picture_of
from ...graph.workflow import BaseWorkflow
from ...show.files import replaced
from ...show.picture import Picture, to_dot, to_mermaid
from ...show.svg import to_svg

__all__ = ["GraphWorkflow"]

_log = logging.getLogger(__name__)

# Graphviz takes more than linear time: minutes for thousands of boxes.
_DOT_BOXES, _DOT_EDGES, _DOT_SECONDS = 1_000, 2_000, 60.0


class GraphWorkflow(BaseWorkflow):
    """Draw the graph around some nodes; nothing is run.

    Calls on one object of a decorated class have shapes of their own and heavier arrows between
    them. If a node uses only an item of a result, the arrow is labelled with its index or key.

    Args:
        doc_path: the folder that `run` writes to, and creates if it is missing; None: the current
            folder.

    Raises:
        GraphError: one of `nodes` is no node, or `doc_path` is no path.
        InvalidNameError: `workflow_name` is no string, or empty.
    """

    _drawn = 1000

    def __init__(
        self, *nodes: object, workflow_name: str, doc_path: str | os.PathLike[str] | None = None
    ) -> None:
        super().__init__(*nodes, workflow_name=workflow_name)
        if not isinstance(doc_path, (str, os.PathLike, type(None))):
            raise GraphError(f"doc_path is the path of a folder, not {doc_path!r}")
        self.doc_path = doc_path

    def dot(self) -> str:
        """Return the graph in the DOT language of Graphviz. Raises the errors of `graph`."""
        return to_dot(self._picture())

    def mermaid(self) -> str:
        """Return the graph as a Mermaid flowchart, for Markdown. Raises the errors of `graph`."""
        return to_mermaid(self._picture())

    def svg(self) -> str:
        """Return a picture of the graph as SVG text, which can be pasted into HTML.

        Needs no other program. Raises the errors of `graph`.
        """
        return to_svg(self._picture())

    def run(self) -> Path:
        """Write `<workflow name>.dot` and `.svg` into `doc_path`; return the path of the SVG.

        Characters that can't be in a file name are written as `%` and their code. The program `dot`
        renders the SVG if it is installed and the graph is not huge. Otherwise, or if `dot` fails,
        the SVG is that of `svg`. Each file is replaced atomically.

        Raises:
            GraphError, DuplicateNameError: as `graph` does; nothing is written then.
            StoragePathError: `doc_path` can't be written to.
        """
        picture = self._picture()
        dot = to_dot(picture).encode()
        svg = None
        if len(picture.boxes) <= _DOT_BOXES and len(picture.edges) <= _DOT_EDGES:
            svg = _rendered(dot)
        svg = svg or to_svg(picture).encode()
        folder = Path(self.doc_path or ".")
        stem = _file_name(self.workflow_name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            replaced(folder / f"{stem}.dot", dot)
            return replaced(folder / f"{stem}.svg", svg)
        except (OSError, ValueError) as error:  # ValueError: a path with a null character
            raise StoragePathError(
                f"the graph of workflow {self.workflow_name!r} can't be written into {folder}:"
                f" {error}. Give a folder that can be written to as doc_path"
            ) from error

    def _picture(self) -> Picture:
        graph = self.graph()
        return picture_of(self.workflow_name, graph.nodes, graph.names)


def _rendered(dot: bytes) -> bytes | None:
    """Return the SVG from the program `dot`; None if it is not installed, or fails."""
    program = shutil.which("dot")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "-Tsvg"], input=dot, capture_output=True, timeout=_DOT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.warning("%s can't draw the graph, so it is drawn without: %s", program, error)
        return None
    if done.returncode == 0 and done.stdout.rstrip().endswith(b"</svg>"):
        return done.stdout
    _log.warning(
        "%s can't draw the graph, so it is drawn without: exit code %d, and it says %r",
        program,
        done.returncode,
        done.stderr.decode(errors="replace").strip() or "nothing",
    )
    return None


def _file_name(name: str) -> str:
    """Return a name that is one safe part of a path, and unique for each `name`."""
    stem = "".join(
        char
        if char.isalnum() or char in "-_" or (char in " ." and index)
        else "".join(f"%{byte:02X}" for byte in char.encode(errors="surrogatepass"))
        for index, char in enumerate(name)
    )
    if len(stem.encode()) <= 200:
        return stem
    digest = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).hexdigest()
    return f"{stem.encode()[:150].decode(errors='ignore')}~{digest}"
