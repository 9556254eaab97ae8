"""Spectra files to `spectra.zarr`: parent table, paths, ingest, the store."""
