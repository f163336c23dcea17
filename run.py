#!/usr/bin/env python3
"""Set up this checkout and run its tasks.

    python3 run.py demo       run a real workflow three times, read its stored results, and write a
                              page about a run, all in ./comparison; --backend ray: on Ray, which is
                              installed for it
    python3 run.py test       run the tests; further arguments go to pytest
    python3 run.py check      lint, types, layers, dependencies, links; arguments select tools
    python3 run.py bench      run the benchmarks
    python3 run.py battery    run the long fault tests in full; arguments go to pytest
    python3 run.py pythons    run core's tests on the other Pythons that core names and the machine
                              has, each in a `.venv-3.x` made for it; arguments go to pytest
    python3 run.py fix        let ruff repair and format the code

Every command first brings `.venv` up to date, with the versions in constraints.txt: `demo` installs
the core and scikit-learn, the others what they need. Paths are relative to the checkout.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 -- other versions can read this far, and no further
    sys.exit(
        f"Function Fuse needs Python 3.11 or newer, and this is {sys.version.split()[0]} "
        f"({sys.executable}). Start run.py with a newer one, for instance: python3.11 run.py"
    )

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
SCRIPTS = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = str(SCRIPTS / ("python.exe" if os.name == "nt" else "python"))
CONSTRAINTS = ROOT / "constraints.txt"
STAMP = VENV / "run.json"

CORE = "functionfuse_core"
PLUGINS = ("plugins/functionfuse_s3", "plugins/functionfuse_ray", "plugins/functionfuse_dask")
EXAMPLE = "examples/functionfuse-sqlite"

# Each group of the root pyproject.toml holds the one before it.
GROUPS: dict[str, tuple[str, ...]] = {
    "demo": (CORE,),
    "demo-ray": (CORE, "plugins/functionfuse_ray"),
    "test": (CORE, *PLUGINS, EXAMPLE),
    "check": (CORE, *PLUGINS, EXAMPLE),
}

# Of the caller's PIP_*, UV_* and PYTHON* variables, the tasks see those that say where packages
# come from and how text is shown. The others would change what is installed, run or measured.
KEPT = re.compile(
    "INDEX|LINKS|CERT|TLS|PROXY|HOST|TIMEOUT|RETRIES|CACHE|KEYRING|CONFIG_FILE|IOENCODING|UTF8"
)


class SetupError(Exception):
    """The environment could not be made; the message says why."""


def environment() -> dict[str, str]:
    """Return the environment that the tasks run in."""
    result = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PIP_", "UV_", "PYTHON")) or KEPT.search(name)
    }
    if "PIP_INDEX_URL" in result:
        result.setdefault("UV_DEFAULT_INDEX", result["PIP_INDEX_URL"])
    result["PATH"] = os.pathsep.join([str(SCRIPTS), result.get("PATH", os.defpath)])
    result["UV_PYTHON_DOWNLOADS"] = "never"
    result["VIRTUAL_ENV"] = str(VENV)
    return result


def call(command: Sequence[str], **variables: str) -> int:
    """Run a command in the checkout and return its exit code, as a shell would give it."""
    with subprocess.Popen(command, cwd=ROOT, env=environment() | variables) as process:
        while True:
            try:
                code = process.wait()
            except KeyboardInterrupt:
                continue  # the child got it too, and decides
            return code if code >= 0 else 128 - code


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, waiting for another run.py that holds it."""
    with path.open("w") as file:
        if sys.platform == "win32":
            import msvcrt

            while True:
                with suppress(OSError):  # it gives up after ten seconds
                    msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                    break
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_stamp() -> dict[str, str]:
    """Return what the environment was made from; empty when it was never finished."""
    try:
        stamp = json.loads(STAMP.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) and Path(PYTHON).exists() else {}


def prepare(group: str) -> None:
    """Bring `.venv` up to date for a group; does nothing when it is, or holds a bigger one."""
    base = f"{sys.version} in {ROOT}"
    projects = [ROOT / folder / "pyproject.toml" for folder in (".", CORE, *PLUGINS, EXAMPLE)]
    inputs = b"\0".join(path.read_bytes() for path in (*projects, CONSTRAINTS, Path(__file__)))
    wanted = {"base": base, "inputs": hashlib.sha256(inputs).hexdigest(), "group": group}
    enough = [wanted | {"group": name} for name in list(GROUPS)[list(GROUPS).index(group) :]]

    if read_stamp() in enough:
        return
    with locked(ROOT / ".venv.lock"):
        stamp = read_stamp()
        if stamp in enough:
            return
        if stamp.get("base") != base:
            make_venv()
        STAMP.write_text(json.dumps({"base": base}), encoding="utf-8")
        install_uv()
        install(group, GROUPS[group], PYTHON)
        STAMP.write_text(json.dumps(wanted), encoding="utf-8")


def make_venv() -> None:
    """Make `.venv` anew, with pip in it."""
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        raise SetupError(
            f"{sys.executable} can't make virtual environments: its venv or ensurepip module is "
            "missing. On Debian and Ubuntu: apt install python3-venv"
        )
    step("Making .venv", [sys.executable, "-m", "venv", "--clear", str(VENV)])


def install_uv() -> None:
    """Install uv in `.venv`."""
    uv = re.search(r"^uv==\S+$", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    if uv is None:
        raise SetupError(f"{CONSTRAINTS} names no version of uv")
    options = ["--quiet", "--disable-pip-version-check", "--no-input"]
    step("Installing uv", [PYTHON, "-m", "pip", "install", *options, uv.group()])


def install(group: str, folders: Sequence[str], python: str) -> None:
    """Install a group and distributions, editable, with uv, in the environment of a Python."""
    options = ["--python", python, "--constraints", "constraints.txt"]
    options += ["--build-constraints", "constraints.txt", "--group", group]
    options += [f"--editable=./{folder}" for folder in folders]
    step(f"Installing what `{group}` needs", [PYTHON, "-m", "uv", "pip", "install", *options])


def step(title: str, command: Sequence[str]) -> None:
    """Run one step of the set-up, with its output on standard error."""
    print(f"{title} ...", file=sys.stderr, flush=True)
    try:
        subprocess.run(command, cwd=ROOT, env=environment(), check=True, stdout=sys.stderr)
    except subprocess.CalledProcessError as error:
        raise SetupError(f"{title} failed. {error}") from error


def check(names: Sequence[str]) -> int:
    """Run every tool, or those whose names begin with one of the given, and report on each."""
    python = [PYTHON, "-m"]
    tools = {
        "ruff check": [*python, "ruff", "check"],
        "ruff format": [*python, "ruff", "format", "--check"],
        "mypy": [*python, "mypy"],
        "import-linter": [str(SCRIPTS / "lint-imports"), "--no-logo"],
        "links": [PYTHON, "tools/check_links.py"],
    }
    for folder in (CORE, *PLUGINS, EXAMPLE):
        options = ["--no-ansi", "--config", f"{folder}/pyproject.toml"]
        tools[f"deptry {folder}"] = [*python, "deptry", f"{folder}/src", *options]
    chosen = [tool for tool in tools if not names or tool.startswith(tuple(names))]
    if not chosen:
        print(f"No tool is called {' or '.join(names)}; there are: {', '.join(tools)}")
        return 2

    failed = []
    for name in chosen:
        started = time.perf_counter()
        result = subprocess.run(
            tools[name], cwd=ROOT, env=environment(), check=False, capture_output=True
        )
        verdict = "FAILED" if result.returncode else "ok"
        print(f"{name:<34} {verdict:<7} {time.perf_counter() - started:5.1f} s", flush=True)
        if result.returncode:
            failed.append(name)
            print((result.stdout + result.stderr).decode(errors="replace"), flush=True)
    if failed:
        print(f"check failed: {', '.join(failed)}")
    return 1 if failed else 0


def battery(arguments: Sequence[str]) -> int:
    """Run the long fault tests in full."""
    unlimited = ["-o", "faulthandler_timeout=0"]
    command = [PYTHON, "-m", "pytest", "-m", "battery", "-s", *unlimited, *arguments]
    return call(command, FUNCTIONFUSE_BATTERY="full")


def pythons(arguments: Sequence[str]) -> int:
    """Run core's tests on each other Python that its classifiers name; 1 if they fail on one."""
    project = tomllib.loads((ROOT / CORE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r":: (3\.\d+)$", "\n".join(project["classifiers"]), re.MULTILINE)
    others = [version for version in named if version != f"3.{sys.version_info.minor}"]
    outcomes = [on_python(version, arguments) for version in others]
    print("Core's tests on other Pythons:", "; ".join(outcomes), flush=True)
    return int(any(outcome.endswith("FAILED") for outcome in outcomes))


def on_python(version: str, arguments: Sequence[str]) -> str:
    """Run core's tests on one Python, in an environment made for it; tell how that ended."""
    venv, uv = ROOT / f".venv-{version}", [PYTHON, "-m", "uv"]
    os.environ["PYENV_VERSION"] = version  # else pyenv's python3.x runs only where it is chosen
    search = [*uv, "python", "find", "--no-project", "--system", "--show-version", version]
    found = subprocess.run(search, env=environment(), check=False, capture_output=True, text=True)
    if found.returncode:
        return f"{version} not found"
    with locked(ROOT / f".venv-{version}.lock"):
        options = ["--quiet", "--no-project", "--clear", "--python", version]
        step(f"Making {venv.name}", [*uv, "venv", *options, str(venv)])
        python = str(venv / SCRIPTS.name / Path(PYTHON).name)
        install("core", (CORE,), python)
        failed = call([python, "-m", "pytest", *(arguments or (*ELSEWHERE, *AT_ONCE))])
    return f"{found.stdout.strip()} {'FAILED' if failed else 'passed'}"


def fix(paths: Sequence[str]) -> int:
    """Let ruff repair what it can, then format; returns the first exit code that isn't 0."""
    ruff = [PYTHON, "-m", "ruff"]
    repaired = call([*ruff, "check", "--fix", *paths])
    formatted = call([*ruff, "format", *paths])
    return repaired or formatted


# Without those that take long and are about disks, the kits, pictures and the size of graphs: they
# would find the same with each Python.
LONG = [
    *("battery", "test_damage.py", "test_graph.py", "test_graphback.py", "test_model.py"),
    *("testing/test_kit_catches.py", "testing/test_kit_on_files.py", "test_notebooks.py"),
    *("testing/test_kit_on_plugins.py", "test_reuse_together.py", "test_copy_held.py"),
    *("page/test_browser.py", "page/test_looks.py", "test_progress.py", "test_progress_text.py"),
]
ELSEWHERE = ("tests/core", *(f"--ignore=tests/core/{name}" for name in LONG))

# All tests, in three processes: most wait for files, servers and other processes half of the time,
# so that they keep two cores busy. What takes longest comes first, see tests/conftest.py.
AT_ONCE = ("-n", "3", "--no-loadscope-reorder")

TASKS: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "demo": ("demo", lambda rest: call([PYTHON, "examples/classifier_comparison/demo.py", *rest])),
    "test": ("test", lambda rest: call([PYTHON, "-m", "pytest", *(rest or AT_ONCE)])),
    "check": ("check", check),
    "bench": ("test", lambda rest: call([PYTHON, "benchmarks/run.py", *rest])),
    "battery": ("test", battery),
    "pythons": ("demo", pythons),
    "fix": ("check", fix),
}


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    name, *rest = arguments or ["--help"]
    if name in {"-h", "--help", "help"}:
        print(__doc__, end="")
        return 0
    if name not in TASKS:
        print(f"run.py has no command {name!r}.\n\n{__doc__}", end="", file=sys.stderr)
        return 2
    group, task = TASKS[name]
    if name == "demo" and "ray" in rest:
        group = "demo-ray"
    prepare(group)
    return task(rest)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as error:
        sys.exit(f"run.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
