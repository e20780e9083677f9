"""What files are known by: on clean images every record agrees, and names have the hash that the kernel gave them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.views.vmas.name_hash import name_hashes

if TYPE_CHECKING:
    from support import Sample


def test_names_have_the_hash_that_the_kernel_gave_them(sample: Sample) -> None:
    """The kernel's own ``d_name.hash`` is what ``due`` was not taken from."""
    identities = sample.analysis.views.identities
    assert identities is not None
    names = identities.dentries
    hashed = names.hashed & (names.hash != 0)
    assert hashed.sum() > 100
    assert (names.hash[hashed] == names.due[hashed]).all()
    assert len(np.unique(names.length[hashed] // 8)) > 2  # names of no word, of one, of several


def test_names_are_on_the_chains_that_they_say_they_are_on(sample: Sample) -> None:
    identities = sample.analysis.views.identities
    assert identities is not None
    names = identities.dentries
    judged = (names.pprev != 0) & names.chain_read
    assert judged.sum() > 50
    assert (names.back[judged] == names.dentry[judged] + np.uint64(identities.dentry_hash)).all()


def test_files_are_named_by_their_own_inodes(sample: Sample) -> None:
    views = sample.analysis.views
    assert views.identities is not None
    files = views.identities.files
    plain = files.ok & ~files.stacked
    assert plain.sum() > 100
    assert (files.named[plain] == files.inode[plain]).all()
    assert (files.mount_sb[files.ok] == files.dentry_sb[files.ok]).all()
    assert not files.foreign[plain].any()


def test_tasks_have_the_numbers_of_their_struct_pids(sample: Sample) -> None:
    views = sample.analysis.views
    assert views.sources is not None
    assert views.pid_numbers is not None
    known = views.pid_numbers.ok
    assert known.sum() > 50
    assert (views.pid_numbers.number[known] == views.sources.tasks.pid[known]).all()


def test_a_hash_depends_on_the_name_and_on_what_it_is_beneath() -> None:
    names = np.frombuffer(b"libc.so.6libm.so.6", np.uint8).reshape(2, 9)
    one, other = np.array([1 << 63, 1 << 63], np.uint64), np.array([(1 << 63) + 192] * 2, np.uint64)
    found = {*name_hashes(names, one).tolist(), *name_hashes(names, other).tolist()}
    assert len(found) == 4
    assert name_hashes(names[:0], one[:0]).tolist() == []
