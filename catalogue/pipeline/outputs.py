"""What is written beside the catalogue files: the report page and the provenance."""

from __future__ import annotations

import json

from catalogue.datamodels import DataModel
from catalogue.pipeline.manifest import Manifest
from catalogue.pipeline.merge import Merged, report_path
from catalogue.pipeline.plan import StagePlan
from catalogue.pipeline.provenance import header_cards, provenance_document
from catalogue.pipeline.records import digest_of, write_json
from catalogue.pipeline.run import Run
from catalogue.report import ReportCollector, ReportContext, StageTiming


def write_provenance(
    run: Run, manifest: Manifest, ingest: StagePlan, configuration_text: str, files: list[str]
) -> None:
    """Write ``provenance.json``; outputs of other formats made by earlier builds stay listed while they exist."""
    path = run.directory.root / "provenance.json"
    try:
        earlier = json.loads(path.read_text())["entity"]
    except (FileNotFoundError, ValueError, KeyError):
        earlier = {}
    names = {name.removeprefix("file:") for name in earlier if name.startswith("file:")} | set(files)
    spectra = digest_of([unit.record.output if unit.record else None for unit in ingest.units])
    present = sorted(name for name in names if (run.directory.root / name).exists())
    write_json(path, provenance_document(run, manifest, spectra, configuration_text, present))


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
        ),
    )
