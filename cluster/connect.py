"""From a word, a YAML file, an address or a client to a client that is ready for `run_tasks`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from distributed import Client
from pydantic import ValidationError

from cluster import kinds
from cluster.errors import ClusterError, unknown_key
from cluster.facts import remember_worker_timeout
from cluster.settings import ClusterSettings

Where = str | Path | Mapping[str, Any] | Client


@contextmanager
def connect(where: Where, *, relative_to: Path, scratch: Path, workers: int | None = None) -> Iterator[Client]:
    """Context with a client of the cluster that ``where`` describes.

    Parameters
    ----------
    where : str, Path, mapping or Client
        ``local`` or ``cuda``; a YAML file; the address of a scheduler (``tls://host:port``); the keys of a YAML file;
        or a client, which is given back as it is and never closed.
    relative_to : Path
        Directory against which the name of a YAML file is taken.
    scratch : Path
        Directory for the files of this run (credentials, job logs), made if missing and seen by all workers where
        there are several machines.
    workers : int, optional
        Number of worker processes, instead of the file's.

    Yields
    ------
    distributed.Client

    Raises
    ------
    ClusterError
        The description is wrong, a package is missing, or the cluster does not start.
    """
    if isinstance(where, Client):
        yield where
        return
    settings = load_settings(where, relative_to=relative_to)
    scratch = Path(scratch).absolute()
    with settings.open(scratch=scratch, workers=workers) as client:
        remember_worker_timeout(client, settings.worker_timeout)
        yield client


def job_script(path: str | Path | Mapping[str, Any]) -> str:
    """Text of the batch job that a cluster file would submit for every worker, without submitting it.

    Raises
    ------
    ClusterError
        The file is wrong, or its kind submits no jobs.
    """
    settings = load_settings(path, relative_to=Path.cwd())
    try:
        return settings.script()
    except ClusterError as error:
        raise ClusterError(f"{'cluster' if isinstance(path, Mapping) else path}: {error}") from error


def kind_names() -> list[str]:
    """Names of the kinds of cluster that there are, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(kinds.__path__))


def load_settings(where: str | Path | Mapping[str, Any], *, relative_to: Path) -> ClusterSettings:
    """Validated settings of a word, an address, a YAML file or a mapping.

    Raises
    ------
    ClusterError
        With the source, the key, and what was expected and found.
    """
    keys, source = _keys_of(where, relative_to)
    kind = keys.get("kind")
    if not isinstance(kind, str) or kind not in kind_names():
        raise ClusterError(f"{source}: kind: expected one of {', '.join(kind_names())}, found {kind!r}")
    settings_class: type[ClusterSettings] = importlib.import_module(f"cluster.kinds.{kind}").Settings
    try:
        return settings_class.model_validate(dict(keys))
    except ValidationError as error:
        known = list(settings_class.model_fields)
        raise ClusterError("\n".join(f"{source}: {_said_of(dict(fault), known)}" for fault in error.errors())) from None


def _said_of(fault: Mapping[str, Any], known: list[str]) -> str:
    """One fault that pydantic found in the keys of a file."""
    key, said = ".".join(map(str, fault["loc"])), str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return f"{key}: {unknown_key(key, known)}"
    return f"{key}: {said}, found {fault.get('input')!r}" if key else said


def _keys_of(where: str | Path | Mapping[str, Any], relative_to: Path) -> tuple[Mapping[str, Any], str]:
    if isinstance(where, Mapping):
        return where, "cluster"
    text = str(where)
    if "://" in text:
        return {"kind": "address", "address": text}, text
    if text in ("local", "cuda"):
        return {"kind": text}, text
    path = Path(relative_to) / text
    if not path.is_file():
        raise ClusterError(f"cluster: expected local, cuda, a scheduler's address or a YAML file, found {text!r}")
    try:
        keys = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ClusterError(f"{path}: not YAML: {error}") from None
    if not isinstance(keys, dict):
        raise ClusterError(f"{path}: expected keys and values, found {type(keys).__name__}")
    return keys, str(path)
