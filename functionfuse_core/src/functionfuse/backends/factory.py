"""`workflow_factory`: from a config to a workflow that is bound to a backend and a storage."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..config import make_workflow, read

__all__ = ["workflow_factory"]


def workflow_factory(
    config: Mapping[str, Any] | str | os.PathLike[str], *nodes: object, workflow_name: str
) -> Any:
    """Return a workflow of the backend that a config names, with its storage and policy of reuse.

    Without a `backend`, it is a `LocalWorkflow`; without a `storage`, nothing is kept. See
    `functionfuse.config.read` for what a config may be.

    Args:
        nodes, workflow_name: see `BaseWorkflow`.

    Raises:
        OptionsError: the config is not of its form, or an option is unknown, missing or wrong.
        UnknownKindError: no installed distribution brings a kind.
        PluginError: a kind's plugin can't be used.
        GraphError, InvalidNameError: as the backend's own class.
    """
    return make_workflow(read(config), nodes, workflow_name)
