"""Documented import paths of what plugins bring: the plugin is imported when it is asked for."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any

from .errors import PluginError

__all__ = ["handed_on"]


def handed_on(name: str, *, module: str, known: str, package: str) -> Any:
    """Return what a plugin's package has under a name; for the `__getattr__` of a module.

    Args:
        name: what is asked for.
        module: the module that is asked.
        known: the one name that it hands on.
        package: the plugin's import package; its distribution is named alike, with hyphens.

    Raises:
        AttributeError: it hands on no such name.
        PluginError: the plugin is not installed, too old, or can't be imported.
    """
    if name != known:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    distribution = package.replace("_", "-")
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        raise PluginError(f"{name} comes with {distribution}: pip install {distribution}") from None
    try:
        return getattr(importlib.import_module(package), name)
    except AttributeError:
        raise PluginError(
            f"{distribution} {version} does not bring {name} yet, a later release will:"
            f" pip install --upgrade {distribution}"
        ) from None
    except ImportError as error:
        raise PluginError(
            f"{name} comes with {distribution} {version}, which can't be imported:"
            f" {type(error).__name__}: {error}"
        ) from error
