"""Files to ``spectra.zarr``: units of ours on two processes, against a loop with astropy and ``zarr`` writes.

Run: ``python -m benchmarks.ingest DATA [--copies 10] [--runs 5] [--workers 2]`` with DATA a directory of LAMOST
``.fits.gz`` files with OBSID. The survey is COPIES copies of every file. The loop reads a chunk's rows with
``astropy.io.fits`` and writes the chunk with ``zarr``'s default codecs; the same rows must hold the same pixels and
masks on both sides. Nothing here decides a test.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import zarr
from astropy.io import fits

from catalogue.spectra.ingest import ingest_unit
from catalogue.spectra.parent import import_parent
from catalogue.spectra.store import choose_chunk_rows, create_store, read_rows
from catalogue.surveys.lamost import LamostLowResolution

SURVEY = LamostLowResolution()
N_PIXELS = SURVEY.grid.n_pixels


def write_survey(data: Path, copies: int, scratch: Path) -> tuple[Path, list[str]]:
    """Parent table and files of a survey of ``copies`` copies."""
    paths = sorted(data.glob("*.fits.gz"))
    obsids = [int(fits.getheader(path)["OBSID"]) for path in paths]
    lines, names = ["obsid,filename"], []
    for copy in range(copies):
        (scratch / f"spectra/{copy}").mkdir(parents=True)
        for path, obsid in zip(paths, obsids, strict=True):
            shutil.copyfile(path, scratch / f"spectra/{copy}/{path.name}")
            names.append(f"{copy}/{path.name}")
            lines.append(f"{obsid},{names[-1]}")
    parent = scratch / "parent.csv"
    parent.write_text("\n".join(lines) + "\n")
    return parent, names


def loop(root: Path, names: list[str], path: Path, chunk_rows: int) -> None:
    """The usual script: one file after the other, one chunk at a time."""
    group = zarr.create_group(path, overwrite=True)
    shape, chunks = (len(names), N_PIXELS), (chunk_rows, N_PIXELS)
    arrays = {
        name: group.create_array(name, shape=shape, chunks=chunks, dtype=dtype)
        for name, dtype in (("flux", "f4"), ("ivar", "f4"), ("mask", "u2"))
    }
    redshift = np.full(len(names), np.nan)
    for start in range(0, len(names), chunk_rows):
        some = names[start : start + chunk_rows]
        flux, ivar = np.full((len(some), N_PIXELS), np.nan, "f4"), np.zeros((len(some), N_PIXELS), "f4")
        mask = np.zeros((len(some), N_PIXELS), "u2")
        for i, name in enumerate(some):
            with fits.open(root / name) as hdus:
                table = hdus[1].data
                n = len(table["FLUX"][0])
                flux[i, :n], ivar[i, :n] = table["FLUX"][0], table["IVAR"][0]
                mask[i, :n] = table["ANDMASK"][0].astype(int) | table["ORMASK"][0].astype(int) << 8
                redshift[start + i] = hdus[0].header["Z"]
        for name, values in (("flux", flux), ("ivar", ivar), ("mask", mask)):
            arrays[name][start : start + len(some)] = values
    group.create_array("z", data=redshift)


def one_unit(store: Path, parent: Path, root: Path, start: int, stop: int) -> int:
    ingest_unit(store, parent, SURVEY.name, root, start, stop)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def ours(pool: ProcessPoolExecutor, csv: Path, root: Path, work: Path, chunk_rows: int) -> int:
    """Import, store and all units; returns the largest resident memory of a worker in KiB."""
    parent, store = work / "parent.parquet", work / "ours.zarr"
    summary = import_parent(csv, parent, survey=SURVEY, key="obsid", template="{filename}", rows_per_group=chunk_rows)
    create_store(store, SURVEY, summary.n_rows, chunk_rows, chunk_rows, "obsid")
    starts = range(0, summary.n_rows, chunk_rows)
    jobs = [
        pool.submit(one_unit, store, parent, root, start, min(start + chunk_rows, summary.n_rows)) for start in starts
    ]
    return max(job.result() for job in jobs)


def require_equal(left: Path, right: Path, n_rows: int, chunk_rows: int) -> None:
    """Compare the pixels of both stores, chunk by chunk."""
    for start in range(0, n_rows, chunk_rows):
        stop = min(start + chunk_rows, n_rows)
        for name in ("flux", "ivar", "mask"):
            expected = read_rows(left, [name], start, stop)[name]
            np.testing.assert_array_equal(read_rows(right, [name], start, stop)[name], expected)


def size_of(path: Path) -> float:
    return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        csv, names = write_survey(arguments.data, arguments.copies, scratch)
        root, n_rows = scratch / "spectra", len(names)
        chunk_rows = choose_chunk_rows(n_rows, N_PIXELS)
        seconds: dict[str, list[float]] = {"loop": [], "catalogue": []}
        # Workers are warmed once, as those of a cluster are.
        with ProcessPoolExecutor(arguments.workers, get_context("spawn")) as pool:
            ours(pool, csv, root, scratch, chunk_rows)
            for _ in range(arguments.runs):
                begin = time.perf_counter()
                loop(root, names, scratch / "loop.zarr", chunk_rows)
                seconds["loop"].append(time.perf_counter() - begin)
                begin = time.perf_counter()
                memory = ours(pool, csv, root, scratch, chunk_rows)
                seconds["catalogue"].append(time.perf_counter() - begin)
            require_equal(scratch / "loop.zarr", scratch / "ours.zarr", n_rows, chunk_rows)
        sizes = {"loop": size_of(scratch / "loop.zarr"), "catalogue": size_of(scratch / "ours.zarr")}
    labels = {"loop": "astropy loop + zarr", "catalogue": f"catalogue, {arguments.workers} processes"}
    best = statistics.median(seconds["catalogue"])
    print(f"{n_rows} files, chunks of {chunk_rows} rows, median of {arguments.runs} runs, pixels equal on both sides\n")
    print(f"{'':28} {'s':>8} {'rows per s':>11} {'MB on disk':>11} {'against ours':>13}")
    for name, label in labels.items():
        median = statistics.median(seconds[name])
        print(f"{label:28} {median:8.2f} {n_rows / median:11.0f} {sizes[name]:11.1f} {median / best:12.2f}×")
    print(f"\nlargest resident memory of a worker: {memory / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
