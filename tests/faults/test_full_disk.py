"""A disk that runs full in any stage stops the run with words; with room, the same command goes on."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from cluster import StorageFullError
from tests.factories.runs import build_here, load, output_digests
from tests.faults.conftest import UNITS
from tests.faults.site import partial_files

PAGE = 4096


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own."""
    mount = tmp_path / "disk"
    mount.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system of limited size")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(mount)], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    yield mount
    subprocess.run(["umount", "--lazy", str(mount)], check=True)


def leave_room(disk, pages):
    """Give the file system so many free pages."""
    facts = os.statvfs(disk)
    used = (facts.f_blocks - facts.f_bfree) * facts.f_frsize
    subprocess.run(["mount", "-o", f"remount,size={used + pages * PAGE}", str(disk)], check=True)


def keep(undisturbed, disk, *patterns):
    """Put the finished run on the disk without the files of some patterns."""
    shutil.copytree(undisturbed.directory / "run", disk / "run", ignore=shutil.ignore_patterns(*patterns))


CATALOGUE = ("lamost_age_mass*", "report.html", "merge")
STAGES = {
    "ingest": ("infer", "ingest", "spectra.zarr", "predictions", *CATALOGUE),
    "infer": ("infer", "predictions", *CATALOGUE),
    "merge": CATALOGUE,
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_stops_the_stage_and_the_rerun_goes_on(undisturbed, disk, stage):
    keep(undisturbed, disk, *STAGES[stage])
    output = f"output.directory={disk / 'run'}"
    # Some chunks of spectra, some arrays of predictions, some blocks of a catalogue.
    leave_room(disk, {"ingest": 300, "infer": 60, "merge": 30}[stage])
    with pytest.raises((StorageFullError, OSError), match="No space left"):
        build_here(undisturbed.configuration, output)
    # Whatever file of the catalogue is there is complete.
    assert output_digests(load(undisturbed.configuration, output)).items() <= undisturbed.digests.items()
    assert not (disk / "run" / "run.lock").exists()
    done = {name: len(list((disk / "run" / "records" / name).rglob("0*.json"))) for name in ("ingest", "infer")}
    assert done["ingest"] == (UNITS if stage != "ingest" else done["ingest"])
    assert done[stage] < UNITS if stage != "merge" else done["infer"] == UNITS
    leave_room(disk, 8192)
    assert build_here(undisturbed.configuration, output) == undisturbed.digests
    assert partial_files(disk / "run") == []
