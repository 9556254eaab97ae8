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
    imported, merge : float
        CPU time per row of the driver, which is one process: import of the parent table with the plan, and merge [s].
    plan, ingest, infer : float
        CPU time per row of a worker [s]; the first is for the digest of what the row is made of.
    bytes_in, bytes_stored : float
        Size of a row's file, and of its pixels in the store.
    task : float
        CPU time of driver and scheduler per unit [s].
    start : float
        CPU time of a worker until it can take its first unit [s].
    """

    imported: float
    plan: float
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
    stat : float
        Time in which a worker learns size and date of one file [s].
    start_files : float
        Files that a worker opens until it can take its first unit.
    """

    bandwidth: float = 5e9
    stream: float = 500e6
    opens: float = 10_000.0
    stat: float = 100e-6
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


Steps = list[dict[str, float]]


def stage(ready: list[float], units: list[Steps], site: Site, task: float) -> float:
    """Time at which the last unit of a stage ends.

    Parameters
    ----------
    ready : list of float
        When each worker is there [s].
    units : list of list of dict of str to float
        Steps of each unit, one after the other; within a step, a number of ``opens``, ``bytes`` and seconds of
        ``cpu``, all at the same time.
    site : Site
    task : float
        The driver hands out one unit in this time [s].
    """
    shared = {"opens": Shared(site.opens, site.opens), "bytes": Shared(site.bandwidth, site.stream)}
    events = [(moment, worker) for worker, moment in enumerate(ready)]
    heapq.heapify(events)
    left: list[Steps] = [[] for _ in ready]
    pending = [1] * len(ready)
    waiting, driver, end = iter(units), 0.0, 0.0
    while True:
        name, moment = min(((name, one.next_end()) for name, one in shared.items()), key=lambda item: item[1])
        if events and events[0][0] <= moment:
            moment, worker = heapq.heappop(events)
        elif moment < float("inf"):
            worker = shared[name].leave(moment)
        else:
            return end
        pending[worker] -= 1
        if pending[worker]:
            continue
        if left[worker]:
            step = left[worker].pop(0)
            pending[worker] = len(step)
            for resource, amount in step.items():
                if resource == "cpu":
                    heapq.heappush(events, (moment + amount, worker))
                else:
                    shared[resource].enter(moment, amount, worker)
            continue
        end = max(end, moment)
        unit = next(waiting, None)
        if unit is not None:
            left[worker], pending[worker] = list(unit), 1
            driver = max(driver, moment) + task
            heapq.heappush(events, (driver, worker))


@dataclass(frozen=True)
class Way:
    """How a run is done.

    Attributes
    ----------
    costs : Costs
    site : Site
    plan : Plan
    mergers : int
        Processes that merge, each a part of the rows.
    """

    costs: Costs
    site: Site = Site()
    plan: Plan = Plan()
    mergers: int = 1


STAGES = ("plan", "ingest", "infer", "merge")


def run(workers: int, way: Way) -> dict[str, float]:
    """Time of each stage and of the run [s], and the share of the workers' time that was of use."""
    costs, site, rows = way.costs, way.site, way.plan.rows
    ingest: list[Steps] = []
    infer: list[Steps] = []
    for n in way.plan.units():
        stored = {"bytes": n * costs.bytes_stored}
        looked = {"cpu": n * (costs.plan + site.stat)}
        ingest.append([looked, {"opens": float(n), "bytes": n * costs.bytes_in, "cpu": n * costs.ingest}, stored])
        infer.append([stored, {"cpu": n * costs.infer}])
    start = costs.start + site.start_files * workers / site.opens
    times = {
        "plan": rows * costs.imported,
        "ingest": stage([start] * workers, ingest, site, costs.task),
        "infer": stage([0.0] * workers, infer, site, costs.task),
        "merge": rows * costs.merge / way.mergers,
    }
    total = sum(times.values())
    return {**times, "total": total, "use": rows * (costs.ingest + costs.infer) / (workers * total)}


def ways(costs: Costs) -> dict[str, Way]:
    """The run as it is, and with one change after the other."""
    small = Way(costs, plan=Plan(unit_rows=4096))
    image = replace(small, site=replace(small.site, start_files=10.0))
    bundled = replace(image, site=replace(image.site, opens=100_000.0))
    return {
        "as it is": Way(costs),
        "units of one chunk, 4,096 rows": small,
        "and Python in one image file": image,
        "and ten times the files opened per second": bundled,
        "and eight processes that merge": replace(bundled, mergers=8),
    }


def table(costs: Costs) -> str:
    lines = [
        "| workers | plan | ingest | infer | merge | total | of use |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for workers in WORKERS:
        found = run(workers, Way(costs))
        cells = [f"{found[name] / 60:,.1f}" for name in (*STAGES, "total")]
        lines.append(f"| {workers:,} | {' | '.join(cells)} | {100 * found['use']:.0f} % |")
    lines += ["", "| minutes | " + " | ".join(f"{w:,}" for w in WORKERS) + " |", "|---|" + "---:|" * len(WORKERS)]
    for name, way in ways(costs).items():
        totals = [f"{run(workers, way)['total'] / 60:,.1f}" for workers in WORKERS]
        lines.append(f"| {name} | {' | '.join(totals)} |")
    return "\n".join(lines)


def plot(costs: Costs, path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for name, way in ways(costs).items():
        axes.loglog(WORKERS, [run(workers, way)["total"] / 60 for workers in WORKERS], marker=".", label=name)
    minutes = Plan().rows * (costs.ingest + costs.infer) / 60
    axes.loglog(WORKERS, [minutes / workers for workers in WORKERS], "--", color="0.6", label="CPU time / workers")
    axes.set(xlabel="workers", ylabel="minutes", title="11 million LAMOST spectra, SPT, 100 passes (simulated)")
    axes.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("costs", type=Path, nargs="?", default=Path(__file__).with_name("scaling_costs.json"))
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    measured = Costs(**json.loads(given.costs.read_text()))
    print(table(measured))
    if given.plot:
        plot(measured, given.plot)
