"""Spaces: shipped ones read, mistakes are one sentence, points become trainings."""

import dataclasses
import random

import pytest
import yaml
from pydantic import ValidationError

from recon.config import MaskConfig, MasksConfig, NetworkConfig, TrainConfig
from recon.errors import InputError
from recon.network.layout import Layout
from recon.network.unrolled import UnrolledNetwork
from spaces.layouts import Choice, Integer, Real
from spaces.parts import Training
from spaces.point import Point
from spaces.reading import load_space, parse_space, shipped, stored_space
from spaces.space import Space

QUICK = """
tasks: [PDw, PDw-FS]
scarce: {task: PDw-FS, slices: [12]}
layouts: {kind: free, max_changes: 3}
weightings: [naive, dwa]
fidelity: {epochs: 10, rungs: [3, 6]}
try_first: [{layout: I2V10, weighting: naive}]
trials: 16
"""
PAPER = {("I2V10", w) for w in ("naive", "dwa", "uncertainty")} | {
    ("I2Y10", w) for w in ("naive", "dwa", "uncertainty")
}


def changed(**changes: object) -> str:
    return yaml.safe_dump({**yaml.safe_load(QUICK), **changes})


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("quickstart", ("stl", "joint-tuned", "transfer")), ("full", ("stl", "joint-stl", "joint-tuned", "transfer"))],
)
def test_shipped_searches_start_from_a_joint_network_and_have_it_tuned_among_their_baselines(name, kinds):
    space = load_space(f"{name}.yaml")
    assert space.unroll.blocks == 12
    assert {point.init for point in space.known()} == {"joint"}
    assert space.baselines.kinds == kinds


def test_the_quickstart_tries_layouts_first_that_tell_where_sharing_may_end():
    space = load_space("quickstart.yaml")
    assert {point.layout for point in space.known()} >= {"I12", "I2V10", "I2Y10", "V12"}
    kinds = [Layout.parse(point.layout).kinds for point in space.known()]
    # Either half of the blocks is private in some and shared in others, whatever the other half is.
    halves = {(set(one[:6]) == {"I"}, set(one[6:]) == {"I"}) for one in kinds}
    assert halves == {(True, True), (True, False), (False, True), (False, False)}


def test_the_full_search_tries_the_papers_six_networks_first():
    space = load_space("full.yaml")
    counts = space.scarce_counts
    assert [(point.layout, point.weighting) for point in space.known()][:: len(counts)]
    assert {(point.layout, point.weighting) for point in space.known()} == PAPER
    assert len(space.known()) == 6 * len(counts)


def test_the_papers_space_is_the_papers_study_with_its_defaults():
    space = load_space("paper.yaml")
    assert space.scarce_counts == (32, 107, 253, 497)
    points = space.grid_points()
    assert {(point.layout, point.weighting) for point in points if point.init == "random"} == PAPER | {
        ("I12", "naive"),
        ("I2V10", "equal"),
    }
    for init in ("transfer", "joint"):
        assert [(point.layout, point.weighting) for point in points if point.init == init] == [("I2V10", "naive")] * 4
    assert len(set(points)) == len(points) == 10 * 4
    assert (space.trials, list(space.grid_seeds())) == (0, [0, 1, 2])
    assert space.fidelity.milestones == ()
    config = space.train_config(points[0])
    network = {"layout": "I2V10", "zero_init": False}
    code = {"ratios": "epochs", "temperature": 2.0, "log_variance_start": -0.5, "log_variance_learning_rate": None}
    weighting = {"kind": "naive", "constant_sum": False, **code}
    assert config == TrainConfig(tasks=space.tasks, network=network, weighting=weighting, slices={"PDw-FS": 32})
    assert (config.epochs, config.batch_size, config.learning_rate, config.masks) == (120, 1, 2e-4, MasksConfig())
    assert space.reference_config("transfer", None, 32).learning_rate == 5e-4


@pytest.mark.parametrize("kind", ["poisson-disc", "random-points"])
def test_a_space_names_masks_of_single_samples(kind):
    mask = {"kind": kind, "accelerations": [8], "centre_fractions": [0.08]}
    space = parse_space(changed(training={"masks": {"train": mask, "val": mask, "test": mask}}), "s.yaml")
    assert space.training.masks.test == MaskConfig(kind=kind, accelerations=(8,), centre_fractions=(0.08,))


def test_the_small_study_is_the_papers_cut_in_size_and_training_alone():
    paper, small = load_space("paper.yaml"), load_space("paper-small.yaml")
    same = ("tasks", "layouts", "weightings", "objective", "seed")
    assert [getattr(small, name) for name in same] == [getattr(paper, name) for name in same]
    assert [row for row in small.grid.rows if not row.hyperparameters] == list(paper.grid.rows)
    assert small.grid.seeds == paper.grid.seeds == 3
    assert small.training.batch_size == paper.training.batch_size
    assert small.training.masks == paper.training.masks
    assert small.training.cut == paper.training.cut
    assert small.baselines.kinds == paper.baselines.kinds
    assert small.on({"PDw": 481, "PDw-FS": 497}).scarce_counts == paper.scarce_counts
    assert small.on({"PDw": 32, "PDw-FS": 32}).scarce_counts == (2, 7, 16, 32)


def test_the_small_study_has_a_row_of_the_papers_network_and_optimiser():
    paper, small = load_space("paper.yaml"), load_space("paper-small.yaml")
    data = {"PDw": 481, "PDw-FS": 497}
    (row,) = [point for point in small.on(data).grid_points() if point.hyperparameters and point.scarce_slices == 32]
    assert small.label(row.hyperparameters) == "paper's recipe"
    theirs = paper.train_config(paper.grid_points()[0])
    ours = small.train_config(row)
    assert ours.network.model_copy(update={"channels": 18, "pools": 4}) == theirs.network
    assert (ours.optimiser, ours.weighting.kind, ours.slices) == (theirs.optimiser, "naive", theirs.slices)


def test_the_full_space_has_a_dimension_a_block_and_what_each_weighting_has_alone():
    space = load_space("full.yaml")
    common = space.dimensions()
    assert sum(isinstance(d, Choice) and d.values == ("I", "Y", "V") for d in common.values()) == 12
    assert common["learning_rate"] == Real(1e-4, 1e-3, True)
    assert set(space.dimensions("dwa")) - set(common) == {"weighting.temperature"}
    assert set(space.dimensions("uncertainty")) - set(common) == {"weighting.log_variance_learning_rate"}
    assert set(space.dimensions("equal")) == set(common)


def test_spaces_are_read_from_a_path_or_by_a_shipped_name(tmp_path):
    (tmp_path / "mine.yaml").write_text(QUICK)
    assert load_space(tmp_path / "mine.yaml").trials == 16
    assert load_space("quickstart") == load_space("spaces/quickstart.yaml") == load_space("quickstart.yaml")
    names = ["full.yaml", "m4raw.yaml", "paper-small.yaml", "paper.yaml", "quickstart.yaml", "three-contrasts.yaml"]
    assert shipped() == names
    for name in names:
        load_space(name)
    with pytest.raises(InputError, match=f"there is no space nowhere.yaml; shipped are {', '.join(names)}"):
        load_space("nowhere.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        load_space(tmp_path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"trails": 3}, r"^s.yaml: trails is an unknown key; did you mean trials\?$"),
        ({"fidelity": {"epochs": 4, "rung": [1]}}, r"s.yaml: fidelity.rung is an unknown key; did you mean rungs\?"),
        ({"unroll": {"layers": 3}}, r"unroll.layers is an unknown key; known here are blocks, channels, cons"),
        (
            {"try_first": [{"layout": "I12", "wheel": 1}]},
            r"try_first\[0\].wheel is an unknown key; known here are hyper",
        ),
        ({"layouts": {"kind": "free", "max_change": 1}}, r"layouts.max_change is an unknown key"),
        ({"layouts": {"kind": "tree"}}, r"layouts: kind is 'tree', which is none of 'free', 'prefix', 'list'"),
        ({"fidelity": {"epochs": 10, "rungs": [3, 12]}}, r"fidelity: rung 12 is not before the last epoch, 10"),
        ({"fidelity": {"epochs": 10, "rungs": [10]}}, r"fidelity: rung 10 is not before the last epoch, 10"),
        ({"fidelity": {"epochs": 10, "rungs": [6, 3]}}, r"fidelity: rungs ascend, found \[6, 3\]"),
        ({"fidelity": {"epochs": 5, "grace": 5}}, r"fidelity: grace is 5, where the last epoch is 5"),
        ({"fidelity": {"rungs": [1]}}, r"fidelity.epochs is missing"),
        ({"trials": 0}, r"trials is missing or 0, and there is no grid: nothing would be trained"),
        ({"trials": -1}, r"trials must be greater than or equal to 0; found -1"),
        ({"grid": {"rows": []}}, r"grid.rows: .* at least 1"),
        (
            {"grid": {"rows": [{"layout": "I2V9"}]}},
            r"grid.rows\[0\].layout I2V9 has 11 blocks, where unroll.blocks is 12",
        ),
        ({"grid": {"rows": [{"layout": "I12"}, {"layout": "I12"}]}}, r"grid.rows\[1\] is there twice"),
        (
            {
                "grid": {"rows": [{"layout": "I12", "init": "transfer"}]},
                "baselines": {"kinds": ["joint-stl"]},
            },
            r"grid.rows\[0\].init is transfer, which starts from an STL",
        ),
        ({"grid": {"rows": [{"layout": "I12"}], "seed": 2}}, r"grid.seed is an unknown key; did you mean seeds"),
        ({"trials": "many"}, r"trials must be a whole number; found 'many'"),
        ({"try_first": [{"layout": "I2V9"}]}, r"try_first\[0\].layout I2V9 has 11 blocks, where unroll.blocks is 12"),
        ({"try_first": [{"layout": "I2X10"}]}, r"try_first\[0\].layout: layout 'I2X10': character 3 is 'X'"),
        (
            {"try_first": [{"layout": "IVIVIV7"}]},
            r"try_first\[0\].layout IVIVIV7 changes its kind 5 times, where .* 3",
        ),
        (
            {"try_first": [{"layout": "I12", "weighting": "equal"}]},
            r"try_first\[0\].weighting is equal, which is not among",
        ),
        (
            {"layouts": {"kind": "list", "choices": ["I2V9"]}},
            r"layouts.choices I2V9 has 11 blocks, where unroll.blocks is 12",
        ),
        ({"layouts": {"kind": "prefix", "shared": [0, 13]}}, r"layouts.shared ends at 13, where unroll.blocks is 12"),
        ({"scarce": {"task": "PD", "slices": [3]}}, r"scarce.task is 'PD', which is not among tasks \(PDw, PDw-FS\)"),
        ({"scarce": {"task": "PDw-FS"}}, r"scarce: give either slices or fractions"),
        ({"scarce": None}, r"transfer, which needs a scarce task"),
        (
            {"scarce": {"task": "PDw-FS", "slices": [3, 6]}},
            r"objective.metric is ssim, which cannot be compared between sev",
        ),
        ({"baselines": {"kinds": ["transfer"]}}, r"transfer without stl"),
        ({"baselines": {"kinds": []}, "objective": {"metric": "gain"}}, r"objective compares with stl"),
        (
            {"hyperparameters": {"learning": {"low": 1, "high": 2}}},
            r"hyperparameters.learning is no field of a training; did",
        ),
        (
            {"hyperparameters": {"learning_rate": {"low": 1, "high": 1}}},
            r"learning_rate: low is below high, found 1 and 1",
        ),
        (
            {"hyperparameters": {"learning_rate": {"low": -1, "high": 1}}},
            r"hyperparameters.learning_rate must be gre",
        ),
        (
            {"hyperparameters": {"learning_rate": {"low": 1}}},
            r"learning_rate: give low and high \(and log\), or choices",
        ),
        (
            {"hyperparameters": {"learning_rate": {"low": 1, "high": 2}}, "try_first": []},
            r"hyperparameters.learning_rate is searched for trials and not for the baselines; "
            r"add baselines.hyperparameters.learning_rate, a list of values to train them at$",
        ),
        (
            {"baselines": {"hyperparameters": {"learning_rat": [1]}}},
            r"baselines.hyperparameters.learning_rat is no field of a baseline's training; did you mean le",
        ),
        (
            {"baselines": {"hyperparameters": {"weighting.temperature": [1.0]}}},
            r"weighting.temperature is no field of a baseline's training; the fields are batch_size",
        ),
        (
            {"baselines": {"hyperparameters": {"learning_rate": [-1]}}},
            r"baselines.hyperparameters.learning_rate must be greater than 0; found -1",
        ),
        (
            {"baselines": {"hyperparameters": {"learning_rate": []}}},
            r"baselines.hyperparameters: learning_rate is a list of different values, found \[\]",
        ),
        (
            {"baselines": {"hyperparameters": {"learning_rate": [1, 1]}}},
            r"learning_rate is a list of different values, found \[1, 1\]",
        ),
        (
            {"hyperparameters": {"network.channels": {"choices": [2, 4]}}, "baselines": {"kinds": []}, "try_first": []},
            r"hyperparameters.network.channels changes the network, where trials start from trained weights "
            r"\(start.init is joint\); leave it out, or let start.init be random$",
        ),
        (
            {"baselines": {"hyperparameters": {"network.channels": [2, 4]}}},
            r"baselines.hyperparameters.network.channels changes the network, and start.init is joint, which starts",
        ),
        (
            {
                "start": {"init": "random"},
                "baselines": {"kinds": ["joint-tuned"], "hyperparameters": {"network.channels": [2, 4]}},
            },
            r"baselines.hyperparameters.network.channels changes the network, and baselines.kinds has joint-tuned, whi",
        ),
        (
            {"start": {"init": "transfer"}, "baselines": {"kinds": ["joint-stl"]}},
            r"start.init is transfer, which starts from an STL; add stl to baselines.kinds$",
        ),
        ({"start": {"init": "warm"}}, r"start.init must be 'joint', 'random' or 'transfer'; found 'warm'"),
        ({"start": {"epoch": 3}}, r"start.epoch is an unknown key; did you mean epochs\?"),
        ({"baselines": {"seeds": 0}}, r"baselines.seeds must be greater than or equal to 1; found 0"),
        (
            {
                "layouts": {"kind": "free", "max_parameters": 20000},
                "unroll": {"channels": 4, "pools": 1},
                "grid": {"rows": [{"layout": "V12"}]},
                "try_first": [],
            },
            r"grid.rows\[0\].layout V12 has [0-9,]+ parameters, where layouts.max_parameters is 20,000",
        ),
        (
            {"hyperparameters": {"weighting.log_variance_start": {"low": 0, "high": 1}}},
            r"belongs to uncertainty, which is not",
        ),
        ({"training": {"learning_rate": -1}}, r"training.learning_rate must be greater than 0; found -1"),
        (
            {"training": {"masks": {"val": {"accelerations": [4, 5]}}}},
            r"training.masks.val: validation and test masks are",
        ),
        ({"sampler": {"kind": "gp"}}, r"sampler.kind must be 'tpe' or 'random'; found 'gp'"),
        ({"tasks": ["PDw", "PDw"]}, r"tasks: names each once"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_file_and_field(changes, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        parse_space(changed(**changes), "s.yaml")
    assert str(error.value).startswith("s.yaml: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("trials: [1", r"s.yaml is not YAML in line 1"),
        ("trials: 1\ntrials: 2", r"s.yaml is not YAML in line 2: the key 'trials' is given twice"),
        ("- 1", r"s.yaml is no space: it holds list"),
        ("", r"s.yaml is no space"),
        ("!!python/object/apply:os.system ['true']", r"s.yaml is not YAML"),
    ],
)
def test_a_file_that_is_no_yaml_is_said(text, sentence):
    with pytest.raises(InputError, match=sentence):
        parse_space(text, "s.yaml")


def test_numbers_of_slices_are_checked_against_the_data():
    space = parse_space(QUICK)
    assert space.on({"PDw": 40, "PDw-FS": 12}).scarce_counts == (12,)
    with pytest.raises(InputError, match="asks for 12 slices of PDw-FS, where data/x has 11 in training"):
        space.on({"PDw": 40, "PDw-FS": 11}, "data/x")
    with pytest.raises(InputError, match=r"tasks names 'PDw', of which .* it has PDw-FS \(12\), T1 \(3\)"):
        space.on({"PDw-FS": 12, "T1": 3})


def test_fractions_and_all_become_numbers_on_the_data():
    objective = {"metric": "gain"}
    some = parse_space(changed(scarce={"task": "PDw-FS", "fractions": [0.1, 1.0]}, objective=objective))
    every = parse_space(changed(scarce={"task": "PDw-FS", "slices": ["all", 3]}, objective=objective))
    with pytest.raises(InputError, match="not known yet"):
        _ = some.scarce_counts
    assert some.on({"PDw": 40, "PDw-FS": 34}).scarce_counts == (3, 34)
    assert every.on({"PDw": 40, "PDw-FS": 34}).scarce_counts == (34, 3)
    with pytest.raises(InputError, match="the same"):
        every.on({"PDw": 40, "PDw-FS": 3})


@pytest.mark.parametrize(
    ("fidelity", "milestones"),
    [
        ({"epochs": 120, "grace": 8, "reduction": 3}, (8, 24, 72)),
        ({"epochs": 10, "grace": 1, "reduction": 1.5}, (1, 2, 3, 5, 8)),
        ({"epochs": 10, "rungs": [2, 7]}, (2, 7)),
        ({"epochs": 10}, ()),
    ],
)
def test_rungs_follow_from_grace_and_reduction_or_are_given(fidelity, milestones):
    assert parse_space(changed(fidelity=fidelity)).fidelity.milestones == milestones


@pytest.mark.parametrize(
    ("fidelity", "validate_at", "validated"),
    [
        ({"epochs": 5, "rungs": [2, 3]}, None, [1, 2, 3, 4, 5]),
        ({"epochs": 5, "rungs": [2, 3], "validate_after": "rungs"}, (2, 3, 5), [2, 3, 5]),
        ({"epochs": 9, "grace": 2, "validate_after": "rungs"}, (2, 4, 8, 9), [2, 4, 8, 9]),
        ({"epochs": 3, "validate_after": "rungs"}, (3,), [3]),
    ],
)
def test_a_training_is_validated_after_every_epoch_or_after_rungs_and_the_last(fidelity, validate_at, validated):
    space = parse_space(changed(fidelity=fidelity, start={"init": "random"}))
    config = space.train_config(next(iter(space.known())))
    assert config.validate_at == space.reference_config("stl", "PDw").validate_at == validate_at
    assert list(config.validated_epochs) == validated


@pytest.mark.parametrize(("chosen", "sentence"), [((3, 6), "names epoch 6, where .* 1 to 5"), ((3, 2), "ascends")])
def test_epochs_that_are_validated_fit_the_training(chosen, sentence):
    with pytest.raises(ValidationError, match=f"validate_at {sentence}"):
        TrainConfig(tasks=("PDw",), epochs=5, validate_at=chosen)


def test_the_last_epoch_is_validated_always():
    assert TrainConfig(tasks=("PDw",), epochs=5, validate_at=(2,)).validated_epochs == (2, 5)


def test_points_encode_decode_and_are_named():
    space = load_space("full.yaml")
    for point in space.known():
        assert space.decode(space.encode(point), random.Random(0)) == point
        assert Point.parse(point.key) == point
        assert set(space.encode(point)) == set(space.dimensions(point.weighting))
    assert len({point.key for point in space.known()}) == 24


def test_what_breaks_a_constraint_is_decoded_to_its_nearest():
    space = parse_space(QUICK)
    params = {f"b{block:02d}": "IVY"[block % 3] for block in range(1, 13)}
    point = space.decode({**params, "weighting": "dwa", "scarce_slices": 12}, random.Random(0))
    assert space.layouts.misfit(space.layouts.decode(space.encode(point), 12), space.costs) is None


def test_hyperparameters_reach_the_field_that_they_name():
    hyperparameters = {
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "batch_size": {"low": 1, "high": 4},
        "network.channels": {"choices": [4, 8]},
        "weighting.temperature": {"low": 1, "high": 4},
    }
    baselines = {"kinds": []}
    space = parse_space(
        changed(hyperparameters=hyperparameters, try_first=[], start={"init": "random"}, baselines=baselines)
    )
    assert space.dimensions("dwa")["batch_size"] == Integer(1, 4)
    extras = (("batch_size", 3), ("learning_rate", 1e-3), ("network.channels", 4), ("weighting.temperature", 3.0))
    config = space.train_config(Point("I12", "dwa", 12, extras))
    found = (config.batch_size, config.learning_rate, config.network.channels, config.weighting.temperature)
    assert found == (3, 1e-3, 4, 3.0)


def test_baselines_share_the_epochs_masks_and_slices_of_the_trials():
    space = parse_space(changed(baselines={"transfer_learning_rate": 0.5}, start={"init": "random"}))
    trial = space.train_config(space.known()[0])
    joint = space.reference_config("joint-stl", None, 12)
    scarce, abundant = (space.reference_config("stl", task, 12) for task in ("PDw-FS", "PDw"))
    transfer = space.reference_config("transfer", None, 12)
    assert (joint.network.layout, joint.weighting.kind, joint.slices) == ("I12", "equal", {"PDw-FS": 12})
    assert (scarce.tasks, scarce.slices, abundant.slices) == (("PDw-FS",), {"PDw-FS": 12}, {})
    assert transfer == scarce.model_copy(update={"learning_rate": 0.5})
    for config in (joint, scarce, abundant, transfer):
        assert (config.epochs, config.masks, config.seed) == (trial.epochs, trial.masks, trial.seed)


WARM = {
    "start": {"init": "joint", "epochs": 7, "learning_rate": 1e-3, "muon_learning_rate": 5e-3},
    "fidelity": {"epochs": 3},
    "training": {"learning_rate": 4e-3, "optimiser": "muon", "muon_learning_rate": 0.02},
}


def rates(config: TrainConfig) -> tuple[int, float, float]:
    return config.epochs, config.learning_rate, config.muon_learning_rate


def test_trials_go_on_from_the_joint_network_and_baselines_have_as_many_epochs_behind_them():
    space = parse_space(changed(**WARM))
    scratch, on = (10, 4e-3, 0.02), (3, 1e-3, 5e-3)
    joint = space.joint_config(12, 5)
    assert rates(joint) == (7, 4e-3, 0.02)
    assert (joint.network.layout, joint.weighting.kind, joint.slices, joint.seed) == ("I12", "equal", {"PDw-FS": 12}, 5)
    assert joint.tasks == space.tasks
    (known,) = space.known()
    assert known.init == "joint"
    for init, expected in (("joint", on), ("transfer", on), ("random", scratch)):
        assert rates(space.train_config(dataclasses.replace(known, init=init))) == expected
    assert space.total_epochs == 10
    for kind, expected in (
        ("stl", scratch),
        ("stl-steps", scratch),
        ("joint-stl", scratch),
        ("joint-tuned", on),
        ("transfer", on),
    ):
        assert rates(space.reference_config(kind, "PDw-FS", 12)) == expected
    tuned = space.reference_config("joint-tuned", "PDw", 12, 5)
    assert (tuned.tasks, tuned.network.layout, tuned.slices, tuned.seed) == (("PDw",), "I12", {}, 5)


def test_a_short_joint_network_is_validated_after_the_rungs_that_it_reaches():
    fidelity = {"epochs": 9, "rungs": [2, 4], "validate_after": "rungs"}
    space = parse_space(changed(start={"epochs": 3}, fidelity=fidelity))
    assert space.joint_config(12).validate_at == (2, 3)
    assert space.reference_config("stl", "PDw").validate_at == (2, 4, 12)
    assert space.train_config(space.known()[0]).validate_at == (2, 4, 9)


def test_without_a_start_of_its_own_the_joint_network_has_the_trials_epochs_and_rates():
    space = parse_space(QUICK)
    assert (space.start.init, space.joint_epochs, space.total_epochs) == ("joint", 10, 20)
    assert space.train_config(space.known()[0]).learning_rate == space.training.learning_rate
    for init in ("random", "transfer"):
        other = parse_space(changed(start={"init": init, "epochs": 7}))
        assert (other.joint_epochs, other.total_epochs) == (7, 10)
        assert {point.init for point in other.known()} == {init}


def test_a_searched_learning_rate_takes_the_place_of_the_starts():
    searched = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    given = {"hyperparameters": {"learning_rate": [3e-3, 1e-3]}, "transfer_learning_rate": 7e-3}
    space = parse_space(changed(**WARM, hyperparameters=searched, baselines=given, try_first=[]))
    point = space.decode(
        {**dict.fromkeys((f"b{n:02d}" for n in range(1, 13)), "I"), "weighting": "dwa", "scarce_slices": 12}
        | {"learning_rate": 2e-3},
        random.Random(0),
    )
    assert point == Point("I12", "dwa", 12, (("learning_rate", 2e-3),), "joint")
    assert rates(space.train_config(point)) == (3, 2e-3, 5e-3)
    assert rates(space.joint_config(12)) == (7, 4e-3, 0.02)
    assert space.combinations == ((("learning_rate", 3e-3),), (("learning_rate", 1e-3),))
    for combination in space.combinations:
        ((_, rate),) = combination
        for kind in ("stl", "stl-steps", "joint-stl", "joint-tuned"):
            assert space.reference_config(kind, "PDw", hyperparameters=combination).learning_rate == rate
        assert space.reference_config("transfer", hyperparameters=combination).learning_rate == 7e-3


def test_baselines_train_at_every_combination_of_what_is_given():
    given = {"learning_rate": [1e-3, 3e-3], "batch_size": [1, 2, 4]}
    space = parse_space(changed(baselines={"hyperparameters": given}))
    assert parse_space(QUICK).combinations == ((),)
    assert len(set(space.combinations)) == 6
    assert {tuple(name for name, _ in one) for one in space.combinations} == {("batch_size", "learning_rate")}
    available = {"PDw": 40, "PDw-FS": 12}
    # 12 and 40 slices in batches of 4: 3 and 10 steps.
    assert space.steps_passes(12, available, (("batch_size", 4),)) == round(13 / 3)
    assert space.steps_passes(12, available) == round(52 / 12)


@pytest.mark.parametrize("consistency", ["image", "accelerated"])
def test_a_budget_of_parameters_holds_for_the_very_network(consistency):
    """Searched channels, poolings and consistency change the count."""
    hyperparameters = {
        "network.channels": {"choices": [2, 4, 8]},
        "network.pools": {"low": 1, "high": 2},
        "network.consistency": {"choices": ["k-space", consistency]},
    }
    common = {
        "hyperparameters": hyperparameters,
        "start": {"init": "random"},
        "baselines": {"kinds": []},
        "layouts": {"kind": "free", "max_parameters": 40000},
        "unroll": {"blocks": 4, "channels": 2, "pools": 1},
    }
    space = parse_space(changed(**common, try_first=[]))
    rng = random.Random(0)
    sizes = set()
    for _ in range(60):
        params = {f"b{block:02d}": rng.choice("IYV") for block in range(1, 5)} | {"weighting": "naive"}
        params |= {"scarce_slices": 12, "network.channels": rng.choice([2, 4, 8]), "network.pools": rng.choice([1, 2])}
        params["network.consistency"] = rng.choice(["k-space", consistency])
        point = space.decode(params, rng)
        if point is not None:
            network = UnrolledNetwork(space.train_config(point).network, space.tasks)
            sizes.add((sum(one.numel() for one in network.parameters()), network.config.channels))
    assert max(size for size, _ in sizes) <= 40000
    assert {channels for _, channels in sizes} == {2, 4, 8}
    chosen = {"network.channels": 8, "network.pools": 2, "network.consistency": consistency}
    count = sum(
        one.numel()
        for one in UnrolledNetwork(
            NetworkConfig(layout="V4", channels=8, pools=2, consistency=consistency), space.tasks
        ).parameters()
    )
    with pytest.raises(InputError, match=rf"try_first\[0\].layout V4 has {count:,} parameters, where .* is 40,000"):
        parse_space(changed(**common, try_first=[{"layout": "V4", "hyperparameters": chosen}]))


def test_an_stl_of_equal_steps_makes_up_for_the_slices_of_all_other_tasks():
    scarce = {"task": "T1", "slices": [5, 9]}
    more = {"objective": {"metric": "gain"}, "training": {"batch_size": 2}}
    space = parse_space(changed(tasks=["T1", "T2", "FLAIR"], scarce=scarce, **more))
    available = {"T1": 9, "T2": 20, "FLAIR": 31}
    assert space.steps_passes(5, available) == round((3 + 10 + 16) / 3)
    assert space.steps_passes(9, available) == round((5 + 10 + 16) / 5)
    config = space.reference_config("stl-steps", "T1", 5, passes=10)
    assert config == space.reference_config("stl", "T1", 5).model_copy(update={"passes": 10})
    with pytest.raises(InputError, match="has stl-steps, which needs a scarce task; add scarce, or leave stl-steps"):
        parse_space(changed(scarce=None, baselines={"kinds": ["stl", "stl-steps"]}))


def test_three_tasks_need_no_names_known_in_advance():
    text = changed(tasks=["T1", "T2", "FLAIR"], scarce={"task": "T1", "slices": [5]})
    space = parse_space(text).on({"T1": 9, "T2": 9, "FLAIR": 9})
    assert space.source == "T2"
    assert space.train_config(space.known()[0]).tasks == ("T1", "T2", "FLAIR")
    alike = parse_space(changed(tasks=["T1", "T2"], scarce=None, baselines={"kinds": ["stl", "joint-stl"]}))
    assert alike.scarce_counts == (None,)
    assert alike.known()[0].scarce_slices is None


def test_a_space_sets_every_field_of_the_network_but_the_layout():
    given = {"blocks": 12, "channels": 3, "pools": 2, "consistency": "image", "zero_init": False}
    given |= {"sense_steps": 4, "padding": "least"}
    assert set(given) == set(NetworkConfig.model_fields) - {"layout"} | {"blocks"}
    network = parse_space(changed(unroll=given)).train_config(Point("I12", "naive", 12)).network
    assert {name: getattr(network, name) for name in given if name != "blocks"} == {
        name: value for name, value in given.items() if name != "blocks"
    }


def test_a_space_sets_every_field_of_a_training_that_has_no_place_of_its_own():
    own = {"tasks", "network", "slices", "epochs", "passes", "validate_at", "seed"}
    assert set(Training.model_fields) == set(TrainConfig.model_fields) - own


def test_a_space_says_how_its_weightings_weight():
    space = parse_space(changed(training={"weighting": {"temperature": 0.5, "constant_sum": False}}))
    found = space.train_config(Point("I12", "dwa", 12)).weighting
    assert (found.kind, found.temperature, found.constant_sum) == ("dwa", 0.5, False)
    with pytest.raises(InputError, match=r"training\.weighting\.kind is an unknown key"):
        parse_space(changed(training={"weighting": {"kind": "dwa"}}))


def test_two_spaces_are_the_same_search_whatever_their_length():
    space = parse_space(QUICK)
    longer = parse_space(changed(trials=99, confirm={"top": 9}, baselines={"kinds": ["stl", "stl-steps"]}))
    other = parse_space(changed(training={"batch_size": 2}))
    assert space.hash == longer.hash != other.hash
    assert space.difference(longer) is None
    assert space.difference(other) == "training.batch_size is 2, not 1"
    assert Space.model_validate(space.model_dump(mode="json")) == space


@pytest.mark.parametrize(
    "point",
    [
        Point("I2V10", "naive", 12, (), "joint"),
        Point("I2V10", "naive", 12),
        Point("I12", "equal", None),
        Point("I2Y10", "naive", 32, (), "transfer"),
        Point("I12", "dwa", 3, (("learning_rate", 1e-3), ("weighting.temperature", 2.5)), "transfer"),
    ],
)
def test_a_point_is_read_back_from_its_key(point):
    assert Point.parse(point.key) == point


def test_points_that_start_otherwise_have_other_keys():
    point = Point("I2V10", "naive", 12)
    keys = {init: dataclasses.replace(point, init=init).key for init in ("random", "joint", "transfer")}
    assert keys == {
        "random": "I2V10/naive/n=12",
        "joint": "I2V10/naive/n=12/init=joint",
        "transfer": "I2V10/naive/n=12/init=transfer",
    }


def test_a_stored_space_from_before_there_was_a_start_starts_at_random():
    searched = {"learning_rate": {"low": 1e-4, "high": 1e-2}, "clip_norm": {"low": 0.1, "high": 1.0}}
    new = parse_space(
        changed(
            hyperparameters=searched,
            try_first=[],
            start={"init": "random"},
            baselines={"hyperparameters": {"learning_rate": [2e-4], "clip_norm": [None]}},
        )
    )
    content = new.model_dump(mode="json")
    del content["start"], content["baselines"]["hyperparameters"], content["baselines"]["seeds"]
    old = stored_space(content)
    assert old == new
    assert old.difference(new) is None
    assert stored_space(new.model_dump(mode="json")) == new


def test_more_seeds_of_baselines_are_another_search_where_trials_are_judged_by_them():
    for metric, same in (("ssim", True), ("gain", False)):
        one, three = (
            parse_space(changed(objective={"metric": metric}, baselines={"seeds": seeds})) for seeds in (1, 3)
        )
        assert (one.difference(three) is None) == same
    other = parse_space(changed(start={"epochs": 7}))
    assert parse_space(QUICK).difference(other) == "start.epochs is 7, not null"


def test_a_grid_may_grow_without_becoming_another_search():
    one, more = (parse_space(changed(grid={"rows": [{"layout": "I12"}], "seeds": seeds})) for seeds in (1, 4))
    assert one.difference(more) is None
    assert one.hash == more.hash == parse_space(QUICK).hash


RECIPE = {"network.consistency": "k-space", "network.sense_steps": 0, "optimiser": "adam", "clip_norm": None}


def test_a_row_of_a_grid_may_have_a_recipe_of_its_own():
    rows = [{"layout": "I12"}, {"layout": "I12", "hyperparameters": RECIPE, "label": "as in the paper"}]
    unroll = {"blocks": 12, "consistency": "accelerated", "sense_steps": 9}
    training = {"optimiser": "muon", "clip_norm": 1.0}
    space = parse_space(changed(grid={"rows": rows}, unroll=unroll, training=training))
    ours, theirs = (space.train_config(point) for point in space.grid_points())
    assert (ours.network.sense_steps, ours.optimiser, ours.clip_norm) == (9, "muon", 1.0)
    assert (theirs.network.sense_steps, theirs.optimiser, theirs.clip_norm) == (0, "adam", None)
    assert theirs.network.consistency == "k-space"
    point = space.grid_points()[1]
    assert Point.parse(point.key) == point
    assert space.label(point.hyperparameters) == "as in the paper"
    assert space.label(()) is None


def test_what_is_confirmed_beside_leaders_is_checked_as_known_configurations_are():
    beside = [{"layout": "I12", "weighting": "naive"}]
    space = parse_space(changed(confirm={"top": 1, "beside": beside}))
    assert space.beside([12]) == [Point("I12", "naive", 12, (), space.start.init)]
    assert space.beside([7]) == []
    with pytest.raises(InputError, match=r"confirm\.beside\[0\]\.layout I3 has 3 blocks, where unroll\.blocks is 12"):
        parse_space(changed(confirm={"beside": [{"layout": "I3"}]}))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"hyperparameters": {"optimizer": "adam"}}, r"optimizer is no field of a training; did you mean optimiser\?"),
        ({"hyperparameters": {"optimiser": "sgd"}}, r"grid\.rows\[0\]\.hyperparameters\.optimiser must be"),
        ({"hyperparameters": {"network.channels": 9}, "init": "joint"}, "starts from trained weights"),
    ],
)
def test_a_recipe_that_no_training_has_is_refused(row, message):
    with pytest.raises(InputError, match=message):
        parse_space(changed(grid={"rows": [{"layout": "I12", **row}]}))
