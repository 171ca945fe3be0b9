from __future__ import annotations

import errno

import pytest

from distill.errors import UserError
from distill.files import atomic_path
from tests.distill.full_disk import full_disk


def test_the_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "a" / "b.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "b.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="disk full"), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("disk full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    with full_disk(100), pytest.raises(UserError, match="b.txt: the disk is full"):
        with atomic_path(tmp_path / "b.txt") as temporary:
            temporary.write_text("x" * 200)
    assert not list(tmp_path.iterdir())


def test_other_errors_of_the_system_stay_what_they_are(tmp_path):
    with pytest.raises(PermissionError), atomic_path(tmp_path / "b.txt"):
        raise PermissionError(errno.EACCES, "no")


def test_two_writers_do_not_share_a_temporary_file(tmp_path):
    path = tmp_path / "b.txt"
    with atomic_path(path) as first, atomic_path(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # it ended last


def test_others_may_read_the_file(tmp_path):
    with atomic_path(tmp_path / "b.txt"):
        pass
    assert (tmp_path / "b.txt").stat().st_mode & 0o777 == 0o644
