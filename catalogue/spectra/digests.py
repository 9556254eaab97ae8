"""Digests of columns that do not depend on the blocks in which the rows arrive."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class ColumnDigest:
    """SHA-256 over named columns, fed block by block.

    Each column is hashed on its own, so that one block of 100 rows and two of 50 give the same; strings are hashed
    as their UTF-8 bytes and, apart from them, their lengths.
    """

    def __init__(self) -> None:
        self._hashes: dict[str, Any] = {}
        self._kinds: dict[str, str] = {}

    def update(self, columns: Mapping[str, pa.Array | NDArray[Any]]) -> None:
        """Append rows to columns.

        Parameters
        ----------
        columns : mapping of str to array
            Arrow arrays without nulls, or NumPy arrays of any shape with rows along the first axis.
        """
        for name, values in columns.items():
            self._kinds[name] = f"{values.type if isinstance(values, pa.Array) else values.dtype}"
            if isinstance(values, pa.Array) and pa.types.is_string(values.type):
                first, last = values.offset, values.offset + len(values)
                _, offsets, data = values.buffers()
                bounds = np.frombuffer(offsets, np.int32)[first : last + 1] if offsets else np.zeros(1, np.int32)
                text = memoryview(data)[bounds[0] : bounds[-1]] if data else b""
                self._update_strings(name, text, np.diff(bounds).astype(np.int64))
            elif isinstance(values, np.ndarray) and values.dtype.kind == "T":
                self._kinds[name] = "string"
                encoded = [value.encode() for value in values.tolist()]
                lengths = np.array([len(value) for value in encoded], np.int64)
                self._update_strings(name, b"".join(encoded), lengths)
            else:
                plain = values if isinstance(values, np.ndarray) else values.to_numpy(zero_copy_only=False)
                self._hash(name).update(np.ascontiguousarray(plain).reshape(-1).view(np.uint8).data)

    def hexdigest(self) -> str:
        """Digest over everything so far, hexadecimal."""
        total = hashlib.sha256()
        for name in sorted(self._hashes):
            column = self._hashes[name].hexdigest()
            total.update(f"{name}\0{self._kinds.get(name, '')}\0{column}\n".encode())
        return total.hexdigest()

    def _update_strings(self, name: str, text: bytes | memoryview, lengths: NDArray[np.int64]) -> None:
        self._hash(name).update(text)
        self._hash(f"{name}\0lengths").update(lengths.tobytes())

    def _hash(self, name: str) -> Any:
        if name not in self._hashes:
            self._hashes[name] = hashlib.sha256()
        return self._hashes[name]
