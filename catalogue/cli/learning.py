"""Commands about training: simulate, train, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from catalogue.cli.terminal import Overrides, console, refuse
from catalogue.config import ConfigurationError


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
        refuse(error)
    except OSError as error:
        refuse(f"{error.strerror}: {error.filename}", 1)
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
    from pydantic import ValidationError

    from catalogue.config import load_section
    from catalogue.models.device import DeviceError
    from catalogue.training.emulator import EmulatorError
    from catalogue.training.fit import CheckpointError
    from catalogue.training.labels import LabelError
    from catalogue.training.train import TrainingConfiguration
    from catalogue.training.train import train as train_model

    try:
        settings = load_section(TrainingConfiguration, configuration, override, paths=TRAINING_PATHS)
        path = train_model(settings, bundle, _print_epoch)
    except (ConfigurationError, EmulatorError, LabelError, CheckpointError, DeviceError, ValidationError) as error:
        refuse(error)
    except OSError as error:
        refuse(f"{error.strerror}: {error.filename}", 1)
    console.print(str(path.resolve()), highlight=False)


def _print_epoch(*facts: Any) -> None:
    console.print(" ".join(str(fact) for fact in facts), highlight=False)


def evaluate(
    bundle: Annotated[str, typer.Argument(help="shipped name or directory; - for none")],
    configuration: Annotated[Path, typer.Argument(metavar="CONFIG", help="evaluation configuration (YAML)")],
    directory: Annotated[Path, typer.Argument(help="where page and tables are written")],
    override: Overrides = None,
) -> None:
    """Measure a training configuration on stars it has not seen, beside its baselines."""
    from pydantic import ValidationError

    from catalogue.config import load_section
    from catalogue.models import BundleError, find_bundle
    from catalogue.training.emulator import EmulatorError
    from catalogue.training.evaluate import EvaluationConfiguration
    from catalogue.training.evaluate import evaluate as evaluate_bundle
    from catalogue.training.labels import LabelError

    paths = tuple(f"training.{name}" for name in TRAINING_PATHS)
    try:
        settings = load_section(EvaluationConfiguration, configuration, override, paths=paths)
        path = None if bundle == "-" else find_bundle(bundle, Path.cwd())
        evaluate_bundle(path, settings, directory, _print_epoch)
    except (ConfigurationError, EmulatorError, LabelError, BundleError, ValidationError) as error:
        refuse(error)
    console.print(str(directory.resolve()), highlight=False)
