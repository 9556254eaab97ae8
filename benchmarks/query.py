"""Three questions to a catalogue of ten million rows, side by side with other tools, each in its own process.

    python benchmarks/query.py make DIRECTORY [ROWS]     generate the catalogue as Zarr, Parquet (two orders) and FITS
    python benchmarks/query.py run DIRECTORY [REPEATS]   answer the questions and print a table

Questions: a cone of one degree; good rows grouped by ten bins of metallicity, with the mean age of each; the nearest
row within 2" of each of 10,000 positions, half of which have one. Memory is the largest resident size of the process,
libraries included; time is without the start of Python, with the import of the tool.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROWS = 10_000_000
BLOCK = 250_000
CONE = (150.0, 30.0, 1.0)
EDGES = np.linspace(-1.0, 0.6, 11)
RADIUS = 2.0 / 3600


def make(directory: Path, rows: int) -> None:
    """Write the catalogue in three formats, block by block."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from catalogue.writers import writer_for
    from tests.factories.catalogues import PROVENANCE, lamost_model, simulated_namespace

    directory.mkdir(parents=True, exist_ok=True)
    model = lamost_model()
    formats = ("zarr", "parquet", "fits", "parquet-healpix")
    writers = [
        writer_for(name)(directory / f"cat{writer_for(name).suffix}", model, rows, PROVENANCE) for name in formats
    ]
    targets = []
    for start in range(0, rows, BLOCK):
        count = min(BLOCK, rows - start)
        namespace = simulated_namespace(count, seed=start)
        namespace["obsid"] = 100_000_000 + np.arange(start, start + count)
        columns = model.evaluate(namespace)
        for writer in writers:
            writer.write(columns)
        chosen = np.random.default_rng(start).choice(count, max(1, 5000 * count // rows), replace=False)
        targets.append(np.stack([columns["ra"][chosen], columns["dec"][chosen] + 0.5 / 3600, start + chosen], axis=1))
        print(f"{start + count:,} rows", flush=True)
    for writer in writers:
        writer.close()
    there = np.concatenate(targets)
    random = np.random.default_rng(1)
    elsewhere = np.stack([random.uniform(0, 360, len(there)), random.uniform(-80, -60, len(there))], axis=1)
    np.savez(directory / "targets.npz", ra=np.r_[there[:, 0], elsewhere[:, 0]], dec=np.r_[there[:, 1], elsewhere[:, 1]],
             row=there[:, 2].astype(np.int64))  # fmt: skip


# Each function answers one question with one tool; what it returns must agree between the tools.


def ours(path: Path, question: str, targets: dict) -> object:
    import dask

    import catalogue

    dask.config.set(scheduler="threads", num_workers=2)
    dataset = catalogue.open(path)
    if question == "cone":
        found = dataset.cat.cone(*CONE)
        return len(found["obsid"]), float(np.nanmean(found["Age"].values))
    if question == "group":
        good = dataset.cat.good()
        bins = np.digitize(good["feh"].values, EDGES)
        age = good["Age"].values
        return [float(age[bins == number].mean(dtype=float)) for number in range(1, len(EDGES))]
    found = dataset.cat.xmatch(targets, RADIUS)
    return found["row_number"].values.tolist()


def astropy_table(path: Path, question: str, targets: dict) -> object:
    import astropy.units as u
    from astropy.coordinates import SkyCoord
    from astropy.table import Table

    table = Table.read(path, memmap=False)
    if question == "group":
        good = table[~table["FLAG_BAD"]]
        bins = np.digitize(good["feh"], EDGES)
        return [float(np.mean(good["Age"][bins == number], dtype=float)) for number in range(1, len(EDGES))]
    positions = SkyCoord(table["ra"], table["dec"], unit="deg")
    if question == "cone":
        inside = positions.separation(SkyCoord(*CONE[:2], unit="deg")).deg <= CONE[2]
        return int(inside.sum()), float(np.nanmean(table["Age"][inside]))
    index, angle, _ = SkyCoord(targets["ra"], targets["dec"], unit="deg").match_to_catalog_sky(positions)
    return index[angle <= RADIUS * u.deg].tolist()


_HAVERSINE = """2 * degrees(asin(sqrt(pow(sin(radians({dec} - {d}) / 2), 2)
    + cos(radians({dec})) * cos(radians({d})) * pow(sin(radians({ra} - {r}) / 2), 2))))"""


def duckdb_sql(path: Path, question: str, targets: dict) -> object:
    import duckdb
    import pandas

    connection = duckdb.connect()
    connection.execute("SET threads = 2")
    if question == "cone":
        distance = _HAVERSINE.format(ra="ra", dec="dec", r=CONE[0], d=CONE[1])
        band = f'"dec" BETWEEN {CONE[1] - CONE[2]} AND {CONE[1] + CONE[2]}'
        query = f"SELECT count(*), avg(Age::DOUBLE) FROM '{path}' WHERE {band} AND {distance} <= {CONE[2]}"
        return connection.execute(query).fetchone()
    if question == "group":
        width = EDGES[1] - EDGES[0]
        query = f"""SELECT floor((feh - ({EDGES[0]})) / {width})::INT AS bin, avg(Age::DOUBLE) FROM '{path}'
            WHERE NOT FLAG_BAD AND feh >= {EDGES[0]} AND feh < {EDGES[-1]} GROUP BY bin ORDER BY bin"""
        return [row[1] for row in connection.execute(query).fetchall()]
    stars = pandas.DataFrame({"target": np.arange(len(targets["ra"])), "ra": targets["ra"], "dec": targets["dec"]})
    connection.register("stars", stars)
    # Bands of 1/100 degree turn the join into one of equal integers; neighbouring bands are joined as well.
    distance = _HAVERSINE.format(ra="c.ra", dec='c."dec"', r="s.ra", d='s."dec"')
    number = "row_number" if "healpix" in path.name else "file_row_number"
    query = f"""WITH c AS (SELECT ra, "dec", {number} AS row, floor("dec" * 100)::INT AS band
            FROM read_parquet('{path}', file_row_number = true)),
        s AS (SELECT target, ra, "dec", unnest([floor("dec" * 100)::INT - 1, floor("dec" * 100)::INT,
            floor("dec" * 100)::INT + 1]) AS band FROM stars)
        SELECT arg_min(row, distance) FROM (SELECT target, row, {distance} AS distance FROM s JOIN c USING (band)
            WHERE abs(c."dec" - s."dec") <= {RADIUS}) WHERE distance <= {RADIUS} GROUP BY target ORDER BY target"""
    return [row[0] for row in connection.execute(query).fetchall()]


def pyarrow_dataset(path: Path, question: str, targets: dict) -> object:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset

    pa.set_cpu_count(2)
    data = pyarrow.dataset.dataset(path)
    if question == "cone":
        from catalogue.query.sky import in_cone

        band = (pc.field("dec") >= CONE[1] - CONE[2]) & (pc.field("dec") <= CONE[1] + CONE[2])
        table = data.to_table(columns=["ra", "dec", "Age"], filter=band)
        inside = in_cone(table["ra"].to_numpy(), table["dec"].to_numpy(), *CONE)
        return int(inside.sum()), float(np.nanmean(table["Age"].to_numpy()[inside]))
    if question == "group":
        inside = ~pc.field("FLAG_BAD") & (pc.field("feh") >= EDGES[0]) & (pc.field("feh") < EDGES[-1])
        table = data.to_table(columns=["feh", "Age"], filter=inside)
        bins = pc.floor(pc.divide(pc.subtract(table["feh"], EDGES[0]), EDGES[1] - EDGES[0]))
        table = table.append_column("bin", bins).group_by("bin").aggregate([("Age", "mean")]).sort_by("bin")
        return table["Age_mean"].to_pylist()
    return None  # has no join by position


TOOLS = {
    "ours, Zarr": (ours, "cat.zarr"),
    "ours, Parquet": (ours, "cat.parquet"),
    "ours, sorted Parquet": (ours, "cat.healpix.parquet"),
    "ours, FITS": (ours, "cat.fits"),
    "DuckDB, Parquet": (duckdb_sql, "cat.parquet"),
    "DuckDB, sorted Parquet": (duckdb_sql, "cat.healpix.parquet"),
    "pyarrow, Parquet": (pyarrow_dataset, "cat.parquet"),
    "pyarrow, sorted Parquet": (pyarrow_dataset, "cat.healpix.parquet"),
    "astropy Table, FITS": (astropy_table, "cat.fits"),
}
QUESTIONS = ("cone", "group", "xmatch")


def one(directory: Path, tool: str, question: str) -> None:
    """Answer one question in this process and print time, memory and answer as JSON."""
    function, name = TOOLS[tool]
    targets = dict(np.load(directory / "targets.npz"))
    start = time.perf_counter()
    answer = function(directory / name, question, targets)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(json.dumps({"seconds": seconds, "gigabytes": peak, "answer": answer}))


def run(directory: Path, repeats: int) -> None:
    """Every tool and question in turn, so that a busy moment hits none of them alone; medians."""
    targets = dict(np.load(directory / "targets.npz"))
    found: dict[tuple[str, str], list[dict]] = {}
    for _ in range(repeats):
        for question in QUESTIONS:
            for tool in TOOLS:
                command = [sys.executable, __file__, "one", str(directory), tool, question]
                environment = {**os.environ, "OMP_NUM_THREADS": "2"}
                process = subprocess.run(command, capture_output=True, text=True, env=environment)
                if process.returncode:
                    print(tool, question, process.stderr[-300:], file=sys.stderr)
                    continue
                found.setdefault((tool, question), []).append(json.loads(process.stdout.splitlines()[-1]))
    _check(found, targets)
    print(f"{'':24}" + "".join(f"{question:>22}" for question in QUESTIONS))
    for tool in TOOLS:
        cells = []
        for question in QUESTIONS:
            results = found.get((tool, question), [])
            if not results or results[0]["answer"] is None:
                cells.append(f"{'-':>22}")
                continue
            seconds = statistics.median(result["seconds"] for result in results)
            cells.append(f"{seconds:10.2f} s {max(result['gigabytes'] for result in results):6.2f} GB")
        print(f"{tool:24}" + "".join(f"{cell:>22}" for cell in cells))


def _check(found: dict[tuple[str, str], list[dict]], targets: dict) -> None:
    """All tools must give one answer; for the match it is known."""
    for (tool, question), results in found.items():
        answer = results[0]["answer"]
        if answer is None:
            continue
        if question == "xmatch":
            wrong = (np.asarray(answer) != targets["row"]).sum() if len(answer) == len(targets["row"]) else -1
            # Two stars within 2" of one another may exchange places: positions are random.
            assert 0 <= wrong <= 5, (tool, wrong, len(answer))
        else:
            reference = found["ours, Zarr", question][0]["answer"]
            assert np.allclose(answer, reference, rtol=1e-5), (tool, answer, reference)


def main() -> None:
    command, directory, *rest = sys.argv[1:]
    if command == "make":
        make(Path(directory), int(rest[0]) if rest else ROWS)
    elif command == "one":
        one(Path(directory), *rest)
    else:
        run(Path(directory), int(rest[0]) if rest else 3)


if __name__ == "__main__":
    main()
