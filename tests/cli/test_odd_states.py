"""Commands in directories that are not what they should be: a message and an exit code, never a traceback."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from typer.testing import CliRunner

from catalogue.cli import app
from tests.factories.runs import build_here, write_run


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    configuration = write_run(tmp_path_factory.mktemp("odd"), rows=20)
    build_here(configuration)
    return configuration


def ended(*words):
    """Exit code of a command and what it printed; an exception that escaped fails the test."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["status"], 0, "nothing has been started"),
        (["status", "--problems"], 2, "nothing has been read"),
        (["verify"], 2, "nothing has been built"),
        (["prune"], 0, "nothing to remove"),
    ],
)
def test_before_the_first_build(tmp_path, words, code, told):
    found = ended(*words, write_run(tmp_path, rows=10))
    assert found[0] == code
    assert told in found[1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [["status"], ["status", "--problems"], ["plan"], ["build"], ["verify"]])
def test_a_directory_of_another_release_is_refused_with_both_formats(built, tmp_path, words):
    shutil.copytree(built.parent / "run", tmp_path / "run")
    (tmp_path / "run" / "manifest.json").write_text(json.dumps({"format": 99}))
    code, told = ended(*words, built, "--set", f"output.directory={tmp_path / 'run'}")
    assert code == 2
    assert re.search(r"manifest\.json: expected format 1, found 99", told)


@pytest.mark.parametrize("words", [["status"], ["plan"], ["build"], ["verify"], ["prune"]])
def test_a_directory_of_somebody_else_is_an_error_that_names_the_file(built, words, monkeypatch):
    def refused(path, *rest):
        raise PermissionError(13, "Permission denied", str(path))

    for name in ("catalogue.pipeline.lock.os.open", "catalogue.pipeline.manifest.read_json"):
        monkeypatch.setattr(name, refused)
    code, told = ended(*words, built)
    assert code == 1
    assert re.search(r"(run\.lock|manifest\.json): Permission denied", told)


@pytest.mark.parametrize("key", ["spectra.root", "parent.path"])
def test_inputs_in_a_directory_that_may_not_be_searched_are_named(built, key, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.is_dir" if key == "spectra.root" else "pathlib.Path.is_file", refused)
    code, told = ended("status", built)
    assert code == 1
    assert "Permission denied" in told
    assert ("spectra" if key == "spectra.root" else "parent.csv") in told


@pytest.mark.parametrize("override", ["select=teff > 4500", "spectra.path='{subclass}'", "parent.key=ra"])
def test_status_of_an_edited_configuration_is_not_up_to_date(built, override):
    assert "lamost_age_mass: up to date" in ended("status", built)[1]
    told = ended("status", built, "--set", override)[1]
    assert "lamost_age_mass: not up to date" in told
    assert "changed since it was imported" in told


def test_status_of_a_replaced_parent_table_is_not_up_to_date(tmp_path):
    configuration = write_run(tmp_path, rows=10)
    build_here(configuration)
    parent = tmp_path / "survey" / "parent.csv"
    parent.write_text("\n".join(parent.read_text().splitlines()[:-1]) + "\n")
    assert "lamost_age_mass: not up to date" in ended("status", configuration)[1]
