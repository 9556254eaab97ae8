"""Files to catalogue for a simulated APOGEE survey: ``catalogue build`` against a script in the reference's style.

Run: ``python -m benchmarks.apogee_chain DATA [--stars 20000] [--different 2000] [--runs 3] [--passes 100]`` with DATA
holding ``labels/`` and ``apogee/pixel_statistics_dr17_giants.npz``. Every file belongs to STARS/DIFFERENT rows of
the parent table, through links. Both sides run as commands of their own, with the same bundle; the script may use all
threads in its network, ours has two workers. Memory is that of all processes of a side together, resident, polled;
it counts pages that they share more than once. Masks of dropout differ, so ages are compared with their error.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import torch
import yaml
from astropy.io import fits
from astropy.table import Table

from benchmarks.apogee_reference import compile_pass, continuum_pass, network_pass
from benchmarks.astronn_dropout import plain_network
from catalogue.models import find_bundle, load_bundle
from catalogue.models.astronn_bcnn import AstroNNBayesian
from catalogue.training.apogee_simulation import simulate_spectra
from catalogue.training.labels import apokasc_labels

BUNDLE = "astronn-bcnn-apogee-simulated"


def write_star(path: Path, flux: np.ndarray, ivar: np.ndarray, mask: np.ndarray) -> None:
    """One apStar file of one visit, with the types of DR17."""
    error = np.where(ivar > 0, 1.0 / np.sqrt(np.maximum(ivar, 1e-30)), 1e10)
    primary = fits.PrimaryHDU()
    for card, value in (("OBJID", path.stem), ("RA", 10.0), ("DEC", 20.0), ("SNR", 100.0), ("NVISITS", 1)):
        primary.header[card] = value
    hdus = fits.HDUList([primary])
    arrays = np.nan_to_num(flux).astype("f8"), error.astype("f8"), mask.astype("i8")
    for array in (*arrays, *arrays[:2]):
        hdu = fits.ImageHDU(array[None])
        hdu.header["CRVAL1"], hdu.header["CDELT1"] = 4.179, 6e-6
        hdus.append(hdu)
    hdus.writeto(path)


def write_survey(data: Path, scratch: Path, stars: int, different: int) -> None:
    """Files, allStar table and configuration."""
    labels = apokasc_labels(data / "labels")
    with np.load(data / "apogee" / "pixel_statistics_dr17_giants.npz") as found:
        mean, spread = found["mean"].astype(float), found["std"].astype(float)
    (scratch / "spectra").mkdir()
    columns: dict[str, list] = {name: [] for name in ("APOGEE_ID", "FILE", "TEFF", "LOGG", "FE_H")}
    for start in range(0, different, 500):
        part = labels.take(np.arange(start, min(start + 500, different)) % len(labels))
        batch = simulate_spectra(part, mean, spread, start)
        for row in range(len(batch)):
            name = f"apStar-dr17-{start + row:06d}"
            write_star(scratch / "spectra" / f"{name}.fits", batch.flux[row], batch.ivar[row], batch.mask[row])
            values = name, f"{name}.fits", *(batch.columns[key][row] for key in ("teff", "logg", "fe_h"))
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
    index = np.arange(stars) % different
    table = Table({name: np.array(values)[index] for name, values in columns.items()})
    copies = np.arange(stars) // different
    table["FILE"] = [f"{copy}/{name}" if copy else name for copy, name in zip(copies, table["FILE"], strict=True)]
    for copy in range(1, copies.max() + 1):
        (scratch / "spectra" / str(copy)).mkdir()
        for path in (scratch / "spectra").glob("*.fits"):
            os.link(path, scratch / "spectra" / str(copy) / path.name)
    table["TELESCOPE"], table["FIELD"], table["LOCATION_ID"] = "apo25m", "simulated", np.int32(4000)
    table["RA"], table["DEC"] = np.linspace(0, 360, stars, endpoint=False), np.linspace(-20, 80, stars)
    table["SNR"], table["SNREV"] = np.float32(100), np.float32(100)
    table["STARFLAG"], table["ASPCAPFLAG"] = np.int64(0), np.int64(0)
    table["ALPHA_M"], table["EXTRATARG"] = np.float32(0.05), np.int32(0)
    table.write(scratch / "allStar.fits")


def write_configuration(scratch: Path, workers: int, passes: int) -> Path:
    content = {
        "survey": "apogee",
        "parent": {"path": "allStar.fits", "key": "apogee_id"},
        "spectra": {"root": "spectra", "path": "{FILE}"},
        "model": BUNDLE,
        "product": "apogee_age_mass",
        "output": {"directory": "run", "formats": ["fits"], "report": False},
        "workers": workers,
        "inference": {"passes": passes, "device": "cpu"},
    }
    path = scratch / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def reference(scratch: Path, passes: int) -> None:
    """The script's three passes."""
    model = AstroNNBayesian(load_bundle(find_bundle(BUNDLE, Path.cwd())))
    network, scale = plain_network(model._network), np.array(model.label_scale.scale)
    parent, spectra, ages = scratch / "allStar.fits", scratch / "contspec.fits", scratch / "ages.fits"
    times = [time.perf_counter()]
    continuum_pass(parent, scratch / "spectra", model._inputs._pixels, spectra)
    times.append(time.perf_counter())
    network_pass(parent, spectra, network, model._inputs._mean, scale, passes, ages)
    times.append(time.perf_counter())
    compile_pass(parent, ages, scratch / "reference.fits")
    times.append(time.perf_counter())
    print("  script's passes, s:", " ".join(f"{after - before:.1f}" for before, after in itertools.pairwise(times)))


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds and largest resident memory in MiB of a command and its children."""
    began = time.perf_counter()
    process = subprocess.Popen(command)
    peak, over = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.2):
            total = 0
            with contextlib.suppress(psutil.Error):  # processes that end meanwhile
                for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
                    total += one.memory_info().rss
            peak = max(peak, total)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    code = process.wait()
    seconds = time.perf_counter() - began
    over.set()
    if code:
        raise RuntimeError(f"{command} ended with {code}")
    return seconds, peak / 2**20


def compare(scratch: Path, passes: int) -> None:
    """Both catalogues: same rows, ages within what T passes allow."""
    ours, theirs = Table.read(scratch / "run" / "apogee_age_mass.fits"), Table.read(scratch / "reference.fits")
    assert list(ours["APOGEE_ID"]) == list(theirs["APOGEE_ID"])
    for name in ("age", "mass"):
        mine, other = (np.asarray(table[name], float) for table in (ours, theirs))
        both = np.isfinite(mine) & np.isfinite(other)
        spread = np.hypot(ours[f"{name}_model_error"], theirs[f"{name}_model_error"]) / np.sqrt(passes)
        apart = np.median(np.abs(mine - other)[both] / spread[both])
        ratio = np.median((ours[f"{name}_total_error"] / theirs[f"{name}_total_error"])[both])
        alone = int((np.isfinite(mine) != np.isfinite(other)).sum())
        print(
            f"  {name}: {both.sum()} rows on both sides, {alone} on one; means differ by {apart:.2f} of their error "
            f"(expected 0.67 for draws of every star's own); total errors by a factor {ratio:.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    for name, value in (("stars", 20_000), ("different", 2000), ("runs", 3), ("passes", 100), ("workers", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--script", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.script:
        return reference(options.script, options.passes)
    found: dict[str, list[tuple[float, float]]] = {"script": [], "catalogue build": []}
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        write_survey(options.data, scratch, options.stars, min(options.different, options.stars))
        configuration = write_configuration(scratch, options.workers, options.passes)
        script = ["-m", "benchmarks.apogee_chain", str(options.data), "--script", directory]
        commands = {
            "script": [sys.executable, *script, "--passes", str(options.passes)],
            "catalogue build": [sys.executable, "-m", "catalogue", "build", str(configuration)],
        }
        for run in range(options.runs):
            for name, command in commands.items():
                shutil.rmtree(scratch / "run", ignore_errors=True)
                found[name].append(timed(command))
                print(f"  run {run + 1}, {name}: {found[name][-1][0]:.1f} s", flush=True)
            if run == 0:
                compare(scratch, options.passes)
    print(f"{options.stars} stars, T = {options.passes}, median of {options.runs} runs, {torch.get_num_threads()} CPUs")
    first = statistics.median(seconds for seconds, _ in found["script"])
    for name, results in found.items():
        median = statistics.median(seconds for seconds, _ in results)
        runs = " ".join(f"{seconds:.1f}" for seconds, _ in results)
        memory = max(peak for _, peak in results)
        print(f"{name:16s} {median:8.1f} s  {first / median:6.2f} x  peak memory {memory:6.0f} MiB  (runs: {runs})")
    return None


if __name__ == "__main__":
    main()
