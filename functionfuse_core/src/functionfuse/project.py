"""What belongs to the user's project, and not to an installed package or the standard library."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig

__all__ = ["is_own", "is_own_file"]


@functools.lru_cache(maxsize=4096)
def is_own(module: object) -> bool:
    """Tell whether a module belongs to the user's project.

    That is: `__main__`, and what was loaded from a file that is neither of the standard library nor
    in a folder that packages are installed to, nor of Function Fuse. What was made without a file
    belongs where the package that it is in does.
    """
    if not isinstance(module, str) or module.partition(".")[0] == "functionfuse":
        return False  # a type written in C can have something else as its module
    if module == "__main__":
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is not None:
        return is_own_file(file)
    package = module.partition(".")[0]
    return is_own(package) if package != module else module not in sys.stdlib_module_names


def is_own_file(file: str) -> bool:
    """Tell whether a file is source of the user's project."""
    path = os.path.abspath(file)
    return not any(path.startswith(folder) for folder in _installed()) and path.endswith(".py")


@functools.cache
def _installed() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders.update(path for path in sys.path if path.endswith(("site-packages", "dist-packages")))
    return tuple(os.path.abspath(folder) + os.sep for folder in folders)
