"""A run with every name resolved: survey, bundles, data models, directories and digests."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from catalogue.config import ConfigurationError, RunConfiguration, check_inputs_exist
from catalogue.datamodels import DataModel, DataModelError, load_data_model
from catalogue.models import Bundle, BundleError, Model, bind, find_bundle, inference_version, load_bundle
from catalogue.pipeline.records import digest_of
from catalogue.surveys import Survey, load_survey
from catalogue.writers import format_names


@dataclass(frozen=True)
class RunDirectory:
    """Where a run keeps what; see docs/design.md."""

    root: Path

    @property
    def lock(self) -> Path:
        """Lock file."""
        return self.root / "run.lock"

    @property
    def scratch(self) -> Path:
        """Credentials and logs of the cluster while a build lasts; logs also after one that failed."""
        return self.root / "scratch"

    @property
    def manifest(self) -> Path:
        """Row count, chunking and epoch."""
        return self.root / "manifest.json"

    @property
    def parent(self) -> Path:
        """Imported parent table."""
        return self.root / "parent.parquet"

    @property
    def spectra(self) -> Path:
        """Spectra store."""
        return self.root / "spectra.zarr"

    @property
    def earlier_spectra(self) -> Path:
        """Spectra store of an earlier parent table, while its rows are being taken over."""
        return self.root / "earlier-spectra.zarr"

    @property
    def earlier_parent(self) -> Path:
        """Parent table that belongs to :attr:`earlier_spectra`."""
        return self.root / "earlier-parent.parquet"

    @property
    def ingest_records(self) -> Path:
        """Records of the ingest units."""
        return self.root / "records" / "ingest"

    def infer_records(self, bundle: str) -> Path:
        """Records of the inference units of a bundle id."""
        return self.root / "records" / "infer" / bundle

    def merge_record(self, product: str) -> Path:
        """Record of the last merge of a product."""
        return self.root / "records" / "merge" / f"{product}.json"

    def layout_record(self, made: Path) -> Path:
        """Record of the digests of the parent table or of a store's layout."""
        return self.root / "records" / "layout" / f"{made.stem}.json"

    def predictions(self, bundle: str) -> Path:
        """Predictions of a bundle id."""
        return self.root / "predictions" / f"{bundle}.zarr"


@dataclass(frozen=True)
class AppliedModel:
    """A bundle with the settings it is applied with."""

    bundle: Bundle
    settings: dict[str, Any]

    @property
    def identity(self) -> str:
        """Name of its predictions on disk: bundle and settings digest, 12 digits each."""
        return f"{self.bundle.digest[:12]}-{self.settings_digest[:12]}"

    @property
    def settings_digest(self) -> str:
        """Digest of everything else than the bundle and the spectra that can change a number."""
        return digest_of(self.settings)

    @cached_property
    def model(self) -> Model:
        """The model bound to its bundle, for what it says of itself; importing it takes a second."""
        return bind(self.bundle)


@dataclass(frozen=True)
class Run:
    """A configuration whose survey, models and products exist and fit together."""

    configuration: RunConfiguration
    survey: Survey
    models: tuple[AppliedModel, ...]
    products: tuple[DataModel, ...]
    directory: RunDirectory

    @property
    def key(self) -> str:
        """Column that identifies a row of the parent table."""
        return self.configuration.parent.key or self.survey.default_key

    @property
    def template(self) -> str:
        """Path template of the spectra files."""
        return self.configuration.spectra.path or self.survey.default_path

    @cached_property
    def extra_columns(self) -> tuple[str, ...]:
        """Parent columns that a product names and the survey does not carry."""
        known = {column.name for column in self.survey.columns} | {"status", "reason", "row"}
        wanted: list[str] = []
        for product in self.products:
            for name in sorted(product.required_names):
                head = name.split(".")[0]
                if "." not in name and head not in known and name not in wanted:
                    wanted.append(name)
        return tuple(wanted)

    def model_for(self, product: DataModel, alias: str) -> AppliedModel:
        """The run's model that ``product`` calls ``alias``."""
        kind = product.uses[alias]
        return next(model for model in self.models if model.bundle.kind == kind)

    @cached_property
    def semantics(self) -> dict[str, Any]:
        """What of the configuration can change a value in the catalogue, free of places and clusters."""
        return {
            "survey": self.survey.name,
            "key": self.key,
            "template": self.template,
            "select": self.configuration.select,
            "models": [[model.bundle.digest, model.settings] for model in self.models],
            "products": [product.digest for product in self.products],
            "options": self.configuration.options,
        }


def resolve_run(configuration: RunConfiguration) -> Run:
    """Resolve every name of a configuration.

    Raises
    ------
    ConfigurationError
        For a missing path, an unknown survey, bundle or product, two models of one kind, a product whose model is not
        in the run, a bundle made for another survey or grid, or of a kind that is not installed.
    """
    check_inputs_exist(configuration)
    _check_formats(configuration)
    here = Path.cwd()
    try:
        survey = load_survey(configuration.survey)
    except KeyError as error:
        raise ConfigurationError(f"survey: {error.args[0]}") from error
    try:
        bundles = [load_bundle(find_bundle(name, here)) for name in configuration.model]
        for bundle in bundles:
            inference_version(bundle.kind)  # refuses a kind that is not installed
    except BundleError as error:
        raise ConfigurationError(f"model: {error}") from error
    try:
        products = tuple(load_data_model(name, here) for name in configuration.product)
    except DataModelError as error:
        raise ConfigurationError(f"product: {error}") from error
    _check_fit(survey, bundles, products)
    _check_options(configuration, products)
    settings = configuration.inference
    models = tuple(
        AppliedModel(
            bundle,
            {
                "passes": settings.passes or bundle.description.passes,
                "seed": bundle.description.seed if settings.seed is None else settings.seed,
            },
        )
        for bundle in bundles
    )
    return Run(configuration, survey, models, products, RunDirectory(configuration.output.directory))


def _check_fit(survey: Survey, bundles: list[Bundle], products: tuple[DataModel, ...]) -> None:
    kinds = [bundle.kind for bundle in bundles]
    if len(set(kinds)) != len(kinds):
        raise ConfigurationError(f"model: expected models of different kinds, found {kinds}")
    for bundle in bundles:
        if bundle.description.survey != survey.name:
            raise ConfigurationError(
                f"model: bundle {bundle.description.name} is for survey {bundle.description.survey}, "
                f"the run's is {survey.name}"
            )
        if bundle.description.grid != survey.grid.name:
            raise ConfigurationError(
                f"model: bundle {bundle.description.name} is for grid {bundle.description.grid}, "
                f"that of survey {survey.name} is {survey.grid.name}"
            )
    for product in products:
        if product.survey != survey.name:
            raise ConfigurationError(
                f"product: {product.name} is for survey {product.survey}, the run's is {survey.name}"
            )
        missing = sorted(set(product.uses.values()) - set(kinds))
        if missing:
            raise ConfigurationError(
                f"product: {product.name} needs a model of kind {', '.join(missing)}, found {kinds}"
            )


def _check_formats(configuration: RunConfiguration) -> None:
    unknown = [name for name in configuration.output.formats if name not in format_names()]
    if unknown:
        raise ConfigurationError(
            f"output.formats: unknown format {', '.join(unknown)}; there are {', '.join(format_names())}"
        )
    sorted_on_the_sky = [name for name in configuration.output.formats if name in ("hats", "parquet-healpix")]
    if sorted_on_the_sky and find_spec("cdshealpix") is None:
        raise ConfigurationError(f"output.formats: {sorted_on_the_sky[0]} needs the extra hats, which is not installed")


def _check_options(configuration: RunConfiguration, products: tuple[DataModel, ...]) -> None:
    known = {name: option for product in products for name, option in product.options.items()}
    for name, value in configuration.options.items():
        if name not in known:
            raise ConfigurationError(f"options.{name}: unknown option; the products have {', '.join(sorted(known))}")
        try:
            known[name].value(value)
        except ValueError as error:
            raise ConfigurationError(f"options.{name}: {error}") from error
