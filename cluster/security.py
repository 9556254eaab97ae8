"""Temporary credentials: without them nobody can hand code to a scheduler or a worker."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psutil
from distributed.security import Security

from cluster.errors import ClusterError


def temporary_security() -> Security:
    """Self-signed credentials of one run, in memory.

    Raises
    ------
    ClusterError
        The package ``cryptography`` (extra ``hpc``) is missing.
    """
    try:
        return Security.temporary()
    except ImportError as error:
        raise ClusterError(
            "encrypted connections need the package cryptography: install stellar-catalogue[hpc]"
        ) from error


def loopback_security(wanted: bool | None) -> Security | None:
    """Credentials for a cluster on the loopback: as wanted, and by default where they can be made."""
    if wanted is None:
        wanted = find_spec("cryptography") is not None
    return temporary_security() if wanted else None


@contextmanager
def credential_files(directory: Path) -> Iterator[Security]:
    """Context with credentials of one run in files that only the owner can read, removed at the end.

    Parameters
    ----------
    directory : Path
        Seen by all machines of the cluster; made if missing.

    Yields
    ------
    Security
        With paths in place of the keys, so that a batch job's script shows no key.
    """
    security = temporary_security()
    directory.mkdir(parents=True, exist_ok=True)
    sweep_credentials(directory)
    # mkdtemp gives mode 700.
    folder = Path(tempfile.mkdtemp(prefix=f"credentials-{socket.gethostname()}-{os.getpid()}-", dir=directory))
    try:
        texts = security.get_tls_config_for_role("client")
        certificate = _private(folder / "certificate.pem", texts["cert"])
        key = _private(folder / "key.pem", texts["key"])
        roles = {
            f"tls_{role}_{part}": path
            for role in ("client", "scheduler", "worker")
            for part, path in (("cert", certificate), ("key", key))
        }
        yield Security(require_encryption=True, tls_ca_file=certificate, **roles)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_credentials(directory: Path) -> None:
    """Remove the credentials of runs on this machine that were killed before they could do so themselves."""
    prefix = f"credentials-{socket.gethostname()}-"
    for folder in directory.glob(f"{prefix}*"):
        process = folder.name.removeprefix(prefix).split("-")[0]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


def _private(path: Path, text: str) -> str:
    """Write ``text`` to a new file of mode 600; returns its path."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
    return str(path)
