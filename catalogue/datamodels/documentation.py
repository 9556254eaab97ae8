"""The documentation page of a product, made from its data model, so that the two cannot differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from catalogue.datamodels.datamodel import DataModel, data_model_names, load_data_model
from catalogue.datamodels.parts import Column
from catalogue.spectra.primitives import RowStatus


def documentation(data_model: DataModel) -> str:
    """Markdown page of a product.

    Parameters
    ----------
    data_model : DataModel

    Returns
    -------
    str
        Title, options, columns with how each is made, flag bits and row statuses.
    """
    sections = [
        f"# {data_model.name}: {data_model.title}",
        f"Version {data_model.version}, survey `{data_model.survey}`. "
        "Made from the product's YAML file by `python -m catalogue.datamodels`; change that file, not this page.",
        data_model.description.strip(),
        _models(data_model),
        _options(data_model),
        _columns(data_model),
        _flags(data_model),
        _statuses(data_model),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def write_documentation(directory: Path) -> list[Path]:
    """Write the page of every shipped product.

    Parameters
    ----------
    directory : Path
        Where ``<product>.md`` goes.

    Returns
    -------
    list of Path
        The files written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name in data_model_names():
        path = directory / f"{name}.md"
        path.write_text(documentation(load_data_model(name)), encoding="utf-8")
        written.append(path)
    return written


def _models(data_model: DataModel) -> str:
    if not data_model.uses:
        return ""
    uses = ", ".join(f"`{alias}` is a model of kind `{kind}`" for alias, kind in data_model.uses.items())
    names = ", ".join(f"`{name}` ({format_})" for format_, name in data_model.file_names.items())
    return f"In the expressions below, {uses}." + (f" Files: {names}." if names else "")


def _options(data_model: DataModel) -> str:
    if not data_model.options:
        return ""
    rows = [
        (f"`{name}`", str(option.default), ", ".join(option.choices) or "a number", option.description.strip())
        for name, option in data_model.options.items()
    ]
    return "## Options\n\n" + _table(("option", "default", "choices", "meaning"), rows)


def _columns(data_model: DataModel) -> str:
    rows = [
        (
            f"`{column.name}`",
            column.dtype,
            column.unit,
            f"`{column.ucd}`" if column.ucd else "",
            _missing(column),
            column.description,
            f"`{column.value}`" if column.value else "the flags",
            f"`{column.blank_when}`" if column.blank_when else "",
        )
        for column in data_model.columns
    ]
    heads = ("column", "type", "unit", "UCD", "missing", "description", "value", "left out where")
    return "## Columns\n\n" + _table(heads, rows)


def _missing(column: Column) -> str:
    if column.is_float:
        return "NaN"
    if column.dtype == "str":
        return "empty"
    return "" if column.missing is None else str(column.missing)


def _flags(data_model: DataModel) -> str:
    if not data_model.flags:
        return ""
    rows = [
        (str(flag.bit), f"`{flag.name}`", flag.level, flag.description, f"`{flag.when}`") for flag in data_model.flags
    ]
    retired = ", ".join(map(str, data_model.retired_bits))
    note = "`FLAG_WARN` is true where some bit of level warn is set, `FLAG_BAD` where some bit of level bad is."
    if retired:
        note += f" Bits of earlier versions, never used again: {retired}."
    return f"## Bits of FLAG\n\n{note}\n\n" + _table(("bit", "name", "level", "meaning", "set where"), rows)


def _statuses(data_model: DataModel) -> str:
    column = next((column.name for column in data_model.columns if column.role == "status"), None)
    if column is None:
        return ""
    rows = [(str(int(status)), f"`{status.name}`", status.meaning) for status in RowStatus]
    return f"## Values of {column}\n\n" + _table(("value", "name", "meaning"), rows)


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in row) + " |" for row in rows]
    return "\n".join(lines)
