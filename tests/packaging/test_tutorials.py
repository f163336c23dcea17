"""The tutorials, typed into an empty folder as a new user would, make plugins that pass the kit."""

import os
import re
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Environment

ROOT = Path(__file__).resolve().parents[2]
TYPE_DOCUMENT = runpy.run_path(str(ROOT / "tools" / "type_document.py"))["type_document"]


# In full the whole kit. The example, of which the first tutorial is a copy, always passes that.
FULL = os.environ.get("FUNCTIONFUSE_BATTERY") == "full"
STORAGE = "" if FULL else "TestSqliteStorage and (values_come_back or damage)"
SERIALIZER = "" if FULL else "not process and not pickle_returns and not stays_open"


@pytest.mark.battery
@pytest.mark.parametrize(
    ("document", "least", "share"),
    [
        ("writing-a-storage.md", 250 if FULL else 20, STORAGE),
        ("writing-a-serializer.md", 50 if FULL else 40, SERIALIZER),
    ],
    ids=["storage", "serializer"],
)
def test_the_typed_plugin_passes_the_kit(
    document: str,
    least: int,
    share: str,
    tmp_path: Path,
    wheels: Mapping[str, Path],
    make_environment: "Callable[[], Environment]",
) -> None:
    """In a fresh environment, with core and what the plugin itself asks for, and nothing else."""
    folder = tmp_path / "plugin"
    typed = TYPE_DOCUMENT(ROOT / "docs" / document, folder)
    assert "pyproject.toml" in typed
    environment = make_environment()
    environment.install(f"functionfuse-core[testing] @ {wheels['functionfuse-core'].as_uri()}")
    environment.install("--editable", f"{folder}[test]")
    printed = environment.run("-m", "pytest", "-W", "error", "-q", "-k", share, cwd=folder)
    passed = re.search(r"(\d+) passed", printed)
    assert passed
    assert least <= int(passed[1])


def test_the_storage_tutorial_is_the_example() -> None:
    """Every file of the document is the example's, to the letter, and no module is left out."""
    example = ROOT / "examples" / "functionfuse-sqlite"
    files = dict(
        runpy.run_path(str(ROOT / "tools" / "type_document.py"))["FILE"].findall(
            (ROOT / "docs" / "writing-a-storage.md").read_text(encoding="utf-8")
        )
    )
    assert files == {name: (example / name).read_text(encoding="utf-8") for name in files}
    modules = {path.relative_to(example).as_posix() for path in example.glob("src/*/*.py")}
    assert modules <= set(files)
