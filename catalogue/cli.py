"""The command ``catalogue``. Each command is a few lines around a public function."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import yaml
from rich.console import Console
from rich.table import Table

from catalogue import __version__
from catalogue.config import ConfigurationError, RunConfiguration, load_run_configuration

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Age-mass catalogues from survey spectra, one row for every row of the parent table.",
)
models_app = typer.Typer(no_args_is_help=True, help="List, check and import model bundles.")
cluster_app = typer.Typer(no_args_is_help=True, help="Look at what would be submitted to a cluster.")
app.add_typer(models_app, name="models")
app.add_typer(cluster_app, name="cluster")

console = Console(soft_wrap=True)
errors = Console(stderr=True, soft_wrap=True)

Configuration = Annotated[Path, typer.Argument(metavar="CONFIG", help="run configuration (YAML)")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override any key")]

EXIT_REFUSED = 2
EXIT_INCOMPLETE = 3
EXIT_TO_DO = 4
EXIT_LOCKED = 5


def _refuse(error: Exception | str, code: int = EXIT_REFUSED) -> NoReturn:
    errors.print(f"catalogue: {error}", style="red", markup=False, highlight=False)
    raise typer.Exit(code)


def _load(path: Path, overrides: list[str] | None) -> tuple[RunConfiguration, Any]:
    from catalogue.pipeline.run import resolve_run

    try:
        configuration = load_run_configuration(path, overrides)
        return configuration, resolve_run(configuration)
    except ConfigurationError as error:
        _refuse(error)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        console.print(__version__)
        raise typer.Exit


@app.command()
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
    settings, run = _load(configuration, overrides)
    from catalogue.pipeline.build import Interrupted
    from catalogue.pipeline.build import build as build_run
    from catalogue.pipeline.lock import RunLocked
    from catalogue.pipeline.manifest import ManifestError
    from catalogue.pipeline.merge import MergeRefused
    from catalogue.progress import terminal_progress
    from catalogue.spectra.parent import ParentError

    text = yaml.safe_dump(json.loads(settings.model_dump_json()), sort_keys=False, allow_unicode=True)
    stop = _stop_on_signals()
    try:
        result = build_run(
            run,
            allow_incomplete=allow_incomplete,
            rescan=rescan,
            progress=terminal_progress(console),
            stop=stop,
            configuration_text=text,
        )
    except RunLocked as error:
        _refuse(error, EXIT_LOCKED)
    except _failures_of_tasks() as error:
        _refuse(error, 1)
    except (ParentError, ManifestError) as error:
        _refuse(error)
    except _failures_of_clusters() as error:
        _refuse(error)
    except MergeRefused as error:
        errors.print(str(error), markup=False)
        _refuse("run the same command again, or add --allow-incomplete to mark those rows", EXIT_INCOMPLETE)
    except Interrupted as error:
        errors.print(f"{error}; run the same command again to go on", markup=False)
        raise typer.Exit(130) from None
    except OSError as error:
        reason = error.strerror or f"{type(error).__name__} {error}"
        _refuse(f"{reason}: {error.filename or run.directory.root}; nothing finished was lost", 1)
    if result.nothing_to_do:
        console.print(f"nothing to do: {result.rows:,} rows are up to date", highlight=False)
    _print_outputs(run, settings)
    if result.set_aside:
        _refuse(
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


def _print_outputs(run: Any, settings: RunConfiguration) -> None:
    from catalogue.pipeline.merge import output_path, report_path

    for product in run.products:
        for name in settings.output.formats:
            console.print(str(output_path(run, product, name)), highlight=False)
        if settings.output.report:
            console.print(str(report_path(run, product)), highlight=False)


def _stop_on_signals() -> threading.Event:
    """Turn the first SIGINT or SIGTERM into an orderly stop; a second one ends the process at once."""
    stop = threading.Event()

    def order(number: int, frame: Any) -> None:
        if stop.is_set():
            sys.exit(128 + number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, order)
    return stop


@app.command()
def status(
    configuration: Configuration,
    override: Overrides = None,
    problems: Annotated[bool, typer.Option(help="list every row with a problem, with its reason")] = False,
) -> None:
    """Say what is done, what is not, and why, from the disk alone."""
    _, run = _load(configuration, override)
    from catalogue.pipeline.status import problems as problem_rows
    from catalogue.pipeline.status import run_status

    if problems:
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


@app.command()
def plan(
    configuration: Configuration,
    override: Overrides = None,
    rescan: Annotated[bool, typer.Option(help="compare every spectra file with its record")] = False,
) -> None:
    """Say what a build would do and why; exit code 0 if nothing is to do, 4 otherwise."""
    _, run = _load(configuration, override)
    from catalogue.pipeline.build import plan as plan_run
    from catalogue.pipeline.lock import RunLocked
    from catalogue.spectra.parent import ParentError

    try:
        found = plan_run(run, rescan)
    except RunLocked as error:
        _refuse(error, EXIT_LOCKED)
    except ParentError as error:
        _refuse(error)
    _print_stages(found.stages)
    for name, to_write in found.products.items():
        console.print(f"{name}: {'will be written' if to_write else 'up to date'}", highlight=False)
    if found.nothing_to_do:
        console.print("nothing to do")
        return
    seconds = found.seconds
    console.print("time: not known yet" if seconds is None else f"time: about {seconds:,.0f} worker seconds")
    raise typer.Exit(EXIT_TO_DO)


@app.command()
def verify(
    configuration: Configuration,
    override: Overrides = None,
    rows: Annotated[int, typer.Option(min=0, help="rows to make again from the raw files")] = 16,
    seed: Annotated[int, typer.Option(help="seed of the choice of these rows")] = 0,
) -> None:
    """Compare everything on disk with its digests, and a sample of rows with the raw files."""
    _, run = _load(configuration, override)
    from catalogue.pipeline.lock import RunLocked
    from catalogue.pipeline.verification import NothingToVerify
    from catalogue.pipeline.verification import verify as verify_run

    try:
        found = verify_run(run, rows=rows, seed=seed)
    except RunLocked as error:
        _refuse(error, EXIT_LOCKED)
    except NothingToVerify as error:
        _refuse(error)
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


@app.command()
def prune(configuration: Configuration, override: Overrides = None) -> None:
    """Remove predictions of models that the configuration does not use."""
    _, run = _load(configuration, override)
    from catalogue.pipeline.lock import RunLocked
    from catalogue.pipeline.prune import prune as prune_run

    try:
        removed = prune_run(run)
    except RunLocked as error:
        _refuse(error, EXIT_LOCKED)
    for path in removed:
        console.print(f"removed {path}", highlight=False)
    if not removed:
        console.print("nothing to remove")


@app.command()
def simulate(
    configuration: Annotated[Path, typer.Argument(metavar="CONFIG", help="simulation configuration (YAML)")],
    directory: Annotated[Path, typer.Argument(help="where the survey is written")],
    override: Overrides = None,
) -> None:
    """Write a simulated LAMOST survey: files, parent table and label table."""
    from catalogue.config import load_section
    from catalogue.training.emulator import EmulatorError
    from catalogue.training.labels import LabelError
    from catalogue.training.simulate import SimulationConfiguration
    from catalogue.training.simulate import simulate as simulate_survey

    try:
        settings = load_section(SimulationConfiguration, configuration, override, paths=("apokasc", "labels"))
        survey = simulate_survey(settings, directory)
    except (ConfigurationError, EmulatorError, LabelError) as error:
        _refuse(error)
    except OSError as error:
        _refuse(f"{error.strerror}: {error.filename}", 1)
    console.print(f"{survey.rows} rows", highlight=False)
    for path in (survey.parent, survey.labels, survey.spectra):
        console.print(str(path.resolve()), highlight=False)


TRAINING_PATHS = (
    "store",
    "labels",
    "oscillations",
    "simulation.apokasc",
    "simulation.labels",
    "simulation.pixel_statistics",
)


@app.command()
def train(
    configuration: Annotated[Path, typer.Argument(metavar="CONFIG", help="training configuration (YAML)")],
    bundle: Annotated[Path, typer.Argument(help="directory of the new bundle")],
    override: Overrides = None,
) -> None:
    """Train a model and write its bundle; an interrupted training goes on where it was."""
    from catalogue.config import load_section
    from catalogue.training.labels import LabelError
    from catalogue.training.train import TrainingConfiguration
    from catalogue.training.train import train as train_model

    try:
        settings = load_section(TrainingConfiguration, configuration, override, paths=TRAINING_PATHS)
        path = train_model(settings, bundle, _print_epoch)
    except (ConfigurationError, LabelError) as error:
        _refuse(error)
    except OSError as error:
        _refuse(f"{error.strerror}: {error.filename}", 1)
    console.print(str(path.resolve()), highlight=False)


def _print_epoch(*facts: Any) -> None:
    console.print(" ".join(str(fact) for fact in facts), highlight=False)


@app.command()
def evaluate(
    bundle: Annotated[str, typer.Argument(help="shipped name or directory; - for none")],
    configuration: Annotated[Path, typer.Argument(metavar="CONFIG", help="evaluation configuration (YAML)")],
    directory: Annotated[Path, typer.Argument(help="where page and tables are written")],
    override: Overrides = None,
) -> None:
    """Measure a training configuration on stars it has not seen, beside its baselines."""
    from catalogue.config import load_section
    from catalogue.models import BundleError, find_bundle
    from catalogue.training.evaluate import EvaluationConfiguration
    from catalogue.training.evaluate import evaluate as evaluate_bundle
    from catalogue.training.labels import LabelError

    paths = tuple(f"training.{name}" for name in TRAINING_PATHS)
    try:
        settings = load_section(EvaluationConfiguration, configuration, override, paths=paths)
        path = None if bundle == "-" else find_bundle(bundle, Path.cwd())
        evaluate_bundle(path, settings, directory, _print_epoch)
    except (ConfigurationError, LabelError, BundleError) as error:
        _refuse(error)
    console.print(str(directory.resolve()), highlight=False)


@app.command()
def info(
    file: Annotated[Path, typer.Argument(help="a catalogue file of a run, or provenance.json")],
    configuration: Annotated[bool, typer.Option("--configuration", help="print the configuration alone")] = False,
) -> None:
    """Print what made a file, and the configuration that makes it again."""
    from catalogue.pipeline.provenance import ProvenanceError, read_provenance

    try:
        document = read_provenance(file)
    except ProvenanceError as error:
        _refuse(error)
    activity = document["activity"]["activity:build"]
    if configuration:
        typer.echo(activity["configuration"], nl=False)
        return
    typer.echo(f"date: {activity['date']}")
    for name, facts in {**document["entity"], **document["agent"]}.items():
        typer.echo(f"{name}: {json.dumps(facts)}")
    typer.echo("# configuration")
    typer.echo(activity["configuration"])


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="a catalogue: FITS, CSV, Parquet or Zarr")],
    second: Annotated[Path, typer.Argument(metavar="B", help="another one")],
    key: Annotated[str | None, typer.Option(help="column that identifies a row, where the rows do not match")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of text")] = False,
    page: Annotated[Path | None, typer.Option(help="also write a page with plots")] = None,
) -> None:
    """Compare two catalogues: schema, statuses and flags, ages and masses."""
    from catalogue.difference import compare
    from catalogue.query.table import TableError

    try:
        difference = compare(first, second, key=key)
    except (TableError, OSError, ValueError, KeyError) as error:
        _refuse(error)
    typer.echo(difference.json() if as_json else difference.text())
    if page is not None:
        from catalogue.difference.page import write_page

        write_page(difference, page)


@models_app.command("import-astronn")
def models_import_astronn(
    directory: Annotated[Path, typer.Argument(help="astroNN model directory")],
    out: Annotated[Path, typer.Argument(help="directory of the new bundle")],
    continuum_pixels: Annotated[Path | None, typer.Option(help="continuum pixels, one number a line")] = None,
    labels: Annotated[str | None, typer.Option(help="the network's labels in their order, as age,mass")] = None,
    age_linear: Annotated[
        tuple[float, float] | None, typer.Option(help="intercept and slope of the linear correction of ages")
    ] = None,
) -> None:
    """Turn an astroNN model directory (ApogeeBCNN, ApokascEncoderDecoder) into a bundle."""
    from catalogue.models import BundleError
    from catalogue.models.keras_import import import_astronn

    try:
        names = labels.split(",") if labels else None
        bundle = import_astronn(directory, out, continuum_pixels=continuum_pixels, labels=names, age_linear=age_linear)
    except BundleError as error:
        _refuse(error)
    console.print(f"{out}: {bundle.description.name}, kind {bundle.kind}, digest {bundle.digest}", highlight=False)


@models_app.command("list")
def models_list() -> None:
    """List the model kinds and the shipped bundles."""
    from catalogue.models import load_bundle, model_kinds
    from catalogue.models.bundle import SHIPPED

    console.print(f"kinds: {', '.join(model_kinds())}")
    for path in sorted(SHIPPED.glob("*/model.json")):
        bundle = load_bundle(path.parent)
        description = bundle.description
        console.print(
            f"{description.name} {description.version}  kind {description.kind}  survey {description.survey}"
            f"  digest {bundle.digest[:12]}",
            highlight=False,
        )


@models_app.command("verify")
def models_verify(bundle: Annotated[str, typer.Argument(help="shipped name or directory")]) -> None:
    """Check that a bundle is whole, holds no pickle and can be bound to its model."""
    from catalogue.models import BundleError, find_bundle, load_model

    try:
        model = load_model(find_bundle(bundle, Path.cwd()))
    except BundleError as error:
        _refuse(error, 1)
    console.print(f"{bundle}: good, digest {model.bundle.digest}, {len(model.outputs)} outputs", highlight=False)


@cluster_app.command("script")
def cluster_script(file: Annotated[Path, typer.Argument(help="cluster file (YAML)")]) -> None:
    """Print the batch job that a cluster file would submit, without submitting it."""
    from cluster import ClusterError, job_script

    try:
        typer.echo(job_script(file))
    except ClusterError as error:
        _refuse(error)
