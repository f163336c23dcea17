"""Make docs/report.png, the picture in the README: the page that the demonstration writes.

    python3 run.py demo
    .venv/bin/python tools/screenshot.py

It needs an installed Chromium.
"""

from __future__ import annotations

import sys
from pathlib import Path

from chromium import Chromium, program

ROOT = Path(__file__).resolve().parents[1]
PAGE, PICTURE = ROOT / "comparison" / "report.html", ROOT / "docs" / "report.png"


def main() -> None:
    """Open the page, and take the picture of what is seen first."""
    if program() is None:
        sys.exit("Chromium is not installed: apt-get install chromium")
    if not PAGE.exists():
        sys.exit(f"there is no {PAGE}: python3 run.py demo")
    with Chromium(width=1280, height=900) as browser:
        browser.open(PAGE)
        browser.picture(PICTURE)


if __name__ == "__main__":
    main()
