from __future__ import annotations

import errno
import os

import pytest

from catalogue.writers import background
from catalogue.writers.background import BackgroundFile


def test_blocks_are_stored_in_order(tmp_path):
    file = BackgroundFile(tmp_path / "x")
    for number in range(100):
        file.write(bytes([number]) * 1000)
    file.overwrite(3, b"abc")
    file.close()
    expected = bytearray(b"".join(bytes([number]) * 1000 for number in range(100)))
    expected[3:6] = b"abc"
    assert (tmp_path / "x").read_bytes() == expected


def test_short_writes_are_continued(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(background.os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    file = BackgroundFile(tmp_path / "x")
    file.write(b"0123456789" * 10)
    file.close()
    assert (tmp_path / "x").read_bytes() == b"0123456789" * 10


def test_an_error_of_the_disk_is_raised_at_the_latest_when_closing(tmp_path, monkeypatch):
    def full(descriptor, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    file = BackgroundFile(tmp_path / "x")
    monkeypatch.setattr(background.os, "write", full)
    file.write(b"a")
    with pytest.raises(OSError, match="No space left"):
        file.close()
    file.discard()


def test_few_blocks_wait(tmp_path, monkeypatch):
    file = BackgroundFile(tmp_path / "x")
    for _ in range(20):
        file.write(b"a")
        assert len(file._waiting) <= 2
    file.close()
