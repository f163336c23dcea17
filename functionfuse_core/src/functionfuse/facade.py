"""Documented import paths whose code is in another module, which is imported on first use.

A facade is a module with `__getattr__ = resolver(__name__)`. `PATHS` lists all facades.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from .errors import PluginError

__all__ = ["PATHS", "resolver"]

# Facade to its names, and each name to the "module:name" of its code.
PATHS: dict[str, dict[str, str]] = {
    "functionfuse": {
        "File": "functionfuse.serializers.file:File",
        "GraphWorkflow": "functionfuse.backends.builtin.graphback:GraphWorkflow",
        "LocalWorkflow": "functionfuse.backends.builtin.localback:LocalWorkflow",
        "NodeFilter": "functionfuse.run.calling:NodeFilter",
        "RayWorkflow": "functionfuse_ray:RayWorkflow",
        "Storage": "functionfuse.storage.storage:Storage",
        "current_node": "functionfuse.run.calling:current_node",
        "storage_factory": "functionfuse.config.factories:storage_factory",
        "workflow_factory": "functionfuse.config.factories:workflow_factory",
    },
    "functionfuse.backends": {
        "Backend": "functionfuse.run.contract:Backend",
        "Job": "functionfuse.run.job:Job",
        "Outcome": "functionfuse.run.job:Outcome",
        "Packer": "functionfuse.run.packing:Packer",
        "Started": "functionfuse.run.contract:Started",
        "compare": "functionfuse.run.crossing:compare",
        "compute": "functionfuse.run.crossing:compute",
        "outcome_of": "functionfuse.run.crossing:outcome_of",
        "rest_of": "functionfuse.run.crossing:rest_of",
        "unpack": "functionfuse.run.packing:unpack",
        "workflow_factory": "functionfuse.config.factories:workflow_factory",
    },
    "functionfuse.backends.builtin.rayback": {"RayWorkflow": "functionfuse_ray:RayWorkflow"},
    "functionfuse.baseworkflow": {"BaseWorkflow": "functionfuse.graph.workflow:BaseWorkflow"},
    "functionfuse.config": {
        "Config": "functionfuse.config.form:Config",
        "check_options": "functionfuse.config.options:check_options",
        "nearest": "functionfuse.config.source:nearest",
        "read": "functionfuse.config.form:read",
        "schema": "functionfuse.config.jsonschema:schema",
    },
    "functionfuse.plugins": {
        "Plugin": "functionfuse.plugins.entrypoints:Plugin",
        "list": "functionfuse.plugins.entrypoints:installed",
    },
    "functionfuse.report": {
        "Event": "functionfuse.run.events:Event",
        "NodeRecord": "functionfuse.run.report:NodeRecord",
        "Report": "functionfuse.run.report:Report",
    },
    "functionfuse.serializers.daskarray": {
        "DaskArraySerializer": "functionfuse_dask:DaskArraySerializer",
    },
    "functionfuse.storage": {
        "BlobInfo": "functionfuse.storage.blobstore:BlobInfo",
        "BlobStore": "functionfuse.storage.blobstore:BlobStore",
        "Storage": "functionfuse.storage.storage:Storage",
        "storage_factory": "functionfuse.config.factories:storage_factory",
    },
    "functionfuse.storage.base": {"InvalidPickle": "functionfuse.errors:DamagedResultError"},
    "functionfuse.storage.filestorage": {
        "FileOptions": "functionfuse.kinds:FileOptions",
        "FileStorage": "functionfuse.kinds:FileStorage",
    },
    "functionfuse.storage.options": {
        "Allow": "functionfuse.config.options:Allow",
        "Secret": "functionfuse.config.options:Secret",
        "StorageOptions": "functionfuse.config.options:StorageOptions",
        "check_options": "functionfuse.config.options:check_options",
    },
    "functionfuse.storage.rayfilestorage": {"FileStorage": "functionfuse_ray:FileStorage"},
    "functionfuse.storage.s3storage": {"S3FileStorage": "functionfuse_s3:S3FileStorage"},
}


def resolver(facade: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of a facade, which imports the code of a name.

    It raises AttributeError if `PATHS` lacks the name. It raises PluginError if the code belongs
    to a plugin that is not installed, is too old, or can't be imported.
    """
    paths = PATHS[facade]

    def resolve(name: str) -> Any:
        if name not in paths:
            raise AttributeError(f"module {facade!r} has no attribute {name!r}")
        module, _, attribute = paths[name].partition(":")
        if not module.startswith("functionfuse."):
            return _of_plugin(module, attribute)
        return getattr(importlib.import_module(module), attribute)

    return resolve


def _of_plugin(package: str, name: str) -> Any:
    """Import a name from a plugin's package; the distribution has the same name, with hyphens."""
    from importlib import metadata  # on use: it takes longer than listing results

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
