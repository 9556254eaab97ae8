"""A scheduler that already runs, by its address."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from distributed import Client
from distributed.security import Security

from cluster.drain import drain_before_leaving
from cluster.errors import ClusterError
from cluster.settings import ClusterSettings

DRAIN = 300.0  # workers that others started with a lifetime finish their task in its last minutes [s]


class ExistingSettings(ClusterSettings):
    """Keys of a cluster that others started and that is left running.

    Attributes
    ----------
    tls : bool
        Without it anybody who reaches the scheduler can run code as you; refused beyond the loopback unless set to
        false here.
    tls_ca_file, tls_cert, tls_key : Path or None
        Credentials; None takes those of Dask's own configuration.
    timeout : float
        Wait so long for the scheduler [s].
    """

    tls: bool = True
    tls_ca_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    timeout: float = 30.0

    @contextmanager
    def connected(self, address: str) -> Iterator[Client]:
        """Connect, and leave the cluster as it is at the end."""
        if self.tls and urlsplit(address).scheme != "tls" and not is_loopback(address):
            raise ClusterError(
                f"{address}: expected a tls:// address, since everybody who reaches this scheduler can run code as "
                "you; if that is meant, write a cluster file with kind: address, this address, and tls: false"
            )
        try:
            client = Client(address, security=self._security(), timeout=self.timeout, set_as_default=False)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise ClusterError(f"no scheduler could be reached at {address}: {error}") from error
        with client:
            drain_before_leaving(client, DRAIN)
            yield client

    def _security(self) -> Security | None:
        if self.tls_ca_file is None and self.tls_cert is None and self.tls_key is None:
            return None
        missing = [name for name in ("tls_ca_file", "tls_cert", "tls_key") if getattr(self, name) is None]
        if missing:
            raise ClusterError(f"{', '.join(missing)}: expected together with the other credentials, found none")
        return Security(
            require_encryption=True,
            tls_ca_file=str(self.tls_ca_file),
            tls_client_cert=str(self.tls_cert),
            tls_client_key=str(self.tls_key),
        )


class Settings(ExistingSettings):
    """Keys of a scheduler known by its address.

    Attributes
    ----------
    address : str
        As ``tls://host:8786``.
    """

    kind: Literal["address"]
    address: str

    @contextmanager
    def open(self, *, scratch: Path, workers: int | None) -> Iterator[Client]:
        """Connect."""
        with self.connected(self.address) as client:
            yield client


def is_loopback(address: str) -> bool:
    """Whether an address leads nowhere but to this machine."""
    host = urlsplit(address).hostname or ""
    if urlsplit(address).scheme == "inproc":
        return True
    try:
        return ipaddress.ip_address(socket.gethostbyname(host)).is_loopback
    except (OSError, ValueError):
        return False
