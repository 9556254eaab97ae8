"""A survey of the size of APOGEE DR17 through both models and all three products: time per stage, and peak memory.

Run: ``python -m benchmarks.apogee_dr17 make DIR PIXELS --rows 733901 --spectra 20000`` writes allStar (200 columns), as
many apStar files of simulated stars as asked for, and a configuration; PIXELS is a file with mean and spread of real
giants. ``python -m benchmarks.apogee_dr17 run DIR`` builds the catalogue with the command and prints a table. Of the
rows, 42 % pass the published selection, as in DR17; those of them beyond the number of spectra have no file.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import yaml
from astropy.io import fits

from catalogue.surveys.apogee import Apogee
from catalogue.training.apogee_simulation import simulate_spectra
from catalogue.training.labels import LabelTable
from catalogue.training.population import draw_population

SELECTED = 308_119 / 733_901
SELECT = "1.5 < LOGG < 3.6 and SNREV > 30"
BLOCK_ROWS = 20_000
SPECTRA_BLOCK = 256
STRETCH_ROWS = 4096
MIB = 1 << 20


def table_type() -> np.dtype:
    """A row of allStar: the survey's columns, and single-precision ones up to two hundred."""
    kinds = {"str": "S40", "float32": ">f4", "float64": ">f8", "int32": ">i4", "int64": ">i8"}
    fields = [(column.name.upper(), kinds[column.dtype]) for column in Apogee.columns if column.aliases]
    return np.dtype(fields + [(f"OTHER_{n}", ">f4") for n in range(200 - len(fields))])


def make(directory: Path, pixels: Path, rows: int, spectra: int) -> None:
    root = directory / "spectra" / "apo25m" / "simulated"
    root.mkdir(parents=True, exist_ok=True)
    stars = draw_population(spectra, np.random.default_rng(1))
    selected = np.random.default_rng(2).random(rows) < SELECTED
    # whole stretches of the table have their spectra, others none: dense as in a complete release
    every = max(1, int(selected.sum() / spectra))
    with_file = np.flatnonzero(selected & (np.arange(rows) // STRETCH_ROWS % every == 0))[:spectra]
    if len(with_file) < spectra:
        raise SystemExit(f"{rows} rows have {len(with_file)} selected ones in every {every}th stretch, not {spectra}")
    write_all_star(directory / "allStar.fits", rows, selected, with_file, stars)
    with np.load(pixels) as statistics:
        mean, spread = (statistics[name].astype(float) for name in ("mean", "std"))
    for first in range(0, spectra, SPECTRA_BLOCK):
        part = np.arange(first, min(first + SPECTRA_BLOCK, spectra))
        batch = simulate_spectra(stars.take(part), mean, spread, first)
        error = np.where(batch.ivar > 0, 1 / np.sqrt(np.where(batch.ivar > 0, batch.ivar, 1)), 1e10)
        for i, row in enumerate(with_file[part].tolist()):
            write_star(root / f"{name_of(row)}.fits", np.nan_to_num(batch.flux[i]), error[i], batch.mask[i])
    models = ["latent-age-apogee-simulated", "astronn-bcnn-apogee-simulated"]
    content = {
        "survey": "apogee",
        "parent": {"path": "allStar.fits"},
        "spectra": {"root": "spectra"},
        "select": SELECT,
        "model": models,
        "product": ["apogee_latent_age", "apogee_latent_age_plus", "apogee_age_mass"],
        "output": {"directory": "run", "formats": ["fits", "csv"]},
        "workers": 2,
        "inference": {"device": "cpu"},
    }
    (directory / "run.yaml").write_text(yaml.safe_dump(content))


def name_of(row: int) -> str:
    return f"apStar-dr17-2M{row:08d}+0000000"


def write_all_star(path: Path, rows: int, selected: np.ndarray, with_file: np.ndarray, stars: LabelTable) -> None:
    """Written in blocks: the table as a whole is larger than it needs to be in memory."""
    kind = table_type()
    header = fits.BinTableHDU(np.zeros(0, kind)).header
    header["NAXIS2"] = rows
    random = np.random.default_rng(3)
    star_of = np.full(rows, -1)
    star_of[with_file] = np.arange(len(with_file))
    with path.open("wb") as stream:
        stream.write(fits.PrimaryHDU().header.tostring().encode())
        stream.write(header.tostring().encode())
        for first in range(0, rows, BLOCK_ROWS):
            block = np.zeros(min(BLOCK_ROWS, rows - first), kind)
            here = np.arange(first, first + len(block))
            names = [name_of(row) for row in here.tolist()]
            block["APOGEE_ID"], block["FILE"] = [name[12:] for name in names], [f"{name}.fits" for name in names]
            block["TELESCOPE"], block["FIELD"], block["SNREV"] = "apo25m", "simulated", 100
            inside = selected[here]
            block["LOGG"] = np.where(inside, random.uniform(1.6, 3.5, len(block)), random.uniform(3.7, 4.6, len(block)))
            block["TEFF"], block["FE_H"] = random.normal(4700, 150, len(block)), random.normal(-0.1, 0.2, len(block))
            known = star_of[here] >= 0
            for name, label in (("TEFF", "teff"), ("LOGG", "logg"), ("FE_H", "feh"), ("ALPHA_M", "alpha_fe")):
                block[name][known] = getattr(stars, label)[star_of[here][known]]
            block["LOGG"][known] = block["LOGG"][known].clip(1.51, 3.59)
            stream.write(block.tobytes())
        stream.write(b"\0" * (-rows * kind.itemsize % 2880))


def write_star(path: Path, flux: np.ndarray, error: np.ndarray, mask: np.ndarray) -> None:
    """The first four HDUs of an apStar file of one visit, in single precision."""
    card = f"{'OBJID':8}= '{path.stem[12:]}'"
    parts = [_block([f"{'SIMPLE':8}= {'T':>20}", f"{'BITPIX':8}= {8:>20}", f"{'NAXIS':8}= {0:>20}", card])]
    for array, kind, bits in ((flux, ">f4", -32), (error, ">f4", -32), (mask, ">i2", 16)):
        cards = ["XTENSION= 'IMAGE   '", f"{'BITPIX':8}= {bits:>20}", f"{'NAXIS':8}= {1:>20}"]
        cards += [f"{'NAXIS1':8}= {len(array):>20}", f"{'PCOUNT':8}= {0:>20}", f"{'GCOUNT':8}= {1:>20}"]
        cards += [f"{'CRVAL1':8}= {4.179:>20}", f"{'CDELT1':8}= {6e-6:>20}"]
        data = array.astype(kind).tobytes()
        parts += [_block(cards), data, b"\0" * (-len(data) % 2880)]
    path.write_bytes(b"".join(parts))


def _block(cards: list[str]) -> bytes:
    return "".join(f"{card:80}" for card in [*cards, "END"]).ljust(2880).encode()


class Memory(threading.Thread):
    """Peak resident memory of a process and of its largest descendant, sampled."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process = psutil.Process(pid)
        self.driver, self.worker, self.all = 0, 0, 0
        self.series: list[tuple[float, int, int]] = []

    def run(self) -> None:
        began = time.perf_counter()
        while True:
            try:
                own = self.process.memory_info().rss
                others = [0]
                for child in self.process.children(recursive=True):
                    try:
                        others.append(child.memory_info().rss)
                    except psutil.Error:
                        continue
            except psutil.Error:
                return
            self.driver, self.worker = max(self.driver, own), max(self.worker, *others)
            self.all = max(self.all, own + sum(others))
            self.series.append((time.perf_counter() - began, own, max(others)))
            time.sleep(0.25)


def measure(directory: Path, most_seconds: float | None) -> None:
    began = time.time()
    command = [sys.executable, "-m", "catalogue", "build", str(directory / "run.yaml")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        memory = Memory(process.pid)
        memory.start()
        try:
            code = process.wait(most_seconds)
        except subprocess.TimeoutExpired:
            process.terminate()  # an orderly stop, from which the next run goes on
            code = process.wait()
    seconds = time.time() - began
    run = directory / "run"
    print(f"exit code {code}, {seconds:.0f} s; peak MiB: driver {memory.driver / MIB:.0f}, "
          f"largest worker {memory.worker / MIB:.0f}, all processes {memory.all / MIB:.0f}")  # fmt: skip
    marks = {"parent imported": [run / "parent.parquet"]}
    marks |= {
        "ingested": sorted(run.glob("records/ingest/*.json")),
        "predicted": sorted(run.glob("records/infer/*/*.json")),
    }
    marks |= {f"{path.stem} written": [path] for path in sorted(run.glob("records/merge/*.json"))}
    earlier = 0.0
    finished = {name: max(path.stat().st_mtime for path in paths) - began for name, paths in marks.items() if paths}
    for name, done in sorted(finished.items(), key=lambda item: item[1]):
        inside = [(own, other) for moment, own, other in memory.series if earlier <= moment <= done] or [(0, 0)]
        driver, worker = (max(values) / MIB for values in zip(*inside, strict=True))
        print(
            f"{name:40s} after {done:6.1f} s; {len(marks[name]):4d} records; "
            f"peak MiB: driver {driver:.0f}, worker {worker:.0f}"
        )
        earlier = done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    maker = commands.add_parser("make")
    maker.add_argument("directory", type=Path)
    maker.add_argument("pixels", type=Path)
    maker.add_argument("--rows", type=int, default=733_901)
    maker.add_argument("--spectra", type=int, default=20_000)
    runner = commands.add_parser("run")
    runner.add_argument("directory", type=Path)
    runner.add_argument("--seconds", type=float, default=None, help="stop after so long, to be run again")
    options = parser.parse_args()
    if options.command == "make":
        make(options.directory, options.pixels, options.rows, options.spectra)
    else:
        measure(options.directory, options.seconds)


if __name__ == "__main__":
    main()
