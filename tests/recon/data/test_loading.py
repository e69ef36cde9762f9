"""Batches hold what was stored, each slice once an epoch, with masks that depend on seed, pass and slice alone."""

from collections import Counter

import numpy as np
import pytest
import torch

from recon.config import MaskConfig, MasksConfig, TrainConfig
from recon.data import loading
from recon.data.index import IndexRow
from recon.data.loading import Loader, Samples, plan, slice_batch, to_batch, to_sample, training_mask
from recon.data.prepared import PreparedData, Slice
from recon.errors import InputError
from recon.physics.fourier import fft
from recon.physics.masks import draw_mask, fixed, given
from recon.physics.operators import ColumnSense, Sense
from tests.recon.networks import SAMPLE_MASKS
from tests.recon.soft_sense import soft_slice

MASKS = MasksConfig(
    train=MaskConfig(accelerations=(2.0, 3.0), centre_fractions=(0.12, 0.16)),
    val=MaskConfig(accelerations=(3.0,), centre_fractions=(0.16,)),
    test=MaskConfig(accelerations=(3.0,), centre_fractions=(0.16,)),
)


def row(slice_id=0, shape=(3, 18, 20), padding=(0, 0), scale=4.0, task="PDw", split="train"):
    _, rows, columns = shape
    volume = f"{task}{slice_id // 4}"
    crop = (rows - 2, columns - 4)
    return IndexRow(
        slice_id, task, volume, volume, slice_id % 4, split, *shape, *padding, *crop, scale, slice_id, slice_id, volume
    )


def stored(slice_id=0, scale=4.0):
    """A slice whose target is the SENSE combination of its own k-space, as prepared data have it."""
    facts = row(slice_id, scale=scale)
    rng = np.random.default_rng(slice_id)

    def noise(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)

    maps = noise(facts.coils, facts.rows, facts.columns)
    maps /= np.sqrt((np.abs(maps) ** 2).sum(0))
    target = noise(facts.rows, facts.columns)
    return Slice(fft(maps * target), maps, target, facts)


class Folder:
    """Stands in for PreparedData where only ``read`` matters; counts the reads."""

    def __init__(self, slices) -> None:
        self.slices = slices
        self.reads = Counter()

    def read(self, slice_id):
        self.reads[slice_id] += 1
        return self.slices[slice_id]


def keep_all(columns):
    return fixed(MaskConfig(accelerations=(1.0,)), (18, columns))


def test_a_fully_sampled_batch_combines_to_its_target_over_the_scale():
    pieces = [stored(1, scale=4.0), stored(2, scale=0.5)]
    batch = to_batch(pieces, [keep_all(20)] * 2, "PDw")
    combined = ColumnSense(batch.maps, batch.mask).adjoint(batch.kspace)
    torch.testing.assert_close(combined, batch.target, rtol=0, atol=1e-5)
    for n, piece in enumerate(pieces):
        np.testing.assert_allclose(batch.target[n].numpy() * piece.row.scale, piece.target, rtol=1e-6)


def test_a_masked_batch_is_the_masked_centred_k_space():
    piece = stored(3)
    mask = fixed(MaskConfig(accelerations=(3.0,), centre_fractions=(0.1,)), (18, 20))
    batch = slice_batch(piece, mask, "PDw")
    expected = Sense(torch.from_numpy(piece.maps)[None], torch.from_numpy(mask.kept.copy())).adjoint(
        torch.from_numpy(piece.kspace * mask.kept)[None]
    )
    found = ColumnSense(batch.maps, batch.mask).adjoint(batch.kspace) * batch.scale
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (batch.kspace == 0).all(dim=(0, 1, 2)).tolist() == (~mask.kept).tolist()


def test_a_batch_has_the_shapes_and_types_of_the_contract():
    config = MaskConfig(accelerations=(2.0,), centre_fractions=(0.1,))
    masks = [draw_mask(config, (18, 20), np.random.default_rng(n)) for n in range(3)]
    batch = to_batch([stored(n, scale=1.0 + n) for n in range(3)], masks, "PDw")
    assert batch.kspace.shape == batch.maps.shape == (3, 3, 18, 20)
    assert batch.kspace.dtype == batch.maps.dtype == batch.target.dtype == torch.complex64
    assert batch.target.shape == (3, 18, 20)
    assert (batch.mask.shape, batch.mask.dtype) == ((3, 1, 1, 20), torch.bool)
    np.testing.assert_array_equal(batch.mask[:, 0, 0].numpy(), [mask.kept for mask in masks])
    assert (batch.scale.tolist(), batch.scale.dtype) == ([1, 2, 3], torch.float32)
    assert (batch.task, batch.crop, batch.slice_ids) == ("PDw", (16, 16), (0, 1, 2))
    moved = batch.to("meta")
    assert {field.device.type for field in moved if isinstance(field, torch.Tensor)} == {"meta"}
    assert (moved.task, moved.crop, moved.slice_ids) == (batch.task, batch.crop, batch.slice_ids)


SAMPLES = MaskConfig(kind="random-points", accelerations=(3.0,), centre_fractions=(0.2,))


def test_masks_of_single_samples_are_applied_in_centred_k_space():
    pieces = [stored(n, scale=1.0 + n) for n in range(3)]
    masks = [draw_mask(SAMPLES, (18, 20), np.random.default_rng(n)) for n in range(3)]
    batch = to_batch(pieces, masks, "PDw")
    assert (batch.mask.shape, batch.mask.dtype, batch.hybrid) == ((3, 1, 18, 20), torch.bool, False)
    for n, (piece, mask) in enumerate(zip(pieces, masks, strict=True)):
        np.testing.assert_array_equal(batch.mask[n, 0].numpy(), mask.kept)
        np.testing.assert_allclose(batch.kspace[n].numpy() * piece.row.scale, piece.kspace * mask.kept, rtol=1e-6)
        np.testing.assert_array_equal(batch.maps[n].numpy(), piece.maps)
    operator = batch.operator()
    assert isinstance(operator, Sense)
    # What was sampled is the target seen through the operator.
    torch.testing.assert_close(
        operator.forward(batch.target) / batch.kspace.abs().max(),
        batch.kspace / batch.kspace.abs().max(),
        rtol=0,
        atol=1e-5,
    )
    moved = batch.to("meta")
    assert moved.mask.device.type == "meta"
    assert not moved.hybrid


def test_every_column_of_samples_gives_the_image_that_columns_give():
    piece = stored(3)
    lines = fixed(MaskConfig(accelerations=(3.0,), centre_fractions=(0.1,)), (18, 20))
    plane = given(np.broadcast_to(lines.kept, (18, 20)))
    one, other = slice_batch(piece, lines, "PDw"), slice_batch(piece, plane, "PDw")
    assert one.hybrid
    assert not other.hybrid
    torch.testing.assert_close(
        one.operator().adjoint(one.kspace), other.operator().adjoint(other.kspace), rtol=0, atol=1e-5
    )


def test_a_mask_of_single_samples_keeps_none_that_the_slice_lacks():
    """The corners of a three-dimensional scan: the operator must not take zeros for samples."""
    piece = stored(3)
    piece.kspace[:, :5, :6] = 0
    piece.kspace[:, -1] = 0
    mask = draw_mask(SAMPLES, (18, 20), np.random.default_rng(3))
    batch = slice_batch(piece, mask, "PDw")
    acquired = piece.kspace.any(axis=0)
    np.testing.assert_array_equal(batch.mask[0, 0].numpy(), mask.kept & acquired)
    assert (mask.kept & ~acquired).any()
    lines = fixed(MaskConfig(accelerations=(3.0,)), (18, 20))
    np.testing.assert_array_equal(slice_batch(piece, lines, "PDw").mask[0, 0, 0].numpy(), lines.kept)


def test_several_sets_of_maps_come_through_in_both_spaces():
    piece = soft_slice(2)
    shape = piece.row.shape
    for every in (fixed(MaskConfig(accelerations=(1.0,)), shape), given(np.ones(shape, bool))):
        batch = to_batch([piece, piece], [every] * 2, "PDw")
        assert batch.maps.shape == (2, 2, 4, *shape)
        assert batch.target.shape == (2, 2, *shape)
        combined = batch.operator().adjoint(batch.kspace)
        torch.testing.assert_close(combined, batch.target, rtol=0, atol=1e-5)


def test_making_a_batch_leaves_the_slices_alone():
    piece = stored(3)
    sample = to_sample(piece)
    before = sample.kspace.clone(), piece.kspace.copy()
    loading.collate([sample], [fixed(MaskConfig(accelerations=(3.0,)), (18, 20))], "PDw")
    assert torch.equal(sample.kspace, before[0])
    np.testing.assert_array_equal(piece.kspace, before[1])


SLICES = {
    "PDw": {n: (4, 32, 32) if n % 3 else (4, 32, 36) for n in range(23)},
    "PDw-FS": dict.fromkeys(range(30, 35), (4, 32, 32)),
}


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_a_pass_takes_every_slice_once_in_batches_of_one_task_and_shape(batch_size):
    planned = plan(SLICES, batch_size, seed=3, number=1)
    assert sorted(one for _, ids in planned for one in ids) == sorted(one for ids in SLICES.values() for one in ids)
    for task, ids in planned:
        assert 1 <= len(ids) <= batch_size
        assert len({SLICES[task][one] for one in ids}) == 1
    assert len(planned) == sum(-(-n // batch_size) for n in (8, 15, 5))


def test_the_order_depends_on_seed_and_pass_alone():
    first = plan(SLICES, 4, seed=3, number=1)
    np.random.seed(1)  # noqa: NPY002 - the global state must not matter
    assert plan(SLICES, 4, seed=3, number=1) == first
    assert plan(SLICES, 4, seed=3, number=2) != first
    assert plan(SLICES, 4, seed=4, number=1) != first


def test_tasks_are_mixed_within_an_epoch():
    tasks = [
        task for task, _ in plan({"a": dict.fromkeys(range(20), ()), "b": dict.fromkeys(range(20, 40), ())}, 1, 0, 1)
    ]
    assert tasks != sorted(tasks)
    assert tasks != sorted(tasks, reverse=True)


def config(**changes: object) -> TrainConfig:
    base = TrainConfig(tasks=("PDw", "PDw-FS"), masks=MASKS, batch_size=2)
    return TrainConfig.model_validate({**base.model_dump(), **changes})


def test_training_masks_differ_between_slices_and_epochs_and_repeat_for_the_same():
    settings = config(
        masks=MASKS.model_copy(update={"train": MaskConfig(kind="random", accelerations=(2.0,))}).model_dump()
    )

    def pattern(slice_id, epoch, seed=0):
        one = settings.model_copy(update={"seed": seed})
        return tuple(training_mask(one, row(slice_id, shape=(3, 18, 64)), epoch).kept)

    patterns = {(s, e): pattern(s, e) for s in range(12) for e in range(1, 12)}
    assert len(set(patterns.values())) == len(patterns)
    assert pattern(5, 7) == patterns[5, 7]
    assert pattern(5, 7, seed=1) != patterns[5, 7]


def test_a_training_mask_is_keyed_by_the_names_of_volume_and_slice():
    """Another volume in the data set changes the numbers of the slices, and no mask."""
    one = row(5, shape=(3, 18, 64))
    settings = config(masks={"train": MaskConfig(kind="random", accelerations=(2.0,))})
    pattern = training_mask(settings, one, 3).kept
    np.testing.assert_array_equal(training_mask(settings, one._replace(slice_id=905), 3).kept, pattern)
    assert (training_mask(settings, one._replace(volume="another"), 3).kept != pattern).any()
    assert (training_mask(settings, one._replace(slice=one.slice + 1), 3).kept != pattern).any()


def test_training_masks_keep_to_the_padding():
    for slice_id in range(20):
        mask = training_mask(config(), row(slice_id, shape=(3, 18, 40), padding=(3, 5)), 1)
        assert not mask.kept[:3].any()
        assert not mask.kept[-5:].any()


def test_samples_are_kept_up_to_the_limit_and_read_again_beyond_it():
    folder = Folder({n: stored(n) for n in range(5)})
    size = to_sample(folder.slices[0]).nbytes
    assert size == 8 * 18 * 20 * (3 + 3 + 1)
    samples = Samples(folder, limit=3 * size)
    for _ in range(4):
        for n in range(5):
            assert torch.equal(samples.get(n).target, to_sample(folder.slices[n]).target)
    assert dict(folder.reads) == {0: 1, 1: 1, 2: 1, 3: 4, 4: 4}


def test_a_slice_is_kept_apart_for_columns_and_for_single_samples():
    folder = Folder({0: stored(0)})
    samples = Samples(folder)
    for _ in range(2):
        assert samples.get(0).acquired is None
        assert samples.get(0, by_sample=True).acquired.all()
    assert not torch.equal(samples.get(0).kspace, samples.get(0, by_sample=True).kspace)
    assert folder.reads[0] == 2


def same(a, b):
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(a, b, strict=True))


def test_the_loader_gives_every_training_slice_once_and_counts_them(prepared):
    data = PreparedData(prepared)
    loader = Loader(data, config(slices={"PDw-FS": 5}))
    assert loader.slice_counts == {"PDw": len(data.subset("PDw")), "PDw-FS": 5}
    for epoch in (1, 2):
        batches = list(loader.training_batches(epoch))
        assert len(batches) == loader.steps_per_epoch
        for task in ("PDw", "PDw-FS"):
            expected = data.subset(task, 5 if task == "PDw-FS" else None)
            assert sorted(one for b in batches if b.task == task for one in b.slice_ids) == expected


def test_an_epoch_of_several_passes_is_as_many_epochs_of_one(prepared):
    """The same batches with the same masks in the same order, only cut into epochs otherwise."""
    data = PreparedData(prepared)
    once, thrice = (Loader(data, config(passes=passes), workers=passes - 1) for passes in (1, 3))
    assert thrice.steps_per_epoch == 3 * once.steps_per_epoch
    for epoch in (1, 2):
        several = list(thrice.training_batches(epoch))
        singly = [batch for one in range(3 * epoch - 2, 3 * epoch + 1) for batch in once.training_batches(one)]
        assert all(same(a, b) for a, b in zip(several, singly, strict=True))


@pytest.mark.parametrize("cache_bytes", [0, 2**31])
def test_workers_and_cache_change_nothing(prepared, cache_bytes):
    data = PreparedData(prepared)
    alone, helped = Loader(data, config()), Loader(data, config(), workers=3, cache_bytes=cache_bytes)
    for epoch in (2, 1):
        ours, theirs = list(alone.training_batches(epoch)), list(helped.training_batches(epoch))
        assert all(same(a, b) for a, b in zip(ours, theirs, strict=True))
    ours, theirs = list(alone.validation_batches()), list(helped.validation_batches())
    assert all(same(a, b) for a, b in zip(ours, theirs, strict=True))


def test_validation_takes_its_split_in_order_with_one_mask(prepared):
    data = PreparedData(prepared)
    batches = list(Loader(data, config()).validation_batches())
    for task in ("PDw", "PDw-FS"):
        assert [one for b in batches if b.task == task for one in b.slice_ids] == data.subset(task, split="val")
    columns = {tuple(mask.tolist()) for b in batches for mask in b.mask[:, 0, 0]}
    assert len(columns) == len({b.mask.shape[-1] for b in batches})


@pytest.mark.parametrize("workers", [0, 3])
def test_a_training_can_have_masks_of_single_samples_and_validate_with_columns(prepared, workers):
    data = PreparedData(prepared)
    loader = Loader(
        data, config(masks={**MASKS.model_dump(), "train": SAMPLE_MASKS.train.model_dump()}), workers=workers
    )
    again = Loader(data, loader._config)
    seen = set()
    for batch, alone in zip(loader.training_batches(1), again.training_batches(1), strict=True):
        assert same(batch, alone)
        assert batch.mask.shape[-2:] == batch.target.shape[-2:]
        assert (batch.kspace[(~batch.mask).expand_as(batch.kspace)] == 0).all()
        seen |= {mask.numpy().tobytes() for mask in batch.mask}
    assert len(seen) == sum(loader.slice_counts.values())
    assert all(batch.hybrid for batch in loader.validation_batches())


def test_an_epoch_left_early_ends_its_threads_and_errors_come_through(prepared):
    import threading

    loader = Loader(PreparedData(prepared), config(), workers=2)
    epoch = loader.training_batches(1)
    next(epoch)
    epoch.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("loader")]

    class Broken(Folder):
        def read(self, slice_id):
            raise OSError("the disk is gone")

    loader._samples = Samples(Broken({}))
    with pytest.raises(OSError, match="the disk is gone"):
        list(loader.training_batches(2))


def test_more_slices_than_there_are_and_unknown_tasks_are_refused(prepared):
    with pytest.raises(InputError, match="1000"):
        Loader(PreparedData(prepared), config(slices={"PDw": 1000}))
    with pytest.raises(InputError, match="FLAIR"):
        Loader(PreparedData(prepared), config(tasks=("PDw", "FLAIR")))


def test_a_task_without_validation_slices_is_named(prepared):
    data = PreparedData(prepared)
    data.index.loc[(data.index["task"] == "PDw-FS") & (data.index["split"] == "val"), "split"] = "train"
    with pytest.raises(InputError, match="has no validation slices of PDw-FS"):
        Loader(data, config())
