"""What a space has to be beyond the types of its fields: each check raises ValueError with a sentence."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pydantic import ValidationError

from recon.errors import complaint, said_of
from recon.network.layout import Layout
from spaces.beside import GridRow
from spaces.layouts import Choice, Integer
from spaces.point import Init

if TYPE_CHECKING:
    from spaces.trainings import Trainings
from spaces.fields import CONDITIONAL, check_field, training_fields


def check(space: Trainings) -> None:
    """All that is asked of a space."""
    tasks_agree(space)
    has_something_to_run(space)
    hyperparameters_exist(space)
    baselines_have_what_is_searched(space)
    weights_fit(space)
    layouts_fit(space)


def tasks_agree(space: Trainings) -> None:
    """Tasks that are named are tasks, and the baselines and the objective have what they need."""
    named = {"scarce.task": space.scarce.task if space.scarce else None, "baselines.source": space.baselines.source}
    for field, task in named.items():
        if task is not None and task not in space.tasks:
            raise ValueError(f"{field} is {task!r}, which is not among tasks ({', '.join(space.tasks)})")
    for kind in ("transfer", "stl-steps"):
        if space.scarce is None and kind in space.baselines.kinds:
            raise ValueError(f"baselines.kinds has {kind}, which needs a scarce task; add scarce, or leave {kind} out")
    if space.scarce is not None and space.baselines.source == space.scarce.task:
        raise ValueError(f"baselines.source is {space.baselines.source!r}, the scarce task itself")
    if "transfer" in space.baselines.kinds and "stl" not in space.baselines.kinds:
        raise ValueError("baselines.kinds has transfer without stl, which it starts from")
    if space.needs_references and "stl" not in space.baselines.kinds:
        raise ValueError("objective compares with stl (metric gain, or epsilon), which is not in baselines.kinds")
    if space.objective.metric == "ssim" and space.scarce and len(space.scarce.slices or space.scarce.fractions) > 1:
        raise ValueError("objective.metric is ssim, which cannot be compared between several N; use gain")


def has_something_to_run(space: Trainings) -> None:
    """There are trials or a grid, and each row of the grid can be trained."""
    if not space.trials and space.grid is None:
        raise ValueError("trials is missing or 0, and there is no grid: nothing would be trained")
    for index, row in enumerate(space.grid.rows if space.grid else ()):
        check_length(row.layout, space.unroll.blocks, f"grid.rows[{index}].layout")
        if row in (space.grid.rows[:index] if space.grid else ()):
            raise ValueError(f"grid.rows[{index}] is there twice")
        check_recipe(space, row, f"grid.rows[{index}]")
        reason = space.layouts.too_large(Layout.parse(row.layout), partial(space.costs, row.hyperparameters))
        if reason is not None:
            raise ValueError(f"grid.rows[{index}].layout {row.layout} {reason}")
    if "stl" not in space.baselines.kinds:
        for field, init in inits(space).items():
            if init == "transfer":
                raise ValueError(f"{field} is transfer, which starts from an STL; add stl to baselines.kinds")


def check_recipe(space: Trainings, row: GridRow, field: str) -> None:
    """A row's own recipe names fields of a training, with values that they take."""
    known = training_fields()
    for name, value in row.hyperparameters.items():
        check_field(name, known, f"{field}.hyperparameters")
        if name.startswith("network.") and row.init != "random":
            raise ValueError(
                f"{field}.hyperparameters.{name} changes the network, where the row starts from trained weights "
                f"(init is {row.init}); leave it out, or let init be random"
            )
        try:
            space.compose(space.tasks, "I", row.weighting, {}, 0, {name: value})
        except ValidationError as error:
            raise ValueError(said_of(f"{field}.hyperparameters.{name}", complaint(error.errors()[0]))) from None


def hyperparameters_exist(space: Trainings) -> None:
    """What is searched are fields of a training, with values that they take."""
    known = training_fields()
    for name, hyperparameter in space.hyperparameters.items():
        check_field(name, known, "hyperparameters")
        weighting = CONDITIONAL.get(name)
        if weighting is not None and weighting not in space.weightings:
            raise ValueError(f"hyperparameters.{name} belongs to {weighting}, which is not among weightings")
        dimension = hyperparameter.dimension(known[name] is int)
        ends = dimension.values if isinstance(dimension, Choice) else (dimension.low, dimension.high)
        if isinstance(dimension, Integer) and dimension.low > dimension.high:
            raise ValueError(f"hyperparameters.{name} holds no whole number")
        for value in ends:
            try:
                space.compose(space.tasks, "I", weighting or space.weightings[0], {}, 0, {name: value})
            except ValidationError as error:
                raise ValueError(said_of(f"hyperparameters.{name}", complaint(error.errors()[0]))) from None


def baselines_have_what_is_searched(space: Trainings) -> None:
    """A baseline is tuned where trials are."""
    given = space.baselines.hyperparameters
    known = [name for name in training_fields() if not name.startswith("weighting.")]
    for name, values in given.items():
        check_field(name, known, "baselines.hyperparameters", "a baseline's training")
        for value in values:
            try:
                space.compose(space.tasks, "I", "naive", {}, 0, {name: value})
            except ValidationError as error:
                raise ValueError(said_of(f"baselines.hyperparameters.{name}", complaint(error.errors()[0]))) from None
    for name in space.hyperparameters:
        if space.baselines.kinds and name in known and name not in given:
            raise ValueError(
                f"hyperparameters.{name} is searched for trials and not for the baselines; add "
                f"baselines.hyperparameters.{name}, a list of values to train them at"
            )


def weights_fit(space: Trainings) -> None:
    """Trained weights fit one network only, so nothing of the network is searched where they are started from."""
    searched = next((name for name in space.hyperparameters if name.startswith("network.")), None)
    if searched is not None and space.start.init != "random":
        raise ValueError(
            f"hyperparameters.{searched} changes the network, where trials start from trained weights "
            f"(start.init is {space.start.init}); leave it out, or let start.init be random"
        )
    tuned = next((name for name in space.baselines.hyperparameters if name.startswith("network.")), None)
    starts: dict[str, str] = {field: init for field, init in inits(space).items() if init != "random"}
    if "joint-tuned" in space.baselines.kinds:
        starts["baselines.kinds"] = "joint-tuned"
    if tuned is not None and starts:
        field, start = next(iter(starts.items()))
        has = "has" if field == "baselines.kinds" else "is"
        raise ValueError(
            f"baselines.hyperparameters.{tuned} changes the network, and {field} {has} {start}, which starts from "
            "trained weights; leave one of the two out"
        )


def inits(space: Trainings) -> dict[str, Init]:
    """What multi-task networks start from, by the field that says so."""
    searched: dict[str, Init] = {"start.init": space.start.init} if space.trials else {}
    rows = space.grid.rows if space.grid else ()
    return searched | {f"grid.rows[{index}].init": row.init for index, row in enumerate(rows)}


def layouts_fit(space: Trainings) -> None:
    """Layouts that are named have as many blocks as the network, and lie in the space."""
    dimensions = space.layouts.dimensions(space.unroll.blocks)
    for dimension in dimensions.values():
        if isinstance(dimension, Integer) and dimension.high > space.unroll.blocks:
            raise ValueError(f"layouts.shared ends at {dimension.high}, where unroll.blocks is {space.unroll.blocks}")
    if "layout" in dimensions:
        for text in dimensions["layout"].values:  # type: ignore[union-attr]
            check_length(str(text), space.unroll.blocks, "layouts.choices")
    named = {f"try_first[{index}]": known for index, known in enumerate(space.try_first)}
    named |= {f"confirm.beside[{index}]": known for index, known in enumerate(space.confirm.beside)}
    for field, known in named.items():
        layout = check_length(known.layout, space.unroll.blocks, f"{field}.layout")
        if known.weighting not in space.weightings:
            raise ValueError(f"{field}.weighting is {known.weighting}, which is not among weightings")
        if known.scarce_slices is not None and (not space.scarce or known.scarce_slices not in space.scarce.slices):
            raise ValueError(f"{field}.scarce_slices is {known.scarce_slices}, which is not among scarce.slices")
        wanted = space.active(known.weighting)
        if set(known.hyperparameters) != set(wanted):
            raise ValueError(
                f"{field}.hyperparameters gives {sorted(known.hyperparameters) or 'none'}, "
                f"where {sorted(wanted) or 'none'} are searched"
            )
        try:
            count = partial(space.costs, known.hyperparameters)
            reason = space.layouts.misfit(layout, count)
        except ValidationError as error:
            raise ValueError(said_of(f"{field}.hyperparameters", complaint(error.errors()[0]))) from None
        if reason is not None:
            raise ValueError(f"{field}.layout {known.layout} {reason}")


def check_length(text: str, blocks: int, field: str) -> Layout:
    """The layout; raises ValueError where it has another number of blocks."""
    layout = Layout.parse(text)
    if len(layout) != blocks:
        raise ValueError(f"{field} {text} has {len(layout)} blocks, where unroll.blocks is {blocks}")
    return layout
