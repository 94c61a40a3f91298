"""Flags, config files and overrides: what is there can be changed within its type, and nothing else."""

import json
import textwrap

import pytest
from ml_collections import ConfigDict, config_dict

from editr2_jax import presets
from editr2_jax.cli import common

FILE = """
    from ml_collections import ConfigDict, config_dict

    def get_config(variant: str = "laptop") -> ConfigDict:
        if variant not in ("laptop", "pod"):
            raise ValueError(f"no variant {variant!r}; there are laptop and pod")
        config = ConfigDict()
        config.seed = 0
        config.variant = variant
        config.size = config_dict.FieldReference(64)
        config.data = ConfigDict(dict(path="x", size=config.get_ref("size"), shuffle=True, limit=None))
        config.objective = ConfigDict(dict(kl_weight=0.01, turns=(1, 2, 3), kinds=("a",), name=config_dict.placeholder(str)))
        return config
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "configs" / "tiny.py"
    path.parent.mkdir()
    path.write_text(textwrap.dedent(FILE))
    return path


def overridden(file, *overrides):
    pairs, rest = common.split_overrides(overrides)
    assert rest == []
    return common.load_config(str(file), pairs)


def test_a_variant_reaches_the_file(file):
    assert common.load_config(str(file)).variant == "laptop"
    assert common.load_config(f"{file}:pod").variant == "pod"


@pytest.mark.parametrize(
    "text, key, value",
    [
        ("--config.seed=12", "seed", 12),
        ("--config.data.path=a=b.c", "data.path", "a=b.c"),
        ("--config.data.path=", "data.path", ""),
        ("--config.data.shuffle=False", "data.shuffle", False),
        ("--config.data.limit=12", "data.limit", 12),
        ("--config.data.limit=none of it", "data.limit", "none of it"),
        ("--config.objective.kl_weight=1", "objective.kl_weight", 1.0),
        ("--config.objective.kl_weight=1e-5", "objective.kl_weight", 1e-5),
        ("--config.objective.turns=(4, 5)", "objective.turns", (4, 5)),
        ("--config.objective.turns=4", "objective.turns", (4,)),
        ("--config.objective.turns=()", "objective.turns", ()),
        ("--config.objective.kinds=('b', c)", "objective.kinds", ("b", "c")),
        ("--config.objective.name=new", "objective.name", "new"),
    ],
)
def test_an_override_takes_the_type_that_is_there(file, text, key, value):
    config = overridden(file, text)
    for part in key.split("."):
        config = config[part]
    assert config == value and type(config) is type(value)


def test_the_last_override_wins_and_both_spellings_work(file):
    assert overridden(file, "--config.seed", "3", "--config.seed=-4").seed == -4
    assert overridden(file, "--config.seed", "-3").seed == -3


def test_an_override_reaches_what_refers_to_it(file):
    assert overridden(file, "--config.size=128").data.size == 128


@pytest.mark.parametrize(
    "override, message",
    [
        ("--config.sed=1", r"--config.sed: there is no such key in this config \(the nearest is --config.seed\)"),
        ("--config.kl_weight=1", r"the nearest is --config.objective.kl_weight"),
        ("--config.data.kl_weight=1", r"the nearest is --config.objective.kl_weight"),
        ("--config.zzzzzz=1", r"--config.zzzzzz: there is no such key in this config\.$"),
        ("--config.seed.x=1", r"--config.seed.x: there is no such key"),
        ("--config.data=1", r"--config.data is a group, not a value; set one of --config.data.limit, --config.data.path"),
        ("--config.seed=1.5", r"--config.seed wants a value of type int, such as 0; got '1.5'"),
        ("--config.seed=x", r"wants a value of type int"),
        ("--config.seed=", r"wants a value of type int"),
        ("--config.objective.kl_weight=much", r"wants a value of type float, such as 0.01; got 'much'"),
        ("--config.data.shuffle=maybe", r"wants a value of type bool, such as True; got 'maybe'"),
        ("--config.objective.turns=1,b", r"wants a value of type tuple, such as \(1, 2, 3\); got '1,b'"),
        ("--config.seed", r"--config.seed has no value; write --config.seed=VALUE"),
    ],
)
def test_a_wrong_override_is_refused(file, override, message):
    with pytest.raises(ValueError, match=message):
        overridden(file, override)


def test_the_loaded_config_is_locked(file):
    with pytest.raises(AttributeError):
        common.load_config(str(file)).sed = 1


@pytest.mark.parametrize(
    "source, message",
    [
        ("def get_config(:\n", r"bad.py:1: this config does not load: SyntaxError"),
        ("\nimport not_there_at_all\n", r"bad.py:2: this config does not load: ModuleNotFoundError: No module named"),
        ("x = 1\n", r"bad.py: this config does not load: it defines no get_config\(variant\)"),
        ("def get_config():\n    return {}\n", r"get_config returned dict; it must return an ml_collections.ConfigDict"),
        ("def get_config():\n    return nothing\n", r"bad.py:2: this config does not load: NameError"),
    ],
)
def test_a_broken_config_file_is_named_with_its_line(tmp_path, source, message):
    (tmp_path / "bad.py").write_text(source)
    with pytest.raises(ValueError, match=message):
        common.load_config(str(tmp_path / "bad.py"))


def test_a_variant_that_is_not_there(file, tmp_path):
    with pytest.raises(ValueError, match=r"this config does not load: no variant 'phone'; there are laptop and pod"):
        common.load_config(f"{file}:phone")
    (tmp_path / "single.py").write_text("def get_config():\n    return None\n")
    with pytest.raises(ValueError, match="it has no variants, but 'pod' was asked for"):
        common.load_config(f"{tmp_path / 'single.py'}:pod")


def test_a_file_that_is_not_there_names_the_nearest(file):
    with pytest.raises(ValueError, match=r"tinny.py: there is no such config file \(the nearest is .*tiny.py\)"):
        common.load_config(str(file.parent / "tinny.py"))


def test_a_config_may_import_its_neighbours(tmp_path):
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "neighbour_of_a_test.py").write_text("SEED = 5\n")
    (folder / "run.py").write_text(
        "from ml_collections import ConfigDict\nimport neighbour_of_a_test\n"
        "def get_config():\n    return ConfigDict(dict(seed=neighbour_of_a_test.SEED))\n"
    )
    assert common.load_config(str(folder / "run.py")).seed == 5


def test_the_parser_hands_out_a_config(file):
    parser = common.Parser("train", "runs a config", config=True, workdir=True)
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse([f"--config={file}:pod", "--config.seed=3", "--workdir", "w", "--quiet"])
    assert (args.config.seed, args.config.variant, args.workdir, args.quiet) == (3, "pod", "w", True)


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--workdr=x"], r"unknown flag --workdr \(the nearest is --workdir\); see python -m editr2_jax report --help"),
        ([], r"the following arguments are required: --workdir; see"),
        (["--workdir=x", "y"], r"unrecognized arguments: y; see"),
        (["--workdir=x", "--config.seed=1"], r"--config.seed has nothing to override here"),
    ],
)
def test_a_wrong_flag_is_refused(argv, message):
    with pytest.raises(ValueError, match=message):
        common.Parser("report", None, workdir=True).parse(argv)


def test_subverbs(capsys):
    def check(argv):
        """Checks a folder."""
        return len(argv)

    assert common.call_subverb("data", ["check", "a", "b"], {"check": check}) == 2
    assert common.call_subverb("data", ["--help"], {"check": check}) == 0
    assert "  check  Checks a folder.\n" in capsys.readouterr().out
    assert common.call_subverb("data", [], {"check": check}) == 2
    with pytest.raises(ValueError, match=r"data has no subverb 'chekc' \(the nearest is check\); it has check"):
        common.call_subverb("data", ["chekc"], {"check": check})


def test_a_workdir_remembers_its_config(file, tmp_path):
    config = overridden(file, "--config.objective.turns=4,5")
    workdir = common.claim_workdir(str(tmp_path / "run"), config)
    (workdir / "checkpoints/2").mkdir(parents=True)
    again = common.saved_config(workdir)
    assert isinstance(again, ConfigDict) and again.is_locked and common.plain(again) == common.plain(config)
    assert again.objective.turns == (4, 5) and again.data.size == 64
    common.claim_workdir(str(workdir), again)
    with pytest.raises(ValueError, match="seed was 0, is 1"):
        common.claim_workdir(str(workdir), overridden(file, "--config.objective.turns=4,5", "--config.seed=1"))
    common.claim_workdir(str(workdir), overridden(file, "--config.objective.turns=4,5", "--config.seed=1"), may_change=["seed"])


def test_a_workdir_of_an_earlier_version_goes_on(tmp_path):
    config = presets.tabletop(presets.edit_r2()).lock()
    workdir = common.claim_workdir(str(tmp_path / "run"), config)
    (workdir / "checkpoints/2").mkdir(parents=True)
    older = common.plain(config)
    for section, name in (("rewards", "arithmetic"), ("rewards", "detector_http"), ("model", "unroll")):
        del older[section][name]
    (workdir / "config.json").write_text(json.dumps(older))
    assert common.plain(common.saved_config(workdir)) == common.plain(config)  # the world's own size, too, which is no default
    with config.unlocked():
        config.rewards.arithmetic = "edival"
    with pytest.raises(ValueError, match="another config .rewards.arithmetic was 'fixed', is 'edival'."):
        common.claim_workdir(str(workdir), config)
    with config.unlocked():
        config.rewards.arithmetic = "fixed"
    common.claim_workdir(str(workdir), config)
    assert json.loads((workdir / "config.json").read_text()) == common.plain(config)


def test_a_folder_that_is_no_workdir_is_refused(tmp_path):
    with pytest.raises(ValueError, match="config.json: not found; give the --workdir of a run that has started"):
        common.saved_config(tmp_path)


def test_a_placeholder_without_a_value_is_plain_null():
    assert common.plain(ConfigDict({"a": config_dict.placeholder(int), "b": (1, (2,))})) == {"a": None, "b": [1, [2]]}
