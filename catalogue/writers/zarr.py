"""Zarr group, streamed, that xarray opens with dimensions, units and CF flag attributes."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from catalogue.datamodels import Column, DataModel, numpy_dtype
from catalogue.spectra.primitives import RowStatus
from catalogue.writers.base import Writer, check_rows
from catalogue.writers.blocks import Blocks

CHUNK_ROWS = 65536


class ZarrWriter(Writer):
    """One array per column on the dimension ``row``; flags carry CF ``flag_masks`` and ``flag_meanings``."""

    format = "zarr"
    suffix = ".zarr"

    def __init__(self, path: Path, data_model: DataModel, n_rows: int, provenance: Mapping[str, str]) -> None:
        super().__init__(path, data_model, n_rows, provenance)
        shutil.rmtree(self.partial, ignore_errors=True)
        attributes = {"title": data_model.title, "Conventions": "CF-1.11", **provenance}
        self._group = zarr.create_group(self.partial, zarr_format=3, attributes=attributes)
        self._blocks = Blocks(CHUNK_ROWS)
        self._at = 0
        for column in data_model.columns:
            self._create(column)

    def _create(self, column: Column) -> None:
        numbers = column.dtype != "str"
        with warnings.catch_warnings():
            # Variable-length strings are what zarr-python and xarray read; their specification is still a draft.
            warnings.simplefilter("ignore")
            self._group.create_array(
                column.name,
                shape=(self.n_rows,),
                chunks=(CHUNK_ROWS,),
                dtype=numpy_dtype(column.dtype),
                fill_value=_fill(column),
                dimension_names=("row",),
                attributes=_attributes(column, self.data_model),
                compressors=BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle") if numbers else "auto",
                config={"write_empty_chunks": True},
            )

    def write(self, columns: Mapping[str, NDArray[np.generic]]) -> None:
        """Append rows."""
        self.rows_written += len(next(iter(columns.values())))
        for block in self._blocks.add(columns):
            self._write_block(block)

    def _write_block(self, block: Mapping[str, NDArray[np.generic]]) -> None:
        rows = len(next(iter(block.values())))
        for column in self.data_model.columns:
            values = block[column.name]
            self._array(column.name)[self._at : self._at + rows] = values
        self._at += rows

    def _array(self, name: str) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._group[name]

    def close(self) -> None:
        """Consolidate the metadata and rename the directory into place."""
        check_rows(self)
        if (rest := self._blocks.rest()) is not None:
            self._write_block(rest)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(self.partial)
        earlier = self.path.with_name(self.path.name + ".earlier.partial")
        shutil.rmtree(earlier, ignore_errors=True)
        if self.path.exists():
            # A directory cannot be replaced in one step: a crash between the two leaves none, never half of one.
            self.path.rename(earlier)
        self.partial.rename(self.path)
        shutil.rmtree(earlier, ignore_errors=True)

    def abort(self) -> None:
        """Remove what was written."""
        shutil.rmtree(self.partial, ignore_errors=True)


def _fill(column: Column) -> Any:
    if column.dtype.startswith("float"):
        return np.nan
    if column.dtype == "str":
        return ""
    return column.missing if column.missing is not None else 0


def _attributes(column: Column, data_model: DataModel) -> dict[str, Any]:
    facts = {"long_name": column.description, "units": column.unit, "ucd": column.ucd, "source": column.source}
    attributes: dict[str, Any] = {name: value for name, value in facts.items() if value}
    if column.role:
        attributes["role"] = column.role
    if column.missing is not None:
        attributes["missing_value"] = column.missing
    if column.name == "FLAG" and data_model.flags:
        attributes["flag_masks"] = [1 << flag.bit for flag in data_model.flags]
        attributes["flag_meanings"] = " ".join(flag.name for flag in data_model.flags)
        attributes["flag_levels"] = " ".join(flag.level for flag in data_model.flags)
    if column.role == "status":
        attributes["flag_values"] = [int(status) for status in RowStatus]
        attributes["flag_meanings"] = " ".join(status.name for status in RowStatus)
    return attributes
