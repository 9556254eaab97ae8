"""Unit records: a unit of work is done when its record exists and names the digests that the plan expects.

The record is written last, under a temporary name, and renamed; nothing else on disk says that a unit is done.
Every JSON file of a run ends with a seal, the digest of all that stands before it, so that damage to the file
itself is found.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SEAL = "sha256"
"""Last key of every JSON file of a run."""
_BEFORE_SEAL = b',\n "sha256": "'


@dataclass(frozen=True, slots=True)
class Record:
    """What was done for the rows ``start`` to ``stop`` (exclusive).

    Attributes
    ----------
    start, stop : int
    inputs : dict of str to str
        Digest by cause: ``survey``, ``layout``, ``parent`` and ``rows`` (the parent table's, with what their files
        were) for ingest; ``spectra``, ``model``, ``settings`` and ``inference`` (the code's version) for infer.
    output : str
        Digest of the content that was written.
    counts : dict of str to int
        Rows by status name.
    reused : int
        Rows taken over from an earlier store instead of being read from their files.
    seconds : float
        Of the unit, shared equally among the models that were applied together.
    worker : str
        Host and process, for tracing; part of no digest.
    files : dict of str to str
        SHA-256 of every chunk file of the rows, by its path within the store; empty in records of earlier releases.
    """

    start: int
    stop: int
    inputs: dict[str, str]
    output: str
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    worker: str = ""
    reused: int = 0
    files: dict[str, str] = field(default_factory=dict)


def record_path(directory: Path, unit: int) -> Path:
    """File of the record of a unit."""
    return directory / f"{unit:06d}.json"


def write_record(directory: Path, unit: int, record: Record) -> None:
    """Write a record so that it is there whole or not at all."""
    write_json(record_path(directory, unit), asdict(record))


class DamagedFile(ValueError):  # noqa: N818 - it states a fact about the file
    """A file of the run that is not what was written."""


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write sealed JSON by temporary name, flush to disk and rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes of two machines may have one number.
    partial = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.partial")
    with partial.open("wb") as stream:
        stream.write(_sealed(json.dumps(content, indent=1).encode()))
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Content of a file of :func:`write_json`, without its seal.

    Raises
    ------
    FileNotFoundError
    DamagedFile
        If it is not JSON, or its seal is broken. Files of earlier releases have none, and are believed.
    """
    text = path.read_bytes()
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DamagedFile(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise DamagedFile(f"{path}: expected an object, found {type(content).__name__}")
    sealed = SEAL in content
    if sealed and _sealed(text[: text.rfind(_BEFORE_SEAL)] + b"\n}") != text:
        raise DamagedFile(f"{path}: its content is not what its {SEAL} says")
    if not sealed and any(_is_nearly_the_seal(key) for key in content):
        raise DamagedFile(f"{path}: the name of its seal is damaged")
    content.pop(SEAL, None)
    return content


def is_sealed(path: Path) -> bool:
    """Whether a file of :func:`write_json` has a seal."""
    return _BEFORE_SEAL in path.read_bytes()


def _is_nearly_the_seal(key: str) -> bool:
    return len(key) == len(SEAL) and sum(a != b for a, b in zip(key, SEAL, strict=True)) == 1


def _sealed(text: bytes) -> bytes:
    """JSON text of an object with a last entry that is the digest of what stands before it."""
    before = text.removesuffix(b"\n}")
    return before + _BEFORE_SEAL + hashlib.sha256(before).hexdigest().encode() + b'"\n}'


def remove_record(directory: Path, unit: int) -> None:
    """Say that a unit is not done. Called before its rows are written, so that a record never outlives them."""
    record_path(directory, unit).unlink(missing_ok=True)


def read_record(directory: Path, unit: int) -> Record | None:
    """Record of a unit, or None if it is not done or its record is damaged, so that the unit is done again."""
    try:
        return Record(**read_json(record_path(directory, unit)))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def record_with_files(directory: Path, unit: int, store: Path) -> Record | None:
    """:func:`read_record`, or None too if a file that the record names is gone or empty.

    File systems for scratch data remove what is old file by file, and a missing chunk reads as rows without values.
    """
    record = read_record(directory, unit)
    if record is not None and not all(_has_content(f"{store}/{name}") for name in ("zarr.json", *record.files)):
        return None
    return record


def _has_content(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0  # noqa: PTH116 - Path objects cost more than the call
    except (FileNotFoundError, NotADirectoryError):
        return False


def digest_of(*parts: object) -> str:
    """SHA-256, hexadecimal, of the JSON of ``parts`` with sorted keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
