"""A file system that gives less than it should, or nothing for a while: no row is taken for damaged."""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from pathlib import Path

import pytest

from catalogue.spectra.primitives import RowStatus
from catalogue.surveys import load_survey
from catalogue.surveys.regular_fits import read_promised
from tests.factories import apogee, lamost
from tests.factories.runs import build_here


class Faulty:
    """``os.pread`` that does by plan, per offset of each file and attempt, what network file systems do."""

    def __init__(self, monkeypatch, plan):
        self.plan = plan
        self.passed = Counter()
        self._lock = threading.Lock()
        self._pread = os.pread
        monkeypatch.setattr(os, "pread", self)

    def __call__(self, descriptor, length, offset):
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        with self._lock:
            self.passed[name, offset] += 1
            action = self.plan(name, offset, self.passed[name, offset])
        if action == "stale":
            raise OSError(errno.ESTALE, "Stale file handle")
        if action == "end":
            return b""
        return self._pread(descriptor, min(length, 1000) if action == "short" else length, offset)


def test_short_reads_are_put_together(undisturbed, tmp_path, monkeypatch):
    faulty = Faulty(monkeypatch, lambda name, offset, attempt: "short")
    digests = build_here(undisturbed.configuration, f"output.directory={tmp_path / 'run'}")
    assert max(offset for _, offset in faulty.passed) >= 1000
    assert digests == undisturbed.digests


@pytest.mark.parametrize("action", ["end", "stale"])
def test_stale_files_are_read_again_and_not_called_truncated(undisturbed, tmp_path, monkeypatch, action):
    def plan(name, offset, attempt):
        return action if attempt == 1 and name.endswith(("-003.fits.gz", "-130.fits.gz")) else "read"

    faulty = Faulty(monkeypatch, plan)
    digests = build_here(undisturbed.configuration, f"output.directory={tmp_path / 'run'}")
    attempts = [count for (name, _), count in faulty.passed.items() if plan(name, 0, 1) == action]
    assert attempts == [2] * len(attempts) != []
    assert digests == undisturbed.digests


@pytest.mark.parametrize("survey", ["lamost-lrs", "apogee"])
def test_both_surveys_tell_a_stale_file_from_a_truncated_one(tmp_path, monkeypatch, survey):
    path = tmp_path / "spectrum.fits"
    if survey == "apogee":
        apogee.write_apstar(path)
    else:
        lamost.write_coadd(path, 1)
    whole = path.read_bytes()
    Faulty(monkeypatch, lambda name, offset, attempt: "end" if offset else "short")
    with pytest.raises(OSError, match=r"the file system gave \d+") as raised:
        load_survey(survey).read(path)
    assert raised.value.errno == errno.EIO
    path.write_bytes(whole[: len(whole) // 2])
    monkeypatch.undo()
    with pytest.raises(Exception, match=r"expected|end") as raised:
        load_survey(survey).read(path)
    assert raised.value.status is RowStatus.TRUNCATED


def test_beyond_the_end_there_is_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"0123456789")
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        assert read_promised(descriptor, "file", 10, 4, 8) == b"89"
        assert read_promised(descriptor, "file", 10, 4, 12) == b""
    finally:
        os.close(descriptor)
