"""Turn prepared slices into the network's batches: scaled, in hybrid space, masked, shuffled.

A pass sees every training slice once. An epoch is one pass, unless the configuration asks for more. The order of a
pass's batches and the mask of every slice depend on (seed, pass, slice) alone. So it does not matter which thread makes
a batch, and a resumed training sees the same batches as an uninterrupted one. ``recon.data.prepared`` stores the
slices, ``recon.physics.masks`` draws the masks.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from recon.config import TrainConfig
from recon.data.index import IndexRow
from recon.data.prepared import PreparedData, Slice
from recon.errors import InputError
from recon.physics.masks import Mask, draw_mask, fixed
from recon.physics.operators import ColumnSense, to_hybrid

CACHE_BYTES = 2 * 1024**3

# The first integer of every seed sequence, so that no two kinds of draw share a stream. (Without it [seed, pass] and
# [seed, pass, 0] would be the same one: NumPy pads a seed sequence with zeros.)
_ORDER, _MASKS = 1, 2

Step = TypeVar("Step")
Result = TypeVar("Result")


class Batch(NamedTuple):
    """Slices of one task and one shape, divided by their volumes' scale: the network's input."""

    kspace: Tensor
    """(batch, coils, rows, columns) complex64: hybrid space (``recon.physics.operators.to_hybrid``), masked."""
    maps: Tensor
    """(batch, coils, rows, columns) complex64, with the centring phases folded in."""
    mask: Tensor
    """(batch, 1, 1, columns) bool: whole columns are kept."""
    target: Tensor
    """(batch, rows, columns) complex64."""
    task: str
    scale: Tensor
    """(batch,) float32: the scale by which k-space and target were divided."""
    crop: tuple[int, int]
    """The centre region (rows, columns) on which losses and metrics are computed."""
    slice_ids: tuple[int, ...]

    def operator(self) -> ColumnSense:
        """The acquisition operator of the batch; the batch's k-space is in its space."""
        return ColumnSense(self.maps, self.mask)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device; a copy from pinned memory does not block."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from which copies to a GPU overlap with other work."""
        return self._map(Tensor.pin_memory)

    def _map(self, move: Callable[[Tensor], Tensor]) -> Batch:
        return self._replace(
            kspace=move(self.kspace),
            maps=move(self.maps),
            mask=move(self.mask),
            target=move(self.target),
            scale=move(self.scale),
        )


class Sample(NamedTuple):
    """One slice in hybrid space, not yet masked; it is kept in memory between epochs."""

    kspace: Tensor
    """(coils, rows, columns) complex64, divided by the scale."""
    maps: Tensor
    """(coils, rows, columns) complex64."""
    target: Tensor
    """(rows, columns) complex64, divided by the scale."""
    row: IndexRow

    @property
    def nbytes(self) -> int:
        """Size of its tensors in bytes."""
        return self.kspace.nbytes + self.maps.nbytes + self.target.nbytes


def to_sample(piece: Slice) -> Sample:
    """Bring a stored slice into hybrid space and divide it by its volume's scale."""
    kspace, maps = to_hybrid(torch.from_numpy(piece.kspace) / piece.row.scale, torch.from_numpy(piece.maps))
    return Sample(kspace, maps, torch.from_numpy(piece.target) / piece.row.scale, piece.row)


def collate(samples: Sequence[Sample], masks: Sequence[Mask], task: str) -> Batch:
    """Mask samples of one shape and put them together."""
    columns = torch.from_numpy(np.stack([mask.columns for mask in masks]))[:, None, None, :]
    first = samples[0].row
    return Batch(
        kspace=torch.stack([sample.kspace for sample in samples]).mul_(columns),
        maps=torch.stack([sample.maps for sample in samples]),
        mask=columns,
        target=torch.stack([sample.target for sample in samples]),
        task=task,
        scale=torch.tensor([sample.row.scale for sample in samples]),
        crop=(first.crop_rows, first.crop_columns),
        slice_ids=tuple(sample.row.slice_id for sample in samples),
    )


def to_batch(slices: Sequence[Slice], masks: Sequence[Mask], task: str) -> Batch:
    """Make a batch of stored slices of one shape, each with its mask."""
    return collate([to_sample(piece) for piece in slices], masks, task)


def slice_batch(piece: Slice, mask: Mask, task: str) -> Batch:
    """Make a batch of a single stored slice."""
    return to_batch([piece], [mask], task)


Shape = tuple[int, ...]


def shape_of(row: IndexRow) -> Shape:
    """The shape that all slices of a batch share: coils, rows, columns and crop."""
    return (row.coils, row.rows, row.columns, row.crop_rows, row.crop_columns)


def plan(
    slices: Mapping[str, Mapping[int, Shape]], batch_size: int, seed: int, number: int
) -> list[tuple[str, tuple[int, ...]]]:
    """The batches of a pass, in order. Every slice comes once; a batch has one task and one shape.

    Args:
        slices: for each task, its slices' shapes by slice_id.
        batch_size: the most slices in a batch; the slices left over of a task and shape make a smaller batch.
        seed: the training's seed.
        number: the number of the pass, from 1; the order depends on seed and number alone.

    Returns:
        Pairs of task and slice_ids.
    """
    rng = np.random.default_rng(np.random.SeedSequence([_ORDER, seed, number]))
    batches = []
    for task, shapes in slices.items():
        for ids in _by_shape(shapes).values():
            shuffled = [ids[i] for i in rng.permutation(len(ids))]
            batches += [(task, chunk) for chunk in _chunks(shuffled, batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def training_mask(config: TrainConfig, row: IndexRow, number: int) -> Mask:
    """The mask of a training slice in a pass (from 1): new in every pass, and independent of the order of calls."""
    rng = np.random.default_rng(np.random.SeedSequence([_MASKS, config.seed, number, row.slice_id]))
    return draw_mask(config.masks.train, row.columns, rng, padding=(row.pad_left, row.pad_right))


class Samples:
    """Slices by slice_id, read once and then kept in memory up to a limit.

    At the limit, the slices in memory stay, and the others are read from disk each time. Replacing old slices by new
        ones would not help, because an epoch asks for each slice only once.

    Args:
        data: the prepared data to read from.
        limit: the limit in bytes.
    """

    def __init__(self, data: PreparedData, limit: int = CACHE_BYTES) -> None:
        self._data = data
        self._free = limit
        self._kept: dict[int, Sample] = {}
        self._lock = threading.Lock()

    def __getitem__(self, slice_id: int) -> Sample:
        kept = self._kept.get(slice_id)
        if kept is not None:
            return kept
        sample = to_sample(self._data.read(slice_id))
        with self._lock:
            if slice_id not in self._kept and sample.nbytes <= self._free:
                self._kept[slice_id] = sample
                self._free -= sample.nbytes
        return sample


class Loader:
    """The batches of one training.

    Args:
        data: prepared data that hold every task of the configuration.
        config: tasks, slices, masks, batch size and seed.
        workers: threads that read and mask batches ahead of the training; with 0, batches are made on request.
        device: the device that batches are moved to.
        cache_bytes: how much memory slices may take between epochs.

    Attributes:
        slice_counts: training slices of each task.
        steps_per_epoch: number of batches per epoch, the same in every epoch.

    Raises:
        InputError: the data lack a task or have too few slices, or a task has no slice for training or validation.
    """

    def __init__(
        self,
        data: PreparedData,
        config: TrainConfig,
        *,
        workers: int = 0,
        device: torch.device | str = "cpu",
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._config = config
        self._workers = workers
        self._device = torch.device(device)
        self._samples = Samples(data, cache_bytes)
        self._rows: dict[int, IndexRow] = {}
        training = {task: data.subset(task, config.slices.get(task), config.cut) for task in config.tasks}
        validation = {task: data.subset(task, split="val") for task in config.tasks}
        for name, split in (("training", training), ("validation", validation)):
            for task, ids in split.items():
                if not ids:
                    raise InputError(f"{data.path} has no {name} slices of {task}")
                self._rows |= {one: data.row(one) for one in ids}
        self._training = {task: self._shapes(ids) for task, ids in training.items()}
        self._validation = [
            (task, chunk)
            for task, ids in validation.items()
            for group in _by_shape(self._shapes(ids)).values()
            for chunk in _chunks(group, config.batch_size)
        ]
        self.slice_counts = {task: len(ids) for task, ids in training.items()}
        self.steps_per_epoch = len(self._plan(1)) * config.passes

    def _plan(self, number: int) -> list[tuple[str, tuple[int, ...]]]:
        return plan(self._training, self._config.batch_size, self._config.seed, number)

    def training_batches(self, epoch: int) -> Iterator[Batch]:
        """The training batches of an epoch (from 1), each slice with a newly drawn mask in every pass."""
        passes = self._config.passes
        numbers = range((epoch - 1) * passes + 1, epoch * passes + 1)
        steps = [(number, *step) for number in numbers for step in self._plan(number)]
        return self._batches(steps, lambda row, number: training_mask(self._config, row, number))

    def validation_batches(self) -> Iterator[Batch]:
        """The validation split, task by task in a fixed order, with the fixed mask of its width."""
        mask = self._config.masks.val
        steps = [(0, *step) for step in self._validation]
        return self._batches(steps, lambda row, _: fixed(mask, row.columns, (row.pad_left, row.pad_right)))

    def _shapes(self, ids: Iterable[int]) -> dict[int, Shape]:
        return {one: shape_of(self._rows[one]) for one in ids}

    def _batches(
        self, steps: Iterable[tuple[int, str, tuple[int, ...]]], mask_of: Callable[[IndexRow, int], Mask]
    ) -> Iterator[Batch]:
        def make(step: tuple[int, str, tuple[int, ...]]) -> Batch:
            number, task, ids = step
            masks = [mask_of(self._rows[one], number) for one in ids]
            batch = collate([self._samples[one] for one in ids], masks, task)
            return batch.pin_memory() if self._device.type == "cuda" else batch

        for batch in _ahead(make, steps, self._workers):
            yield batch.to(self._device)


def _ahead(make: Callable[[Step], Result], jobs: Iterable[Step], workers: int) -> Iterator[Result]:
    """``map(make, jobs)``, in order, with up to ``workers`` results computed ahead."""
    if workers == 0:
        yield from map(make, jobs)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="loader")
    try:
        pending: deque[Future[Result]] = deque()
        for job in jobs:
            pending.append(pool.submit(make, job))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _by_shape(shapes: Mapping[int, Shape]) -> dict[Shape, list[int]]:
    groups: dict[Shape, list[int]] = {}
    for one, shape in shapes.items():
        groups.setdefault(shape, []).append(one)
    return groups


def _chunks(ids: Sequence[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(ids[start : start + size]) for start in range(0, len(ids), size)]
