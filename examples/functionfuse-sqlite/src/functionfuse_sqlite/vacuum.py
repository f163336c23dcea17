"""The command `functionfuse vacuum`: give back the disk room of removed results."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from functionfuse.cli import UsageError, emit, open_storage
from functionfuse.hookspecs import CliCommand, hookimpl

__all__ = ["functionfuse_cli_commands"]


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only tell how much it would be")


def _run(arguments: Namespace) -> int:
    from functionfuse_sqlite.store import SqliteStore

    store = open_storage(arguments).store
    if not isinstance(store, SqliteStore):
        raise UsageError(f"vacuum is for storages of the kind 'sqlite', and this is {store!r}")
    freed = store.unused() if arguments.dry_run else store.vacuum()
    what = "are unused" if arguments.dry_run else "are given back"
    emit(arguments, {"path": store.path, "bytes": freed}, f"{freed:,} bytes {what}: {store.path}")
    return 0


@hookimpl
def functionfuse_cli_commands() -> list[CliCommand]:
    """Bring the command."""
    about = "Give back the disk room of removed results in an SQLite file"
    return [CliCommand("vacuum", about, _configure, _run, api_version=1)]
