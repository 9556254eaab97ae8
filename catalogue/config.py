"""The run configuration: one YAML file, checked completely before any work."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

SectionT = TypeVar("SectionT", bound=BaseModel)


class ConfigurationError(Exception):
    """A configuration that cannot be used; the message names the key or the path."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ParentSection(_Section):
    """The parent table: one catalogue row per row of it.

    ``key`` names the column that identifies a row; None takes the survey's own.
    """

    path: Path
    key: str | None = None


class SpectraSection(_Section):
    """Where the spectra files are.

    ``path`` is a template over parent columns, as ``"{obsdate:%Y%m%d}/{planid}/spec-{lmjd}.fits.gz"``; None takes the
    survey's official tree. ``check`` says how changed files are found on a rerun: ``files`` compares size and time
    of every file, ``none`` trusts the records, ``auto`` is ``files`` up to 100,000 rows.
    """

    root: Path
    path: str | None = None
    check: Literal["auto", "files", "none"] = "auto"
    chunk_rows: int | None = Field(default=None, ge=64, multiple_of=64)


class OutputSection(_Section):
    """What is written, and where; :func:`catalogue.writers.format_names` are the formats that there are."""

    directory: Path
    formats: tuple[str, ...] = ("fits", "csv")
    report: bool = True

    @field_validator("formats")
    @classmethod
    def _not_empty_and_unique(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        if not formats or len(set(formats)) != len(formats):
            raise ValueError(f"expected one or more different formats, found {list(formats)}")
        return formats


class InferenceSection(_Section):
    """How the models are applied; None takes what the bundle says."""

    passes: int | None = Field(default=None, ge=2)
    seed: int | None = None
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    granules: int = Field(default=8, ge=1)


class RunConfiguration(_Section):
    """A whole run. ``model`` and ``product`` may be lists: the spectra are read once for all of them."""

    survey: str
    parent: ParentSection
    spectra: SpectraSection
    model: tuple[str, ...]
    product: tuple[str, ...]
    output: OutputSection
    cluster: str | dict[str, Any] = "local"
    workers: int | None = Field(default=None, ge=1)
    select: str | None = None
    inference: InferenceSection = InferenceSection()
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("model", "product", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


_PATHS = ("parent.path", "spectra.root", "output.directory")


def load_run_configuration(path: Path, overrides: list[str] | None = None) -> RunConfiguration:
    """Read a run configuration.

    Relative paths are relative to the file; ``~`` and environment variables are expanded.

    Parameters
    ----------
    path : Path
    overrides : list of str, optional
        ``key.sub=value``, the value in YAML.

    Raises
    ------
    ConfigurationError
        For unreadable YAML, unknown keys, wrong types and missing paths, naming the key.
    """
    content = _read(path, overrides or [], _PATHS)
    for key in ("model", "product", "cluster"):
        # a key without a value is as good as none
        if (value := content.pop(key, None)) is not None:
            content[key] = _resolve_if_path(value, path.parent)
    return parse(RunConfiguration, content, str(path))


def load_section(
    section: type[SectionT], path: Path, overrides: list[str] | None = None, paths: tuple[str, ...] = ()
) -> SectionT:
    """Read a configuration of another kind than a run's, with the same rules.

    Parameters
    ----------
    section : pydantic model
    path : Path
    overrides : list of str, optional
        ``key.sub=value``, the value in YAML.
    paths : tuple of str
        Keys, dotted where nested, that are paths relative to the file.

    Raises
    ------
    ConfigurationError
        As for :func:`load_run_configuration`.
    """
    return parse(section, _read(path, overrides or [], paths), str(path))


def _read(path: Path, overrides: Sequence[str], paths: Sequence[str]) -> dict[str, Any]:
    """Content of a file with overrides set, and the paths in it, keys dotted where nested, made absolute."""
    content = read_yaml(path)
    for override in overrides:
        _set(content, override)
    for dotted in paths:
        *sections, key = dotted.split(".")
        inner: Any = content
        for name in sections:
            inner = inner.get(name) if isinstance(inner, dict) else None
        if isinstance(inner, dict) and isinstance(inner.get(key), str):
            inner[key] = resolve(inner[key], path.parent)
    return content


def read_yaml(path: Path) -> dict[str, Any]:
    """Mapping in a YAML file.

    Raises
    ------
    ConfigurationError
        If the file is missing, is not YAML, or holds something else than a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: expected keys and values, found {type(content).__name__}")
    return content


def parse(section: type[SectionT], content: dict[str, Any], source: str) -> SectionT:
    """Validate ``content``; the error lists every wrong key, what was expected and what was found."""
    try:
        return section.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError(_explain(section, error, source)) from error


def resolve(text: str, relative_to: Path) -> str:
    """Absolute path with ``~`` and environment variables expanded."""
    expanded = os.path.expandvars(text)
    if "$" in expanded:
        raise ConfigurationError(f"path {text!r}: an environment variable in it is not set")
    return str((relative_to.resolve() / Path(expanded).expanduser()).resolve())


def check_inputs_exist(configuration: RunConfiguration) -> None:
    """Refuse missing inputs before any work.

    Raises
    ------
    ConfigurationError
        Naming the key and the path.
    """
    if not configuration.parent.path.is_file():
        raise ConfigurationError(f"parent.path: no such file: {configuration.parent.path}")
    if not configuration.spectra.root.is_dir():
        raise ConfigurationError(f"spectra.root: no such directory: {configuration.spectra.root}")


def _resolve_if_path(value: Any, relative_to: Path) -> Any:
    if isinstance(value, list):
        return [_resolve_if_path(item, relative_to) for item in value]
    if isinstance(value, str) and "://" not in value and ("/" in value or value.endswith((".yaml", ".yml"))):
        return resolve(value, relative_to)
    return value


def _set(content: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise ConfigurationError(f"--set {override!r}: expected key.sub=value")
    *sections, last = name.split(".")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise ConfigurationError(f"--set {override!r}: {section} is not a section")
    try:
        content[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"--set {override!r}: value is not YAML: {error}") from error


def _explain(section: type[BaseModel], error: ValidationError, source: str) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            close = difflib.get_close_matches(str(problem["loc"][-1]), _keys(section), n=1)
            lines.append(f"{key}: unknown key" + (f"; did you mean {close[0]}?" if close else ""))
        elif problem["type"] == "missing":
            lines.append(f"{key}: missing")
        else:
            lines.append(f"{key}: {problem['msg']}, found {problem['input']!r}")
    return f"{source}: " + "; ".join(lines)


def _keys(section: type[BaseModel]) -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        keys.append(name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys.extend(_keys(field.annotation))
    return keys
