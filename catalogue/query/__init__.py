"""Reading what was built: catalogues, predictions and spectra as lazy xarray datasets that can be asked."""

from __future__ import annotations

from catalogue.query.accessor import CatalogueAccessor
from catalogue.query.backend import CatalogueBackend
from catalogue.query.formats import open_table
from catalogue.query.opening import open
from catalogue.query.table import Table, TableColumn, TableError

__all__ = [
    "CatalogueAccessor",
    "CatalogueBackend",
    "Table",
    "TableColumn",
    "TableError",
    "open",
    "open_table",
]
