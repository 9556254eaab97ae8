"""How a run grows past one machine: a simulation of 8 to 1,000 workers from costs that are measured here.

Run: ``python -m benchmarks.scaling_simulation [COSTS] [--plot FILE]`` prints a table of the run of LAMOST DR10 for more
and more workers. COSTS is what `benchmarks.scaling_costs` prints. What no single machine can tell, the file system and
its metadata server, is assumed: see `Site`.
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

WORKERS = (8, 16, 32, 64, 125, 250, 500, 1000)


@dataclass(frozen=True)
class Costs:
    """Of one core, or of the one process that drives.

    Attributes
    ----------
    ingest, infer, merge : float
        CPU time per row [s].
    bytes_in, bytes_stored : float
        Size of a row's file, and of its pixels in the store.
    task : float
        CPU time of driver and scheduler per unit [s].
    start : float
        CPU time of a worker until it can take its first unit [s].
    """

    ingest: float
    infer: float
    merge: float
    bytes_in: float
    bytes_stored: float
    task: float
    start: float


@dataclass(frozen=True)
class Site:
    """What is assumed of a machine.

    Attributes
    ----------
    bandwidth : float
        Of the shared file system [B/s].
    stream : float
        Largest share of it that one worker gets [B/s].
    opens : float
        Files per second that all workers together can open.
    start_files : float
        Files that a worker opens until it can take its first unit.
    """

    bandwidth: float = 5e9
    stream: float = 500e6
    opens: float = 10_000.0
    start_files: float = 4_000.0


@dataclass(frozen=True)
class Plan:
    """How a survey is cut: rows, and rows per unit."""

    rows: int = 11_000_000
    unit_rows: int = 8192

    def units(self) -> Iterator[int]:
        for start in range(0, self.rows, self.unit_rows):
            yield min(self.unit_rows, self.rows - start)


class Shared:
    """A resource that its users share equally: each gets its part of ``rate``, and never more than ``most``.

    Kept in the amount that a user who had been there from the start would have got, so that a change of the number of
    users costs nothing.
    """

    def __init__(self, rate: float, most: float) -> None:
        self.rate, self.most = rate, most
        self.now, self.amount = 0.0, 0.0
        self.users: list[tuple[float, int]] = []

    def speed(self) -> float:
        return min(self.most, self.rate / max(1, len(self.users)))

    def advance(self, now: float) -> None:
        self.amount += (now - self.now) * self.speed()
        self.now = now

    def enter(self, now: float, wanted: float, user: int) -> None:
        self.advance(now)
        heapq.heappush(self.users, (self.amount + wanted, user))

    def next_end(self) -> float:
        return self.now + max(0.0, self.users[0][0] - self.amount) / self.speed() if self.users else float("inf")

    def leave(self, now: float) -> int:
        self.advance(now)
        return heapq.heappop(self.users)[1]


def stage(workers: int, steps: list[list[tuple[str, float]]], site: Site, task: float, ready: list[float]) -> float:
    """Time at which the last unit of a stage ends.

    Parameters
    ----------
    workers : int
    steps : list of list of (resource, amount)
        Of each unit: ``opens`` files, ``bytes``, or ``cpu`` seconds, one after the other.
    site : Site
    task : float
        The driver hands out one unit in this time [s].
    ready : list of float
        When each worker is there [s].
    """
    shared = {"opens": Shared(site.opens, site.opens), "bytes": Shared(site.bandwidth, site.stream)}
    events = [(moment, worker) for worker, moment in enumerate(ready)]
    heapq.heapify(events)
    left: list[list[tuple[str, float]]] = [[] for _ in range(workers)]
    waiting, driver, end = iter(steps), 0.0, 0.0
    while True:
        name, moment = min(((name, one.next_end()) for name, one in shared.items()), key=lambda item: item[1])
        if events and events[0][0] <= moment:
            moment, worker = heapq.heappop(events)
        elif moment < float("inf"):
            worker = shared[name].leave(moment)
        else:
            return end
        if not left[worker]:
            end = max(end, moment)
            unit = next(waiting, None)
            if unit is None:
                continue
            left[worker] = list(unit)
            driver = max(driver, moment) + task
            heapq.heappush(events, (driver, worker))
            continue
        resource, amount = left[worker].pop(0)
        if resource == "cpu":
            heapq.heappush(events, (moment + amount, worker))
        else:
            shared[resource].enter(moment, amount, worker)


def run(workers: int, costs: Costs, site: Site, plan: Plan, readers: int = 1) -> dict[str, float]:
    """Time of each stage and of the run [s], and the share of the workers' time that was of use.

    ``readers`` processes merge, each a part of the rows.
    """
    start = costs.start + site.start_files * workers / site.opens
    ingest, infer = [], []
    for rows in plan.units():
        stored = ("bytes", rows * costs.bytes_stored)
        read = [("opens", float(rows)), ("bytes", rows * costs.bytes_in)]
        ingest.append([*read, ("cpu", rows * costs.ingest), stored])
        infer.append([stored, ("cpu", rows * costs.infer)])
    first = stage(workers, ingest, site, costs.task, [start] * workers)
    second = stage(workers, infer, site, costs.task, [0.0] * workers)
    last = plan.rows * costs.merge / readers
    useful = plan.rows * (costs.ingest + costs.infer)
    total = first + second + last
    return {
        "ingest": first, "infer": second, "merge": last, "total": total,
        "use": useful / (workers * total), "node_hours": workers * total / 3600 / 32,
    }  # fmt: skip


def variants(costs: Costs, site: Site) -> dict[str, tuple[Costs, Site, Plan, int]]:
    """The run as it is, and with one change after the other."""
    small = Plan(unit_rows=4096)
    return {
        "as it is": (costs, site, Plan(), 1),
        "units of 4,096 rows": (costs, site, small, 1),
        "and 40,000 opens per second": (costs, replace(site, opens=40_000.0), small, 1),
        "and 8 processes that merge": (costs, replace(site, opens=40_000.0), small, 8),
    }


def table(costs: Costs, site: Site) -> str:
    lines = ["| workers | ingest | infer | merge | total | of use |", "|---:|---:|---:|---:|---:|---:|"]
    for workers in WORKERS:
        found = run(workers, costs, site, Plan())
        cells = [f"{found[name] / 60:,.1f} min" for name in ("ingest", "infer", "merge", "total")]
        lines.append(f"| {workers:,} | {' | '.join(cells)} | {100 * found['use']:.0f} % |")
    changes = variants(costs, site)
    lines += ["", "| total, with | " + " | ".join(f"{w:,}" for w in WORKERS) + " |", "|---|" + "---:|" * len(WORKERS)]
    for name, variant in changes.items():
        totals = [f"{run(workers, *variant)['total'] / 60:,.0f}" for workers in WORKERS]
        lines.append(f"| {name} | {' | '.join(totals)} |")
    return "\n".join(lines)


def plot(costs: Costs, site: Site, path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for name, variant in variants(costs, site).items():
        axes.loglog(WORKERS, [run(workers, *variant)["total"] / 3600 for workers in WORKERS], marker="o", label=name)
    ideal = Plan().rows * (costs.ingest + costs.infer) / 3600
    axes.loglog(
        WORKERS, [ideal / workers for workers in WORKERS], color="0.6", linestyle="--", label="CPU time / workers"
    )
    axes.set(xlabel="workers", ylabel="hours", title="11 million LAMOST spectra, SPT, 100 passes (simulated)")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("costs", type=Path, nargs="?", default=Path(__file__).with_name("scaling_costs.json"))
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    measured = Costs(**json.loads(given.costs.read_text()))
    print(table(measured, Site()))
    if given.plot:
        plot(measured, Site(), given.plot)
