"""What is written beside the catalogue files: the report page and the provenance."""

from __future__ import annotations

from itertools import islice
from typing import Any

from catalogue.datamodels import DataModel
from catalogue.pipeline.manifest import Manifest
from catalogue.pipeline.merge import Merged, merge_record, report_path
from catalogue.pipeline.plan import StagePlan
from catalogue.pipeline.provenance import header_cards, provenance_document, run_date
from catalogue.pipeline.records import DamagedFile, digest_of, read_json, write_json
from catalogue.pipeline.run import Run
from catalogue.pipeline.status import NO_PROBLEM, problems
from catalogue.report import ReportCollector, ReportContext, StageTiming
from catalogue.spectra.primitives import RowStatus

PROBLEMS_SHOWN = 25
"""Rows without a usable spectrum that the report lists."""


def write_provenance(run: Run, manifest: Manifest, ingest: StagePlan, configuration_text: str) -> None:
    """Write ``provenance.json`` unless it says already what made the files that are there."""
    path = run.directory.root / "provenance.json"
    spectra = digest_of([unit.record.output if unit.record else None for unit in ingest.units])
    try:
        earlier = read_json(path)["entity"]
    except (FileNotFoundError, DamagedFile, KeyError):
        earlier = {}
    files = _other_outputs(run, earlier)
    for product in run.products:
        files.update(_outputs(run, product))
    document = provenance_document(run, manifest, spectra, configuration_text, files)
    if document["entity"] != earlier:
        write_json(path, document)


def _other_outputs(run: Run, earlier: dict[str, Any]) -> dict[str, str | None]:
    """Outputs of earlier builds, as of another product, that are still there."""
    named = {name.removeprefix("file:"): facts for name, facts in earlier.items() if name.startswith("file:")}
    return {name: facts.get("sha256") for name, facts in named.items() if (run.directory.root / name).exists()}


def _outputs(run: Run, product: DataModel) -> dict[str, str | None]:
    """Digest of every output of a product that its record names; None for a directory."""
    record = merge_record(run, product)
    digests = record.get("digests", {})
    names = [*record.get("files", ()), report_path(run, product).name]
    return {name: digests.get(name) for name in sorted(names) if (run.directory.root / name).exists()}


def write_report(
    run: Run,
    product: DataModel,
    manifest: Manifest,
    collector: ReportCollector,
    merged: Merged,
    stages: list[StagePlan],
) -> None:
    """Write the report page of a product."""
    # Matplotlib takes a second to load, which a build with nothing to do shall not pay.
    from catalogue.report.page import write_page

    timings = []
    for stage in stages:
        records = [unit.record for unit in stage.units if unit.record is not None]
        if records:
            rows = sum(record.stop - record.start for record in records)
            timings.append(StageTiming(stage.name, rows, sum(record.seconds for record in records), len(records)))
    cards = header_cards(run, product, manifest, complete=True)
    descriptions = [run.model_for(product, alias).bundle.description for alias in product.uses]
    problem_count = sum(
        count
        for unit in stages[0].units
        for status, count in (unit.record.counts if unit.record else {}).items()
        if RowStatus[status] not in NO_PROBLEM
    )
    write_page(
        collector,
        report_path(run, product),
        ReportContext(
            title=product.title,
            product=product.name,
            survey=run.survey.name,
            spectra=run.directory.spectra,
            outputs=tuple(path.name for path in merged.files),
            digests={name: value for name, value in cards.items() if name.endswith("DG") or "DG" in name},
            versions={name: value for name, value in cards.items() if "DG" not in name and value},
            timings=tuple(timings),
            problems=tuple(islice(problems(run), min(problem_count, PROBLEMS_SHOWN))),
            problem_count=problem_count,
            description=product.description,
            notes=" ".join(description.notes for description in descriptions if description.notes),
            citation=" ".join(dict.fromkeys(d.citation for d in descriptions if d.citation)),
            date=run_date(manifest),
        ),
    )
