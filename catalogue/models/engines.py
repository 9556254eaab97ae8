"""Prepared networks, one for each choice of passes, seed and device, built once per process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import torch

from catalogue.models.base import InferenceSettings
from catalogue.models.bundle import Bundle
from catalogue.models.device import choose_device, one_memory_error

Engine = TypeVar("Engine")


class Engines(Generic[Engine]):
    """Engines of a model, kept by what makes them differ. Threads may share it.

    Parameters
    ----------
    bundle : Bundle
        Gives passes and seed where the settings leave them open.
    prepare : callable
        Makes an engine of passes, seed and device.
    """

    def __init__(self, bundle: Bundle, prepare: Callable[[int, int, torch.device], Engine]) -> None:
        self._bundle = bundle
        self._prepare = prepare
        self._engines: dict[tuple[int, int, str], Engine] = {}
        self._lock = threading.Lock()

    def of(self, settings: InferenceSettings) -> Engine:
        """The engine for these settings.

        Raises
        ------
        DeviceError
            If the device is not there.
        torch.OutOfMemoryError
            If its memory is out.
        """
        description = self._bundle.description
        passes = description.passes if settings.passes is None else settings.passes
        seed = description.seed if settings.seed is None else settings.seed
        device = choose_device(settings.device)
        key = (passes, seed, str(device))
        with self._lock:
            if key not in self._engines:
                with one_memory_error():
                    self._engines[key] = self._prepare(passes, seed, device)
            return self._engines[key]
