import dataclasses
import types
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fanlight import config as configuration
from fanlight.config import Config, from_document, keys, read, write
from fanlight.errors import ConfigError

SECTIONS = {
    name: kind for name, kind in typing.get_type_hints(Config).items() if name not in ("version", "asked", "planned")
}
WORDS = {"none", "null", "auto"}


def hint_of(key: str) -> tuple[Any, bool]:
    """The field's type, and whether it may be None."""
    section, name = key.split(".")
    hint = typing.get_type_hints(SECTIONS[section])[name]
    if isinstance(hint, types.UnionType):
        (kind,) = (each for each in typing.get_args(hint) if each is not type(None))
        return kind, True
    return hint, False


def value_of(config: Config, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def values_for(key: str) -> st.SearchStrategy[Any]:
    kind, is_optional = hint_of(key)
    floats = st.floats(allow_nan=False)
    text = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda word: word.lower() not in WORDS)
    values: st.SearchStrategy[Any]
    if typing.get_args(kind)[:1] == (str,):
        values = st.tuples(text)
    elif typing.get_origin(kind) is tuple:
        values = st.tuples(*(floats for _ in typing.get_args(kind)))
    else:
        values = {int: st.integers(), float: floats, bool: st.booleans(), str: text}[kind]
    return values | st.none() if is_optional else values


# keys in the order of the file, a few drawn at once
some_values = st.lists(st.sampled_from(keys()), unique=True, max_size=6).flatmap(
    lambda chosen: st.fixed_dictionaries({key: values_for(key) for key in chosen})
)


def other_value(key: str) -> Any:
    """A value that is not the default."""
    kind, _ = hint_of(key)
    default = value_of(Config(), key)
    if typing.get_args(kind)[:1] == (str,):
        return ("layer1", "layer2")
    if typing.get_origin(kind) is tuple:
        return tuple(0.125 for _ in typing.get_args(kind))
    candidates = {int: (3, 4), float: (0.375, 0.5), bool: (True, False), str: ("another", "word")}[kind]
    return next(value for value in candidates if value != default)


def test_keys_are_every_field_once() -> None:
    assert len(set(keys())) == len(keys()) == sum(len(dataclasses.fields(kind)) for kind in SECTIONS.values())
    assert keys()[0] == "data.path"
    assert "execution.layout" in keys() and "version" not in keys()


# --- one value


def test_a_list_of_numbers_has_any_length_but_none() -> None:
    for text, value in (("0.5", (0.5,)), ("0.25, 0.5 0.75", (0.25, 0.5, 0.75))):
        assert Config().with_value("optim.step_shares", text).optim.step_shares == value
    with pytest.raises(ConfigError, match=r"optim\.step_shares should be numbers with commas between, got ''"):
        Config().with_value("optim.step_shares", "")


@pytest.mark.parametrize("key", keys())
def test_every_key_can_be_set_by_a_text(key: str) -> None:
    value = other_value(key)
    texts = [", ".join(map(str, value)), " ".join(map(str, value))] if isinstance(value, tuple) else [str(value)]
    for text in texts:
        config = Config().with_value(key, text)
        assert value_of(config, key) == value
        assert type(value_of(config, key)) is type(value)
        assert config == Config().with_value(key, value) != Config()
        assert config.with_value(key, value_of(Config(), key)) == Config(), "nothing else changed"


@pytest.mark.parametrize("key", keys())
def test_none_is_a_value_where_the_field_has_it(key: str) -> None:
    kind, is_optional = hint_of(key)
    if is_optional:
        changed = Config().with_value(key, other_value(key))
        for word in ("none", "None", "null", "auto", None):
            assert value_of(changed.with_value(key, word), key) is None
    else:
        with pytest.raises(ConfigError, match=f"^{key} needs a value, got None"):
            Config().with_value(key, None)
        if kind is not str:
            with pytest.raises(ConfigError, match=f"^{key} should be .*, got 'none'"):
                Config().with_value(key, "none")


def test_a_folder_may_be_called_auto() -> None:
    assert Config().with_value("data.path", "auto").data.path == "auto"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.epochs", "ten"),
        ("train.epochs", "1.5"),
        ("train.epochs", 1.5),
        ("train.epochs", True),
        ("train.epochs", ""),
        ("train.epochs", [3]),
        ("train.epochs", float("inf")),
        ("train.epochs", float("nan")),
        ("optim.lr", "fast"),
        ("optim.lr", True),
        ("optim.lr", "nan"),
        ("optim.lr", [0.1]),
        ("optim.lr", {"peak": 0.1}),
        ("optim.lr", 10**400),
        ("optim.momentum", "0,9"),
        ("train.deterministic", "maybe"),
        ("train.deterministic", 2),
        ("model.name", 18),
        ("model.name", ["resnet18"]),
        ("data.path", 2024),
        ("augment.crop_share", "0.5"),
        ("augment.crop_share", "0.5,0.6,0.7"),
        ("augment.crop_share", 0.5),
        ("augment.crop_share", "a b"),
        ("augment.crop_share", [0.1, True]),
        ("augment.mean", [0.5, 0.5]),
        ("augment.mean", [0.5, 0.5, None]),
        ("augment.mean", "0.5 0.5 nan"),
    ],
)
def test_a_wrong_type_names_field_and_value(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        Config().with_value(key, value)
    message = str(caught.value)
    assert message.startswith(f"{key} should be ")
    assert message.endswith(f", got {value!r}")
    kind, _ = hint_of(key)
    assert ("numbers with commas between" if typing.get_origin(kind) else kind.__name__) in message


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("train.epochs", 3.0, 3),  # as some YAML writers have it
        ("optim.lr", 1, 1.0),
        ("optim.lr", "1e-3", 0.001),  # YAML 1.1 takes it for text
        ("train.deterministic", "yes", True),
        ("train.deterministic", "OFF", False),
        ("train.deterministic", 1, True),
        ("augment.crop_share", "0.5,1", (0.5, 1.0)),
        ("augment.crop_share", [1, "0.5"], (1.0, 0.5)),
        ("data.path", "", ""),
    ],
)
def test_values_become_the_field_s_type(key: str, value: object, wanted: object) -> None:
    found = value_of(Config().with_value(key, value), key)
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("train.epoch", "train.epochs"),
        ("optim.learning_rate", None),
        ("trian.epochs", "train.epochs"),
        ("execution.worker", "execution.workers"),
        ("data.image_size", "data.image_px"),
        ("epochs", "train.epochs"),
    ],
)
def test_an_unknown_key_lists_the_near_ones(key: str, nearest: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        Config().with_value(key, 1)
    assert str(caught.value).startswith(f"config key {key!r} is unknown.")
    if nearest is not None:
        assert f" Near names: {nearest}" in str(caught.value)
    assert str(caught.value).endswith(". The resolved.yaml of any run has all keys") and ".;" not in str(caught.value)


@pytest.mark.parametrize("key", ["", ".", "train", "train.", ".epochs", "version", "version.real", "hash.x", "zzz.qqq"])
def test_what_is_no_field_is_unknown(key: str) -> None:
    with pytest.raises(ConfigError, match=r"is unknown\. .*\. The resolved\.yaml of any run has all keys$"):
        Config().with_value(key, 1)


def test_configs_are_frozen() -> None:
    config = Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.train.epochs = 3  # type: ignore[misc]
    changed = config.with_values({"train.epochs": 3, "train.seed": "4"})
    assert (changed.train.epochs, changed.train.seed) == (3, 4)
    assert config == Config(), "the first is as it was"


anything = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5)


@given(st.sampled_from(keys()), anything)
@example("optim.step_shares", [0])
@settings(deadline=None, max_examples=60)
def test_any_value_becomes_the_field_s_type_or_is_refused_with_the_key(key: str, value: object) -> None:
    kind, is_optional = hint_of(key)
    try:
        found = value_of(Config().with_value(key, value), key)
    except ConfigError as error:
        found = error
    if isinstance(found, ConfigError):
        assert str(found).startswith(key)
    elif found is None:
        assert is_optional
    elif typing.get_origin(kind) is tuple:
        wanted = typing.get_args(kind)
        each = [wanted[0]] * len(found) if wanted[-1] is ... else list(wanted)  # of any length, or of one
        assert [type(part) for part in found] == each
    else:
        assert type(found) is kind


# --- files


@given(some_values)
@settings(deadline=None, max_examples=40)
def test_written_configs_are_read_back(tmp_path_factory: pytest.TempPathFactory, values: dict[str, object]) -> None:
    config = Config().with_values(values)
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    write(path, config)
    assert read(path) == config
    assert read(path, under=Config().with_values({"train.seed": 9, "data.limit": 3})) == config, "a whole file says all"
    write(path, config, reasons={"train.epochs": "because: of 'this'\n"})
    assert read(path) == config
    assert yaml.safe_load(path.read_text())["reasons"] == {"train.epochs": "because: of 'this'\n"}
    assert from_document(config.document(), where="here") == config


def test_a_file_changes_what_it_says_only(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("# a recipe\ntrain:\n  epochs: 3\noptim: {lr: 1e-3, name: adamw}\n")
    under = Config().with_values({"train.epochs": 9, "train.seed": 7})
    config = read(path, under=under)
    assert config == under.with_values({"train.epochs": 3, "optim.lr": 0.001, "optim.name": "adamw"})
    path.write_text("# nothing\n")
    assert read(path, under=under) == under


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epoch: 3}", r"c\.yaml: config key 'train\.epoch' is unknown\. Near names: train\.epochs"),
        ("train: {epochs: x}", r"c\.yaml: train\.epochs should be int, got 'x'"),
        ("train: 3", r"c\.yaml: section 'train' should hold fields, got 3"),
        ("train:", r"c\.yaml: section 'train' should hold fields, got None"),
        ("epochs: 3", r"c\.yaml: section 'epochs' should hold fields, got 3"),
        ("trian: {epochs: 3}", r"c\.yaml: config key 'trian\.epochs' is unknown\. Near names: train\.epochs"),
        ("1: {2: 3}", r"c\.yaml: config key '1\.2' is unknown"),
        ("- train", r"c\.yaml: expected sections such as `train:` with fields below, got list"),
        ("[]", r"c\.yaml: expected sections such as `train:` with fields below, got list"),
        ("fast please", r"c\.yaml: expected sections .*, got str"),
        ("train: {epochs: 3", r"c\.yaml is not YAML: "),
        ("a: !!python/object/apply:os.getcwd []", r"c\.yaml is not YAML: "),
        ("train: {seed: 2020-99-99}", r"c\.yaml is not YAML: month must be in 1\.\.12"),
        (f"train: {{epochs: {'1' * 5000}}}", r"c\.yaml is not YAML: "),
        (
            "a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a]\noptim: {lr: [*b, *b, *b, *b, *b]}",
            r"optim\.lr should be float, a finite number above 0, got .{1,900}$|config key|section",
        ),
        ("[" * 5000, r"c\.yaml is not YAML: "),
        ("train: {epochs: 1, epochs: 2}", r"c\.yaml is not YAML: 'epochs' stands there twice in .*, line 1"),
        ("train: {epochs: 1}\ntrain: {lr: 2}", r"c\.yaml is not YAML: 'train' stands there twice"),
        ("a:\n\t- 1", r"c\.yaml is not YAML: [^\n]*$"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read(path)


def test_a_file_that_is_no_text_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read config .*/none\.yaml: No such file"):
        read(tmp_path / "none.yaml")
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(ConfigError, match=r"c\.yaml is not YAML"):
        read(tmp_path / "c.yaml")


@pytest.mark.parametrize("version", [configuration.VERSION + 1, 0, "1", None])
def test_another_version_is_refused(version: object) -> None:
    document = Config().document() | {"version": version}
    with pytest.raises(ConfigError, match=rf"run/config\.yaml: version {version!r} of the config; .* reads version 1"):
        from_document(document, where="run/config.yaml")


def test_the_document_is_plain() -> None:
    document = Config().with_value("augment.crop_share", "0.5 1").document()
    assert list(document) == ["version", *SECTIONS]
    assert document["version"] == configuration.VERSION
    assert document["augment"]["crop_share"] == [0.5, 1.0]
    assert [f"{section}.{name}" for section in SECTIONS for name in document[section]] == keys()


# --- the hash


@pytest.mark.parametrize("key", keys())
def test_the_hash_names_the_mathematics(key: str) -> None:
    changed = Config().with_value(key, other_value(key))
    decides_nothing = key.startswith("execution.") or key == "data.path"
    assert (changed.hash() == Config().hash()) == decides_nothing


def test_the_hash_follows_values_not_how_they_were_written() -> None:
    assert Config().with_value("optim.lr", "1e-1").hash() == Config().with_value("optim.lr", 0.1).hash()
    assert Config().with_value("optim.lr", 1).hash() == Config().with_value("optim.lr", "1.0").hash()
    assert len(Config().hash()) == 16


def test_hashes_do_not_collide() -> None:
    names = {Config().with_value("train.seed", seed).hash() for seed in range(50)}
    assert len(names) == 50


@pytest.mark.parametrize("text", ["1e400h", "1e308h", "infs"])
def test_a_time_ends(text):
    with pytest.raises(
        ConfigError, match=f"train.time_limit_s should be a time such as 90s, 10m or 1.5h, got '{text}'"
    ):
        Config().with_value("train.time_limit_s", text)
