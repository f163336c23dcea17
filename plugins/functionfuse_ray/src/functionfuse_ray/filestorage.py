"""Kind "ray": results in a folder on the disk of one node of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from functionfuse.errors import OptionsError
from functionfuse.storage import Storage
from functionfuse.storage.options import check_options

from .plugin import RayOptions
from .store import RayStore

__all__ = ["FileStorage"]

_OURS = ("name", "namespace", "get_if_exists", "lifetime")


class FileStorage(Storage):
    """Results in files below `path` on one node, for every process that reaches the cluster.

    Args:
        opt: the options of the kind, see `RayOptions`. A relative `path` is relative to the
            present folder, in a config file to the file's; "~" is the home on the node.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        checked = check_options(RayOptions, kind="ray", options=opt)
        ours = [name for name in _OURS if name in checked.remote_args]
        if ours:
            raise OptionsError(
                f"storage 'ray': option 'remoteArgs': {', '.join(ours)} can't be chosen: all that"
                " use one path share one server"
            )
        path = str(checked.path)
        if not path.startswith("~"):
            path = os.path.abspath(path)
        super().__init__(RayStore(path, checked.remote_args, checked.ray_init_args), checked)
