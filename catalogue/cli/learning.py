"""Commands about training: simulate, train, evaluate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from catalogue.cli.terminal import Overrides, console, refuse
from catalogue.config import ConfigurationError


@contextmanager
def _refusing() -> Iterator[None]:
    """Context in which what is wrong with configuration, labels or spectra ends a command with words."""
    from pydantic import ValidationError

    from catalogue.models import BundleError
    from catalogue.models.device import DeviceError
    from catalogue.spectra.store import StoreError
    from catalogue.training.emulator import EmulatorError
    from catalogue.training.fit import CheckpointError, DivergedError
    from catalogue.training.labels import LabelError

    try:
        yield
    except (
        BundleError,
        CheckpointError,
        ConfigurationError,
        DeviceError,
        DivergedError,
        EmulatorError,
        LabelError,
        StoreError,
    ) as error:
        refuse(error)
    except ValidationError as error:
        refuse("; ".join(_said_of(dict(fault), error.title) for fault in error.errors()))
    except OSError as error:
        reason = error.strerror or str(error)
        refuse(f"{error.filename}: {reason}" if error.filename else reason, 1)


def _said_of(fault: dict[str, Any], settings: str) -> str:
    """One fault in a model's own settings, with the section of the configuration that holds them."""
    section = "architecture.forest" if settings.startswith("Forest") else "preprocessing"
    key = ".".join(["architecture" if settings.endswith("Architecture") else section, *map(str, fault["loc"])])
    said = str(fault["msg"]).removeprefix("Value error, ")
    return f"{key}: unknown key" if fault["type"] == "extra_forbidden" else f"{key}: {said}, found {fault['input']!r}"


def simulate(
    configuration: Annotated[Path, typer.Argument(metavar="CONFIG", help="simulation configuration (YAML)")],
    directory: Annotated[Path, typer.Argument(help="where the survey is written")],
    override: Overrides = None,
) -> None:
    """Write a simulated LAMOST survey: files, parent table and label table."""
    from catalogue.config import load_section
    from catalogue.training.simulate import SimulationConfiguration
    from catalogue.training.simulate import simulate as simulate_survey

    with _refusing():
        settings = load_section(SimulationConfiguration, configuration, override, paths=("apokasc", "labels"))
        survey = simulate_survey(settings, directory)
    console.print(f"{survey.rows} rows", highlight=False)
    for path in (survey.parent, survey.labels, survey.spectra):
        console.print(str(path.resolve()), highlight=False)


TRAINING_PATHS = (
    "store",
    "labels",
    "oscillations",
    "simulation.apokasc",
    "simulation.labels",
    "companions.apokasc",
    "companions.labels",
    "simulation.pixel_statistics",
)


def train(
    configuration: Annotated[Path, typer.Argument(metavar="CONFIG", help="training configuration (YAML)")],
    bundle: Annotated[Path, typer.Argument(help="directory of the new bundle")],
    override: Overrides = None,
) -> None:
    """Train a model and write its bundle; an interrupted training goes on where it was."""
    from catalogue.config import load_section
    from catalogue.models import load_bundle
    from catalogue.training.train import TrainingConfiguration
    from catalogue.training.train import train as train_model

    with _refusing():
        settings = load_section(TrainingConfiguration, configuration, override, paths=TRAINING_PATHS)
        path = train_model(settings, bundle, _print_epoch)
        metrics = load_bundle(path).description.metrics
    console.print(", ".join(f"{name} {value}" for name, value in metrics.items()), highlight=False)
    console.print(str(path.resolve()), highlight=False)


def _print_epoch(epoch: int, epochs: int, of: str, loss: float) -> None:
    console.print(f"epoch {epoch} of {epochs}: {of} loss {loss:.4g}", highlight=False)


def _print_line(text: str) -> None:
    console.print(text, highlight=False)


def evaluate(
    bundle: Annotated[str, typer.Argument(help="shipped name or directory; - for none")],
    configuration: Annotated[Path, typer.Argument(metavar="CONFIG", help="evaluation configuration (YAML)")],
    directory: Annotated[Path, typer.Argument(help="where page and tables are written")],
    override: Overrides = None,
) -> None:
    """Measure a training configuration on stars it has not seen, beside its baselines."""
    from catalogue.config import load_section
    from catalogue.models import find_bundle
    from catalogue.training.evaluate import EvaluationConfiguration
    from catalogue.training.evaluate import evaluate as evaluate_bundle

    paths = tuple(f"training.{name}" for name in TRAINING_PATHS)
    with _refusing():
        settings = load_section(EvaluationConfiguration, configuration, override, paths=paths)
        path = None if bundle == "-" else find_bundle(bundle, Path.cwd())
        evaluate_bundle(path, settings, directory, _print_line)
    console.print(str(directory.resolve()), highlight=False)
