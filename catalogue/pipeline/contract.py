"""What a run's models, products and cluster file must be, looked at before any work."""

from __future__ import annotations

from pathlib import Path

from catalogue.config import ConfigurationError
from catalogue.models import BundleError
from catalogue.pipeline.run import AppliedModel, Run

_FACTS_OF_BUNDLES = ("domain", "novelty_limit")


def check_before_work(run: Run) -> None:
    """Refuse models that cannot be applied, products that name outputs that no model has, and a missing cluster file.

    Imports the models, which takes a second: only for a run with something to do, and before hours of reading.

    Raises
    ------
    ConfigurationError
        Naming the model, the product or the file.
    """
    cluster = run.configuration.cluster
    if isinstance(cluster, str) and Path(cluster).is_absolute() and not Path(cluster).is_file():
        raise ConfigurationError(f"cluster: no such file: {cluster}")
    stored = {column.name for column in run.survey.columns} | {"status"}
    for applied in run.models:
        _check_model(applied, stored, run.survey.name)
    for product in run.products:
        for name in sorted(product.required_names):
            alias, dot, output = name.partition(".")
            if not dot or alias not in product.uses or output.split(".")[0] in _FACTS_OF_BUNDLES:
                continue
            known = [each.name for each in run.model_for(product, alias).model.outputs]
            if output not in known:
                raise ConfigurationError(
                    f"product: {product.name}: {name}: models of kind {product.uses[alias]} have no output {output!r}; "
                    f"they have {', '.join(known)}"
                )


def _check_model(applied: AppliedModel, stored: set[str], survey: str) -> None:
    try:
        outputs = [output.name for output in applied.model.outputs]
    except BundleError as error:
        raise ConfigurationError(f"model: {error}") from error
    except ValueError as error:
        raise ConfigurationError(f"model: kind {applied.bundle.kind}: {error}") from error
    if not outputs or len(set(outputs)) < len(outputs):
        raise ConfigurationError(
            f"model: kind {applied.bundle.kind}: expected outputs of different names, found {outputs}"
        )
    absent = sorted(set(applied.model.inputs) - stored)
    if absent:
        raise ConfigurationError(
            f"model: kind {applied.bundle.kind}: needs {', '.join(absent)}; survey {survey} stores "
            f"{', '.join(sorted(stored))}"
        )
