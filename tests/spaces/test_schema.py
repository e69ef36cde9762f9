"""Spaces: shipped ones read, mistakes are one sentence, points become trainings."""

import random

import pytest
import yaml

from recon.config import MasksConfig, NetworkConfig, TrainConfig
from recon.errors import InputError
from spaces.layouts import Choice, Integer, Real
from spaces.schema import Point, Space, Training, load_space, parse_space, shipped

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


@pytest.mark.parametrize("name", ["quickstart", "full"])
def test_shipped_spaces_try_the_papers_six_networks_first(name):
    space = load_space(f"{name}.yaml")
    counts = space.scarce_counts
    assert [(point.layout, point.weighting) for point in space.known()][:: len(counts)]
    assert {(point.layout, point.weighting) for point in space.known()} == PAPER
    assert len(space.known()) == 6 * len(counts)
    assert space.unroll.blocks == 12
    assert space.baselines.kinds == ("stl", "joint-stl", "transfer")


def test_the_papers_space_is_the_papers_study_with_its_defaults():
    space = load_space("paper.yaml")
    assert space.scarce_counts == (32, 107, 253, 497)
    points = space.grid_points()
    assert {(point.layout, point.weighting) for point in points if point.init == "random"} == PAPER | {
        ("I12", "naive"),
        ("I2V10", "equal"),
    }
    assert [(point.layout, point.weighting) for point in points if point.init == "transfer"] == [("I2V10", "naive")] * 4
    assert len(set(points)) == len(points) == 9 * 4
    assert (space.trials, list(space.grid_seeds())) == (0, [0, 1, 2])
    assert space.fidelity.milestones == ()
    config = space.train_config(points[0])
    network = {"layout": "I2V10", "zero_init": False}
    code = {"ratios": "epochs", "temperature": 2.0, "log_variance_start": -0.5, "log_variance_learning_rate": None}
    weighting = {"kind": "naive", "constant_sum": False, **code}
    assert config == TrainConfig(tasks=space.tasks, network=network, weighting=weighting, slices={"PDw-FS": 32})
    assert (config.epochs, config.batch_size, config.learning_rate, config.masks) == (120, 1, 2e-4, MasksConfig())
    assert space.reference_config("transfer", None, 32).learning_rate == 5e-4


def test_the_small_study_is_the_papers_cut_in_size_and_training_alone():
    paper, small = load_space("paper.yaml"), load_space("paper-small.yaml")
    same = ("tasks", "layouts", "weightings", "objective", "seed")
    assert [getattr(small, name) for name in same] == [getattr(paper, name) for name in same]
    assert small.grid.rows == paper.grid.rows
    assert small.grid.seeds == 2
    assert small.training.masks == paper.training.masks
    assert small.training.cut == paper.training.cut
    assert small.baselines.kinds == paper.baselines.kinds
    assert small.on({"PDw": 481, "PDw-FS": 497}).scarce_counts == paper.scarce_counts
    assert small.on({"PDw": 48, "PDw-FS": 48}).scarce_counts == (3, 10, 24, 48)


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
    assert shipped() == ["full.yaml", "paper-small.yaml", "paper.yaml", "quickstart.yaml"]
    with pytest.raises(InputError, match=r"there is no space nowhere.yaml; shipped are full.yaml, paper-small.yaml"):
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
        ({"layouts": {"kind": "tree"}}, r"layouts: input tag 'tree' found .* does not match any of the expected tags"),
        ({"fidelity": {"epochs": 10, "rungs": [3, 12]}}, r"fidelity: rung 12 is not before the last epoch, 10"),
        ({"fidelity": {"epochs": 10, "rungs": [10]}}, r"fidelity: rung 10 is not before the last epoch, 10"),
        ({"fidelity": {"epochs": 10, "rungs": [6, 3]}}, r"fidelity: rungs ascend, found \[6, 3\]"),
        ({"fidelity": {"epochs": 5, "grace": 5}}, r"fidelity: grace is 5, where the last epoch is 5"),
        ({"fidelity": {"rungs": [1]}}, r"fidelity.epochs: is missing"),
        ({"trials": 0}, r"trials is missing or 0, and there is no grid: nothing would be trained"),
        ({"trials": -1}, r"trials: input should be greater than or equal to 0, found -1"),
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
        ({"trials": "many"}, r"trials: .* found 'many'"),
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
            r"hyperparameters.learning_rate: input should be gre",
        ),
        (
            {"hyperparameters": {"learning_rate": {"low": 1}}},
            r"learning_rate: give low and high \(and log\), or choices",
        ),
        (
            {"hyperparameters": {"weighting.log_variance_start": {"low": 0, "high": 1}}},
            r"belongs to uncertainty, which is not",
        ),
        ({"training": {"learning_rate": -1}}, r"training.learning_rate: input should be greater than 0, found -1"),
        (
            {"training": {"masks": {"val": {"accelerations": [4, 5]}}}},
            r"training.masks.val: validation and test masks are",
        ),
        ({"sampler": {"kind": "gp"}}, r"sampler.kind: input should be 'tpe' or 'random', found 'gp'"),
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
    space = parse_space(changed(hyperparameters=hyperparameters, try_first=[]))
    assert space.dimensions("dwa")["batch_size"] == Integer(1, 4)
    extras = (("batch_size", 3), ("learning_rate", 1e-3), ("network.channels", 4), ("weighting.temperature", 3.0))
    config = space.train_config(Point("I12", "dwa", 12, extras))
    found = (config.batch_size, config.learning_rate, config.network.channels, config.weighting.temperature)
    assert found == (3, 1e-3, 4, 3.0)


def test_baselines_share_the_epochs_masks_and_slices_of_the_trials():
    space = parse_space(changed(baselines={"transfer_learning_rate": 0.5}))
    trial = space.train_config(space.known()[0])
    joint = space.reference_config("joint-stl", None, 12)
    scarce, abundant = (space.reference_config("stl", task, 12) for task in ("PDw-FS", "PDw"))
    transfer = space.reference_config("transfer", None, 12)
    assert (joint.network.layout, joint.weighting.kind, joint.slices) == ("I12", "equal", {"PDw-FS": 12})
    assert (scarce.tasks, scarce.slices, abundant.slices) == (("PDw-FS",), {"PDw-FS": 12}, {})
    assert transfer == scarce.model_copy(update={"learning_rate": 0.5})
    for config in (joint, scarce, abundant, transfer):
        assert (config.epochs, config.masks, config.seed) == (trial.epochs, trial.masks, trial.seed)


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
    own = {"tasks", "network", "slices", "epochs", "passes", "seed"}
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
        Point("I2V10", "naive", 12),
        Point("I12", "equal", None),
        Point("I2Y10", "naive", 32, (), "transfer"),
        Point("I12", "dwa", 3, (("learning_rate", 1e-3), ("weighting.temperature", 2.5)), "transfer"),
    ],
)
def test_a_point_is_read_back_from_its_key(point):
    assert Point.parse(point.key) == point


def test_a_grid_may_grow_without_becoming_another_search():
    one, more = (parse_space(changed(grid={"rows": [{"layout": "I12"}], "seeds": seeds})) for seeds in (1, 4))
    assert one.difference(more) is None
    assert one.hash == more.hash == parse_space(QUICK).hash
