"""Commands about a run: build, status, plan, verify, prune."""

from __future__ import annotations

import json
import signal
import sys
import threading
from typing import Annotated, Any

import typer
import yaml
from rich.table import Table

from catalogue.cli.terminal import (
    EXIT_INCOMPLETE,
    EXIT_TO_DO,
    Configuration,
    Overrides,
    console,
    errors,
    load_run,
    refuse,
    refusing,
)
from catalogue.config import RunConfiguration


def build(
    configuration: Configuration,
    override: Overrides = None,
    model: Annotated[list[str] | None, typer.Option(help="apply this bundle instead of the configured one")] = None,
    allow_incomplete: Annotated[bool, typer.Option(help="write the catalogue even if units were given up")] = False,
    rescan: Annotated[bool, typer.Option(help="compare every spectra file with its record")] = False,
) -> None:
    """Build the catalogue, doing only what is not done."""
    overrides = list(override or [])
    if model:
        overrides.append(f"model={json.dumps(model)}")
    settings, run = load_run(configuration, overrides)
    from catalogue.pipeline.build import Interrupted
    from catalogue.pipeline.build import build as build_run
    from catalogue.pipeline.merge import MergeRefused
    from catalogue.progress import terminal_progress

    text = yaml.safe_dump(json.loads(settings.model_dump_json()), sort_keys=False, allow_unicode=True)
    stop = _stop_on_signals()
    try:
        with refusing():
            _say_what_the_parent_lacks(run)
            result = build_run(
                run,
                allow_incomplete=allow_incomplete,
                rescan=rescan,
                progress=terminal_progress(console),
                stop=stop,
                configuration_text=text,
            )
    except _failures_of_tasks() as error:
        refuse(error, 1)
    except _failures_of_clusters() as error:
        refuse(error)
    except MergeRefused as error:
        errors.print(str(error), markup=False)
        refuse("run the same command again, or add --allow-incomplete to mark those rows", EXIT_INCOMPLETE)
    except Interrupted as error:
        errors.print(f"{error}; run the same command again to go on", markup=False)
        raise typer.Exit(130) from None
    if result.nothing_to_do:
        console.print(f"nothing to do: {result.rows:,} rows are up to date", highlight=False)
    _print_outputs(run, settings)
    if result.set_aside:
        refuse(
            f"{len(result.set_aside)} units were set aside: {'; '.join(result.set_aside[:3])}",
            EXIT_INCOMPLETE,
        )


def _failures_of_tasks() -> tuple[type[Exception], ...]:
    """Called only once something was raised: importing these brings Dask, which a run with nothing to do spares."""
    from cluster import StorageFullError, TaskFailed

    return StorageFullError, TaskFailed


def _failures_of_clusters() -> tuple[type[Exception], ...]:
    from cluster import ClusterError

    return (ClusterError,)


def _say_what_the_parent_lacks(run: Any) -> None:
    from catalogue.pipeline.manifest import absent_columns

    if absent := absent_columns(run):
        text = f"{run.configuration.parent.path}: no column for {', '.join(absent)}: missing in every row"
        errors.print(text, style="yellow", markup=False, highlight=False)


def _print_outputs(run: Any, settings: RunConfiguration) -> None:
    from catalogue.pipeline.merge import output_path, report_path

    for product in run.products:
        for name in settings.output.formats:
            console.print(str(output_path(run, product, name)), highlight=False)
        if settings.output.report:
            console.print(str(report_path(run, product)), highlight=False)


def _stop_on_signals() -> threading.Event:
    """Turn the first SIGINT, SIGTERM or SIGHUP into an orderly stop; a second one ends the process at once."""
    stop = threading.Event()

    def order(number: int, frame: Any) -> None:
        if stop.is_set():
            sys.exit(128 + number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A hangup that nohup has told to ignore stays ignored.
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, order)
    return stop


def status(
    configuration: Configuration,
    override: Overrides = None,
    problems: Annotated[bool, typer.Option(help="list every row with a problem, with its reason")] = False,
) -> None:
    """Say what is done, what is not, and why, from the disk alone."""
    _, run = load_run(configuration, override)
    from catalogue.pipeline.status import problems as problem_rows
    from catalogue.pipeline.status import run_status

    with refusing():
        if problems:
            if not run.directory.spectra.is_dir():
                refuse(f"{run.directory.root}: nothing has been read yet")
            for problem in problem_rows(run):
                typer.echo(f"{problem.row}\t{problem.key}\t{problem.status}\t{problem.reason}")
            return
        state = run_status(run)
    if state.manifest is None:
        console.print(f"{run.directory.root}: nothing has been started")
        return
    if state.owner:
        console.print(f"in use by {state.owner}", highlight=False)
    _print_stages(state.stages)
    if state.parent_changed:
        console.print("the parent table, or what is wanted of it, changed since it was imported: see `catalogue plan`")
    table = Table("rows", "status", box=None)
    for name, count in sorted(state.rows.items(), key=lambda item: -item[1]):
        table.add_row(f"{count:,}", name)
    console.print(table)
    for name, done in state.products.items():
        console.print(f"{name}: {'up to date' if done else 'not up to date'}", highlight=False)


def _print_stages(stages: Any) -> None:
    table = Table("stage", "units", "done", "new", "stale", "waiting", "changed", box=None)
    for stage in stages:
        counts = stage.counts
        changed = ", ".join(f"{cause} ({count})" for cause, count in stage.causes.items())
        numbers = [str(counts.get(state, 0)) for state in ("done", "new", "stale", "waiting")]
        table.add_row(stage.name, str(len(stage.units)), *numbers, changed)
    console.print(table)


def plan(
    configuration: Configuration,
    override: Overrides = None,
    rescan: Annotated[bool, typer.Option(help="compare every spectra file with its record")] = False,
) -> None:
    """Say what a build would do and why; exit code 0 if nothing is to do, 4 otherwise."""
    _, run = load_run(configuration, override)
    from catalogue.pipeline.build import plan as plan_run

    with refusing():
        _say_what_the_parent_lacks(run)
        found = plan_run(run, rescan)
    _print_stages(found.stages)
    for name, to_write in found.products.items():
        console.print(f"{name}: {'will be written' if to_write else 'up to date'}", highlight=False)
    if found.nothing_to_do:
        console.print("nothing to do")
        return
    seconds = found.seconds
    console.print("time: not known yet" if seconds is None else f"time: about {seconds:,.0f} worker seconds")
    raise typer.Exit(EXIT_TO_DO)


def verify(
    configuration: Configuration,
    override: Overrides = None,
    rows: Annotated[int, typer.Option(min=0, help="rows to make again from the raw files")] = 16,
    seed: Annotated[int, typer.Option(help="seed of the choice of these rows")] = 0,
) -> None:
    """Compare everything on disk with its digests, and a sample of rows with the raw files."""
    _, run = load_run(configuration, override)
    from catalogue.pipeline.verification import NothingToVerify
    from catalogue.pipeline.verification import verify as verify_run

    try:
        with refusing():
            found = verify_run(run, rows=rows, seed=seed)
    except NothingToVerify as error:
        refuse(error)
    table = Table("what", "compared", "wrong", "not recorded", "", box=None)
    table.columns[0].overflow = "fold"
    for check in found.checks:
        counts = (check.checked, len(check.findings), check.not_recorded)
        table.add_row(check.name, *(f"{count:,}" for count in counts), check.note)
    console.print(table)
    for finding in found.findings:
        errors.print(f"damaged: {finding}", style="red", markup=False, highlight=False)
    if found.removable:
        errors.print("to repair, remove these from the run's directory and build again:", markup=False)
        errors.print("  " + "\n  ".join(found.removable), markup=False, highlight=False)
    if found.findings:
        raise typer.Exit(1)
    if found.to_do:
        console.print("sound, but not up to date: see `catalogue plan`")
        raise typer.Exit(EXIT_TO_DO)


def prune(configuration: Configuration, override: Overrides = None) -> None:
    """Remove predictions of models that the configuration does not use."""
    _, run = load_run(configuration, override)
    from catalogue.pipeline.prune import prune as prune_run

    with refusing():
        removed = prune_run(run)
    for path in removed:
        console.print(f"removed {path}", highlight=False)
    if not removed:
        console.print("nothing to remove")
