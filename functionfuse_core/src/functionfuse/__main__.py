"""The command `functionfuse`, also `python -m functionfuse`."""

from __future__ import annotations

import os
import sys

from . import __version__

__all__ = ["main"]


def main() -> int:
    """Run the command line; return its exit status."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # it is closed
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    if sys.argv[1:] == ["--version"]:  # before argparse is imported, which takes half of the time
        return _version()
    try:
        from .cli.main import run

        return run(sys.argv[1:])
    except KeyboardInterrupt:  # while modules are imported
        return 130


def _version() -> int:
    try:
        sys.stdout.write(f"functionfuse {__version__}\n")
        sys.stdout.flush()
    except OSError as error:  # nobody reads, or the disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tells it again
        if isinstance(error, BrokenPipeError):
            return 141
        sys.stderr.write(f"functionfuse: the output can't be written: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
