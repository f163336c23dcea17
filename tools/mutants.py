"""Check that the tests see faults: make each fault of `mutants.toml` in a copy, and run its tests.

    .venv/bin/python tools/mutants.py          all of them
    .venv/bin/python tools/mutants.py lease    those with "lease" in their name or file

An entry has a `name`, which says what is wrong; a `file`; `old`, a text that is in the file once;
`new`, which takes its place; and `tests`, of which one must fail then. A fault that no test sees is
printed as SURVIVED.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path(__file__).with_suffix(".toml")
NOT_COPIED = shutil.ignore_patterns(".git", ".venv*", ".hypothesis", ".*_cache", "__pycache__")

VERDICTS = {0: "SURVIVED", 1: "killed"}  # by pytest's exit codes


@dataclass(frozen=True)
class Mutant:
    """One entry of the table."""

    name: str
    file: str
    old: str
    new: str
    tests: list[str]


@contextmanager
def copied() -> Iterator[Path]:
    """Copy the checkout, with a Python that imports the code of the copy and no other.

    So do the processes that tests start. The packages are those of the running Python; what its
    `.pth` files name, such as the code of the checkout, is left out.
    """
    with TemporaryDirectory(prefix="mutant-") as folder:
        root = Path(folder, "checkout")
        shutil.copytree(ROOT, root, ignore=NOT_COPIED)
        environment = str(root / ".venv")
        venv.create(environment, symlinks=True)
        paths = [*map(str, root.glob("**/src")), sysconfig.get_path("purelib")]
        packages = sysconfig.get_path("purelib", "venv", {"base": environment})
        Path(packages, "copy.pth").write_text("\n".join(paths), encoding="utf-8")
        yield root


def tested(root: Path, tests: Iterable[str]) -> tuple[int, str]:
    """Run tests in a copy; return pytest's exit code and output."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # The servers that tests start: without them, a test is skipped, and no fault seen.
    beside = str(Path(sys.executable).parent)
    variables["PATH"] = f"{beside}{os.pathsep}{variables.get('PATH', os.defpath)}"
    command = [str(root / ".venv/bin/python"), "-m", "pytest", "-x", "-q", *tests]
    done = subprocess.run(
        command, cwd=root, env=variables, check=False, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def verdict_on(mutant: Mutant) -> str:
    """Make a fault in a copy, and say what its tests say."""
    with copied() as root:
        path = root / mutant.file
        text = path.read_text(encoding="utf-8")
        if (count := text.count(mutant.old)) != 1:
            return f"{count} TIMES `old` IN THE FILE"
        path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        code, output = tested(root, mutant.tests)
    return VERDICTS.get(code) or f"NO VERDICT, pytest ends with {code}:\n{output}\n"


def main(arguments: list[str]) -> int:
    """Print a verdict on each mutant that is asked for; return 1 unless all are killed."""
    entries = tomllib.loads(TABLE.read_text(encoding="utf-8"))["mutant"]
    mutants = [Mutant(**entry) for entry in entries]
    chosen = [m for m in mutants if all(part in f"{m.name} {m.file}" for part in arguments)]
    if not chosen:
        print(f"no mutant has {' and '.join(map(repr, arguments))} in its name or file")
        return 1
    # A test that fails anyway kills nothing.
    with copied() as root:
        code, output = tested(root, {test: None for mutant in chosen for test in mutant.tests})
    if code:
        print(output, "The tests must pass on the code as it is.", sep="\n")
        return 1
    killed = 0
    for mutant in chosen:
        verdict = verdict_on(mutant)
        killed += verdict == "killed"
        print(f"{verdict:<8}  {mutant.file.rpartition('/')[2]}: {mutant.name}", flush=True)
    print(f"{killed} of {len(chosen)} killed")
    return 0 if killed == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
