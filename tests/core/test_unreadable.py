"""Files and folders of somebody else, which this user may not read, in a store."""

from __future__ import annotations

import os

import pytest
from kept_values import Kept, KeptSerializer
from other_users import NOBODY, as_user, needs_root, open_folder

from functionfuse.errors import ResultNotFoundError, StoragePathError
from functionfuse.storage.filestorage import FileStorage

pytestmark = needs_root


@pytest.mark.parametrize("mode", [0o700, 0o711, 0o744, 0o755])
def test_what_another_user_may_not_read_is_left(mode: int) -> None:
    """A folder beside the workflows, or in one; a folder in it; a file beside results."""
    with open_folder() as path:
        storage = FileStorage(path)
        storage.register_persistent_serializers(KeptSerializer)
        (path / "lost+found" / ".tmp-x").mkdir(parents=True)
        (path / "lost+found" / ".tmp-x").chmod(0o700)
        (path / "lost+found").chmod(mode)

        def kept() -> None:
            storage.save("w", "t", Kept(b"x" * 10))
            assert ["w"] == storage.list_workflows()

        as_user(NOBODY, kept)
        for name in (".private", "private"):
            (path / "w" / name).mkdir(mode=0o700)
        secret = path / "w" / "secret"
        secret.write_text("of somebody else")
        secret.chmod(0o600)

        def look() -> None:
            assert ["w"] == storage.list_workflows()
            assert [] == storage.gc(-60.0, dry_run=True)
            assert [] == storage.gc(-60.0)
            assert ["w"] == [usage.workflow for usage in storage.du()]
            assert 1 == sum(not record.problem for record in storage.verify())
            storage.remove_workflow("w")
            with pytest.raises(ResultNotFoundError):
                storage.read_task("w", "t")

        as_user(NOBODY, look)
        assert "of somebody else" == secret.read_text()
        assert [".private", "private", "secret"] == sorted(os.listdir(path / "w"))


def test_our_own_folder_that_can_t_be_read_is_an_error() -> None:
    """Else the side data of the results in it would count as unused."""
    with open_folder() as path:
        storage = FileStorage(path)
        storage.register_persistent_serializers(KeptSerializer)
        as_user(NOBODY, lambda: storage.save("w", "t", Kept(b"x" * 10)))
        (path / "w" / ".earlier").mkdir(mode=0o700)

        def look() -> None:
            with pytest.raises(PermissionError):
                storage.remove_workflow("w")
            with pytest.raises(PermissionError):
                storage.du()

        as_user(NOBODY, look)


@pytest.mark.parametrize("name", [".data", ".earlier"])
def test_a_folder_of_ours_that_another_user_made(name: str) -> None:
    """Without the right to write there, nothing is computed."""
    with open_folder() as path:
        (path / "w" / name).mkdir(parents=True, mode=0o755)
        (path / "w").chmod(0o777)

        def look() -> None:
            with pytest.raises(StoragePathError, match=f"no permission to write in .*{name}"):
                FileStorage(path).new_workflow("w")

        as_user(NOBODY, look)


def test_a_workflow_that_can_t_be_read_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Else it would seem that there is none."""
    with open_folder() as path:
        FileStorage(path).save("closed", "t", 1)
        (path / "closed").chmod(0o700)

        def look() -> None:
            assert [] == FileStorage(path).list_workflows()
            assert "the folder 'closed/' in" in caplog.text

        as_user(NOBODY, look)
