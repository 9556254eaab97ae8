from pathlib import Path

import pytest

from catalogue.config import ConfigurationError, check_inputs_exist, load_run_configuration

GOOD = """
survey: lamost-lrs
parent:  {path: parent.csv, key: obsid}
spectra: {root: spectra, path: "{filename}"}
model:   spt-lamost
product: lamost_age_mass
output:  {directory: runs/x, formats: [fits, csv]}
cluster: local
"""


def write(directory: Path, text: str = GOOD) -> Path:
    path = directory / "run.yaml"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_configuration_file(tmp_path):
    configuration = load_run_configuration(write(tmp_path))
    assert configuration.parent.path == tmp_path / "parent.csv"
    assert configuration.output.directory == tmp_path / "runs" / "x"


def test_home_and_environment_variables_are_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("SPECTRA", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    text = GOOD.replace("root: spectra", "root: $SPECTRA/dr10").replace("path: parent.csv", "path: ~/parent.csv")
    configuration = load_run_configuration(write(tmp_path, text))
    assert configuration.spectra.root == tmp_path / "elsewhere" / "dr10"
    assert configuration.parent.path == tmp_path / "home" / "parent.csv"


def test_an_unset_environment_variable_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigurationError, match=r"\$NO_SUCH_PLACE"):
        load_run_configuration(write(tmp_path, GOOD.replace("root: spectra", "root: $NO_SUCH_PLACE/x")))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("parent.paht=x.csv", r"parent\.paht: unknown key; did you mean path\?"),
        ("inference.passes=many", r"inference\.passes"),
        ("inference.passes=1", r"inference\.passes"),
        ("output.formats=[fits, fits]", r"output\.formats"),
        ("output.formats=[]", r"output\.formats"),
        ("spectra.chunk_rows=100", r"spectra\.chunk_rows"),
        ("colour=blue", r"colour: unknown key"),
        ("survey", r"expected key\.sub=value"),
        ("survey.name=x", r"survey is not a section"),
    ],
)
def test_a_wrong_key_or_type_is_refused_naming_the_key(tmp_path, override, message):
    with pytest.raises(ConfigurationError, match=message):
        load_run_configuration(write(tmp_path), [override])


def test_set_overrides_any_key(tmp_path):
    configuration = load_run_configuration(
        write(tmp_path), ["inference.passes=7", "cluster={kind: local}", "model=[a, b]"]
    )
    assert configuration.inference.passes == 7
    assert configuration.cluster == {"kind": "local"}
    assert configuration.model == ("a", "b")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "a: [", "\x00"])
def test_something_else_than_keys_and_values_is_refused(tmp_path, text):
    with pytest.raises(ConfigurationError, match=r"run\.yaml"):
        load_run_configuration(write(tmp_path, text))


def test_a_missing_configuration_is_refused_by_path(tmp_path):
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml: No such file"):
        load_run_configuration(tmp_path / "nowhere.yaml")


def test_missing_inputs_are_refused_by_key_and_path(tmp_path):
    configuration = load_run_configuration(write(tmp_path))
    with pytest.raises(ConfigurationError, match=r"parent\.path: no such file: .*parent\.csv"):
        check_inputs_exist(configuration)
    (tmp_path / "parent.csv").write_text("obsid\n")
    with pytest.raises(ConfigurationError, match=r"spectra\.root: no such directory: .*spectra"):
        check_inputs_exist(configuration)


def test_a_cluster_file_is_relative_to_the_configuration_and_an_address_is_kept(tmp_path):
    configuration = load_run_configuration(write(tmp_path), ["cluster=clusters/slurm.yaml"])
    assert configuration.cluster == str(tmp_path / "clusters" / "slurm.yaml")
    configuration = load_run_configuration(write(tmp_path), ["cluster=tls://10.0.0.1:8786"])
    assert configuration.cluster == "tls://10.0.0.1:8786"
