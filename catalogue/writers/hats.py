"""HATS: Parquet files partitioned by HEALPix, as lsdb and hats read them. Needs the extra ``hats``.

After the IVOA note on HATS: ``hats.properties``, ``partition_info.csv``, ``dataset/Norder=k/Dir=d/Npix=p.parquet``
with the column ``_healpix_29``, and all their footers in ``dataset/_metadata``. The coverage is beside them as a MOC.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from catalogue.datamodels import DataModel
from catalogue.writers.base import Writer, publish_directory
from catalogue.writers.coverage import coverage_of, write_coverage
from catalogue.writers.healpix import HEALPIX_COLUMN, HEALPIX_ORDER, HealpixRows, Partition

MOST_ROWS = 1_000_000
"""Rows of a partition, as hats-import's default."""
_ROWS_PER_GROUP = 131072


class HatsWriter(Writer):
    """A HATS catalogue. Rows without a position lie in no pixel and are left out; the properties say how many."""

    format = "hats"
    suffix = ".hats"
    block_rows = 131072

    def __init__(self, path: Path, data_model: DataModel, n_rows: int, provenance: Mapping[str, str]) -> None:
        super().__init__(path, data_model, n_rows, provenance)
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir()  # not the directories above, which a mistyped path should not make
        self._rows = HealpixRows(self.partial / "unsorted", data_model, provenance)

    def _write_block(self, block: Mapping[str, NDArray[Any]]) -> None:
        self._rows.add(block)

    def _finish(self) -> None:
        """Gather the partitions, describe them, and rename the directory."""
        dataset = self.partial / "dataset"
        dataset.mkdir()
        partitions = self._rows.partitions(MOST_ROWS)
        footers = [self._write_partition(dataset, partition) for partition in partitions]
        schema = self._rows.schema
        pq.write_metadata(schema, dataset / "_common_metadata")
        pq.write_metadata(schema, dataset / "_metadata", metadata_collector=footers)
        lines = ["Norder,Npix", *(f"{partition.order},{partition.pixel}" for partition in partitions)]
        (self.partial / "partition_info.csv").write_text("\n".join(lines) + "\n")
        coverage = coverage_of(self._rows.counts)
        write_coverage(self.partial / "moc.fits", coverage, self.provenance)
        properties = self._properties(partitions, coverage.sky_fraction)
        for name in ("hats.properties", "properties"):
            (self.partial / name).write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        self._rows.discard()
        publish_directory(self.partial, self.path)

    def _write_partition(self, dataset: Path, partition: Partition) -> pq.FileMetaData:
        place = f"Norder={partition.order}/Dir={partition.pixel // 10000 * 10000}/Npix={partition.pixel}.parquet"
        path = dataset / place
        path.parent.mkdir(parents=True, exist_ok=True)
        footers: list[pq.FileMetaData] = []
        table: pa.Table = self._rows.rows_of(partition)
        pq.write_table(
            table, path, row_group_size=_ROWS_PER_GROUP, compression="zstd", write_page_checksum=True,
            metadata_collector=footers,
        )  # fmt: skip
        footers[0].set_file_path(place)
        return footers[0]

    def _properties(self, partitions: list[Partition], sky_fraction: float) -> dict[str, object]:
        date = self.provenance.get("DATE", "")
        return {
            "obs_collection": self.data_model.name,
            "obs_title": self.data_model.title,
            "dataproduct_type": "object",
            "hats_nrows": self.n_rows - self._rows.without_position,
            "hats_col_ra": self._rows.ra,
            "hats_col_dec": self._rows.dec,
            "hats_col_healpix": HEALPIX_COLUMN,
            "hats_col_healpix_order": HEALPIX_ORDER,
            "hats_order": max((partition.order for partition in partitions), default=0),
            "hats_npix_suffix": ".parquet",
            "hats_max_rows": MOST_ROWS,
            "hats_version": "v0.1",
            "hats_builder": self.provenance.get("CREATOR", "stellar-catalogue"),
            **({"hats_creation_date": f"{date}UTC"} if date else {}),
            "hats_frame": "equatorial",
            "moc_sky_fraction": f"{np.float64(sky_fraction):.6g}",
            "rows_without_position": self._rows.without_position,
        }

    def _discard(self) -> None:
        self._rows.discard()
        shutil.rmtree(self.partial, ignore_errors=True)
