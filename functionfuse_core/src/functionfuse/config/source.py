"""The source of a config: a dictionary, or a file with positions and environment variables."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import NoConfigError, OptionsError, without_locals
from .syntax import Marks, SyntaxProblem, parse_json, parse_toml, parse_yaml

__all__ = ["VARIABLE", "Hidden", "Source", "configs_in", "nearest"]

VARIABLE = "FUNCTIONFUSE_CONFIG"

LARGEST = 65536  # bytes; a config is written by hand

_PARSERS = {".yaml": parse_yaml, ".yml": parse_yaml, ".json": parse_json, ".toml": parse_toml}
_NAMES = [f"functionfuse{suffix}" for suffix in _PARSERS]

# https://docs.docker.com/reference/compose-file/interpolation/, its forms with braces
_variable = re.compile(
    r"\$(?:(?P<dollar>\$)|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<form>[-?])(?P<text>[^{}$]*))?\})?"
)


def nearest() -> str:
    """Return the path of the config of $FUNCTIONFUSE_CONFIG, or of the nearest folder.

    That is the current folder, or the first above it that has a file "functionfuse.yaml", ".yml",
    ".toml" or ".json".

    Raises:
        NoConfigError: there is none.
        OptionsError: that folder has several.
    """
    if path := os.environ.get(VARIABLE, ""):
        return path
    here = Path.cwd()
    for folder in (here, *here.parents):
        found = configs_in(folder)
        if len(found) > 1:
            raise OptionsError(
                f"the folder {str(folder)!r} has several configs: {', '.join(found)}"
            )
        if found:
            return str(folder / found[0])
    raise NoConfigError(
        f"there is no config: no {', '.join(_NAMES)} in {str(here)!r} or a folder above, and"
        f" {VARIABLE} is not set"
    )


def configs_in(folder: Path) -> list[str]:
    """Return the names of the configs in a folder."""
    return [name for name in _NAMES if (folder / name).is_file()]


class Hidden:
    """A value that can have secrets: it is in no attribute, and in no representation."""

    __slots__ = ("get",)
    get: Callable[[], Any]

    def __init__(self, value: Any) -> None:
        self.get = lambda: value

    def __repr__(self) -> str:
        return "<hidden>"


class _Expanded(str):
    """A string with the values of variables; its repr shows the text of the file instead."""

    __slots__ = ("written",)
    written: str

    def __repr__(self) -> str:
        return repr(self.written)


class Source:
    """A config before its form is checked.

    Attributes:
        name: the path of the file, as passed in; "" for a dictionary.
        folder: the folder of the file; None for a dictionary.
    """

    @without_locals
    def __init__(self, config: Mapping[str, Any] | str | os.PathLike[str]) -> None:
        self._data = Hidden(config)
        self.name = ""
        self.folder: Path | None = None
        self._marks: Marks = {}
        self._expanded = Hidden({})  # by value of a variable: the text with its name
        if isinstance(config, (str, os.PathLike)):
            self.name = os.fspath(config)
            self.folder = Path(os.path.abspath(self.name)).parent
            self._read()

    def __repr__(self) -> str:
        return f"Source({self.name!r})" if self.name else "Source of a dictionary"

    @property
    def data(self) -> Any:
        """The content, with the values of environment variables."""
        return self._data.get()

    def where(self, path: Sequence[str | int], *, key: bool = False) -> str:
        """Return "file:line:column: " of a value, or of its key; "" for a dictionary.

        For a missing value, it is the position of the key above it. Steps that the file does not
        have are left out.
        """
        if not self._marks:
            return ""
        found: tuple[str | int, ...] = ()
        for step in path:
            if (*found, step) in self._marks:
                found = (*found, step)
        key = key or (bool(path) and found[-1:] != tuple(path[-1:]))
        line, column = self._marks[found][0 if key else 1]
        return f"{self.name}:{line}:{column}: "

    def hidden(self, message: str) -> str:
        """Replace the values of environment variables in a message by `${NAME}`."""
        expanded: dict[str, str] = self._expanded.get()
        for value in sorted(expanded, key=len, reverse=True):
            # A short value can be part of another word.
            edge = r"\b" if len(value) < 4 and value.isalnum() else ""
            written = expanded[value].replace("\\", r"\\")
            message = re.sub(f"{edge}{re.escape(value)}{edge}", written, message)
        return message

    def _read(self) -> None:
        suffix = Path(self.name).suffix.lower()
        if suffix not in _PARSERS:
            raise OptionsError(
                f"the config file {self.name!r} is none of {', '.join(_PARSERS)}; it is told by its"
                " name"
            )
        text = self._text()
        try:
            data, self._marks = _PARSERS[suffix](text)
        except SyntaxProblem as error:
            kind, problem = suffix[1:].upper().replace("YML", "YAML"), error
        else:
            self._data = Hidden(self._with_variables(data, ()))
            return
        line, column = problem.mark
        raise OptionsError(f"{self.name}:{line}:{column}: no {kind}: {problem.message}")

    def _text(self) -> str:
        try:
            with open(self.name, "rb", opener=_opened_at_once) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise OptionsError(f"the config file {self.name!r} is no regular file")
                data = file.read(LARGEST + 1)
        except OSError as error:
            raise OptionsError(
                f"the config file {self.name!r} can't be read: {error.strerror}"
            ) from error
        if len(data) > LARGEST:
            raise OptionsError(f"the config file {self.name!r} has more than {LARGEST} bytes")
        try:
            return data.decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            before = data[: error.start]
        line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
        raise OptionsError(f"{self.name}:{line}:{column}: the file is not UTF-8")

    def _with_variables(self, value: Any, path: tuple[str | int, ...]) -> Any:
        if isinstance(value, str) and "$" in value:
            return self._replaced(value, path)
        if isinstance(value, list):
            return [self._with_variables(item, (*path, index)) for index, item in enumerate(value)]
        if isinstance(value, dict):
            return {key: self._with_variables(item, (*path, key)) for key, item in value.items()}
        return value

    def _replaced(self, text: str, path: tuple[str | int, ...]) -> str:
        def value_of(found: re.Match[str]) -> str:
            if found["dollar"]:
                return "$"
            name = found["name"]
            if not name:
                raise OptionsError(
                    f"{self.where(path)}a '$' is followed by what is no variable; it is one of"
                    " ${NAME}, ${NAME:-default}, ${NAME:?message}, and $$ for a dollar sign"
                )
            value = os.environ.get(name)
            if found["form"] == "-" and not value:
                return found["text"]
            if value is None or (found["form"] == "?" and not value):
                said = f": {found['text']}" if found["text"] else ""
                raise OptionsError(
                    f"{self.where(path)}the environment variable {name!r} is not set{said}"
                )
            if value:
                self._expanded.get()[value] = found.group()
            return value

        expanded = _Expanded(_variable.sub(value_of, text))
        expanded.written = text
        if expanded:
            self._expanded.get()[str(expanded)] = text
        return expanded


def _opened_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for a writer
