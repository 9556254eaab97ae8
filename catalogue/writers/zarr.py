"""Zarr group, streamed, that xarray opens with dimensions, units and CF flag attributes."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from catalogue.datamodels import Column, DataModel, missing_value, numpy_dtype
from catalogue.spectra.primitives import RowStatus
from catalogue.writers.base import Writer, publish_directory


class ZarrWriter(Writer):
    """One array per column on the dimension ``row``; flags carry CF ``flag_masks`` and ``flag_meanings``."""

    format = "zarr"
    suffix = ".zarr"
    block_rows = 131072

    def __init__(self, path: Path, data_model: DataModel, n_rows: int, provenance: Mapping[str, str]) -> None:
        super().__init__(path, data_model, n_rows, provenance)
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir()  # zarr would also make the directories above, which a mistyped path should not
        attributes = {"title": data_model.title, "Conventions": "CF-1.11", **provenance}
        group = zarr.create_group(self.partial, zarr_format=3, attributes=attributes)
        self._arrays = {column.name: self._create(group, column) for column in data_model.columns}
        self._at = 0

    def _create(self, group: zarr.Group, column: Column) -> Any:
        with warnings.catch_warnings():
            # Variable-length strings are what zarr-python and xarray read; their specification is still a draft.
            warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
            missing = missing_value(column)
            return group.create_array(
                column.name,
                shape=(self.n_rows,),
                chunks=(min(self.block_rows, max(1, self.n_rows)),),
                dtype=numpy_dtype(column.dtype),
                fill_value=0 if missing is None else missing,
                dimension_names=("row",),
                attributes=_attributes(column, self.data_model),
                compressors="auto"
                if column.dtype == "str"
                else BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle"),
                config={"write_empty_chunks": True},
            )

    def _write_block(self, block: Mapping[str, NDArray[Any]]) -> None:
        stop = self._at + len(next(iter(block.values())))
        for name, array in self._arrays.items():
            array[self._at : stop] = block[name]
        self._at = stop

    def _finish(self) -> None:
        """Consolidate the metadata and rename the directory into place."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
            warnings.filterwarnings("ignore", message=".*[Cc]onsolidated metadata is currently not part.*")
            zarr.consolidate_metadata(self.partial)
        publish_directory(self.partial, self.path)

    def _discard(self) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)


def _attributes(column: Column, data_model: DataModel) -> dict[str, Any]:
    facts = {
        "long_name": column.description,
        "units": column.unit,
        "ucd": column.ucd,
        "source": column.source,
        "role": column.role,
    }
    attributes: dict[str, Any] = {name: value for name, value in facts.items() if value}
    if column.missing is not None:
        # Not CF's missing_value: for that, xarray turns integers into floats, and long identifiers lose digits.
        attributes["null_value"] = column.missing
    if column.name == "FLAG":
        attributes["flag_masks"] = [1 << flag.bit for flag in data_model.flags]
        attributes["flag_meanings"] = " ".join(flag.name for flag in data_model.flags)
        attributes["flag_levels"] = " ".join(flag.level for flag in data_model.flags)
    if column.role == "status":
        attributes["flag_values"] = [int(status) for status in RowStatus]
        attributes["flag_meanings"] = " ".join(status.name for status in RowStatus)
    return attributes
