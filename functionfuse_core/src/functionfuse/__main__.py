"""The command `functionfuse`, also `python -m functionfuse`."""

from __future__ import annotations

import sys

from . import __version__

__all__ = ["main"]


def main() -> int:
    """Run the command line; return its exit status."""
    if sys.argv[1:] == ["--version"]:  # before argparse is imported, which takes half of the time
        sys.stdout.write(f"functionfuse {__version__}\n")
        return 0
    from .cli.main import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
