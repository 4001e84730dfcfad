"""The configuration: defaults, files, overrides, and errors that name the field."""

from pathlib import Path

import pytest
import yaml

from synthie.config import RunConfig, load_config
from synthie.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "data/configs"


def test_the_defaults_are_the_demo() -> None:
    config = load_config()
    assert config.run == "data/runs/demo"
    assert config.generation.base_url is None
    assert config.extractor.preset == "demo"


def test_overrides_are_applied_after_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("seed: 3\nsampling: {n_sets: 10}\n")
    config = load_config(path, ["sampling.n_sets=20", "kg.relations=[P17, P36]", "generation.base_url=null"])
    assert (config.seed, config.sampling.n_sets, config.kg.relations) == (3, 20, ["P17", "P36"])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_the_ready_configurations_are_valid(path: Path) -> None:
    load_config(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sampling: {n_set: 10}", r"run\.yaml.*'sampling\.n_set' is not a known field; did you mean 'n_sets'"),
        ("samplings: {}", "'samplings' is not a known field; did you mean 'sampling'"),
        ("generation: {local: {qqq: 1}}", r"'generation\.local\.qqq' is not a known field; known fields: unfaithful"),
        ("sampling: {n_sets: many}", r"'sampling\.n_sets'.*found 'many'"),
        ("sampling: {min_size: 5, max_size: 2}", r"min_size \(5\) is greater than max_size \(2\)"),
        ("kg: {relations: [Q17]}", "'Q17' is not a Wikidata property id"),
        ("- a list", "must hold a mapping"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_a_wrong_configuration_names_file_field_and_mend(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("override", ["sampling.n_sets", "=3", "seed.x=1.y=2: ["])
def test_a_malformed_override_is_explained(override: str) -> None:
    with pytest.raises(ConfigError, match=r"section\.field=value|not valid YAML"):
        load_config(None, [override])


def test_every_option_is_described_for_the_form() -> None:
    for name, section in RunConfig.model_fields.items():
        fields = getattr(section.annotation, "model_fields", None)
        assert section.description or fields, name
        for field, info in (fields or {}).items():
            assert info.description, f"{name}.{field}"


def test_a_configuration_survives_yaml(tmp_path: Path) -> None:
    config = load_config(None, ["seed=7"])
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(tmp_path / "run.yaml") == config
