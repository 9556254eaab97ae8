"""Unit records: a unit of work is done when its record exists and names the digests that the plan expects.

The record is written last, under a temporary name, and renamed; nothing else on disk says that a unit is done.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Record:
    """What was done for the rows ``start`` to ``stop`` (exclusive).

    Attributes
    ----------
    start, stop : int
    inputs : dict of str to str
        Digest by cause: ``files``, ``survey`` for ingest; ``spectra``, ``model``, ``settings`` for infer.
    output : str
        Digest of the content that was written.
    counts : dict of str to int
        Rows by status name.
    reused : int
        Rows taken over from an earlier store instead of being read from their files.
    seconds : float
    worker : str
        Host and process, for tracing; part of no digest.
    """

    start: int
    stop: int
    inputs: dict[str, str]
    output: str
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    worker: str = ""
    reused: int = 0


def record_path(directory: Path, unit: int) -> Path:
    """File of the record of a unit."""
    return directory / f"{unit:06d}.json"


def write_record(directory: Path, unit: int, record: Record) -> None:
    """Write a record so that it is there whole or not at all."""
    write_json(record_path(directory, unit), asdict(record))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON by temporary name, flush to disk and rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("w") as stream:
        json.dump(content, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def read_record(directory: Path, unit: int) -> Record | None:
    """Record of a unit, or None if it is not done or its record cannot be read."""
    try:
        return Record(**json.loads(record_path(directory, unit).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def digest_of(*parts: object) -> str:
    """SHA-256, hexadecimal, of the JSON of ``parts`` with sorted keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
