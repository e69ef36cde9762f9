"""Turn prepared slices into the network's batches: scaled, in the operator's space, masked, shuffled.

A pass sees every training slice once. An epoch is one pass, unless the configuration asks for more. The order of a
pass's batches and the mask of every slice depend on (seed, pass, slice) alone. So it does not matter which thread makes
a batch, and a resumed training sees the same batches as an uninterrupted one. ``recon.data.prepared`` stores the
slices, ``recon.physics.masks`` draws the masks.

Masks of whole columns are applied in hybrid space, where the network is faster; masks of single samples in centred
k-space (``recon.physics.operators``).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.config import TrainConfig
from recon.data.index import IndexRow
from recon.data.prepared import PreparedData, Slice
from recon.data.splits import seeded_number
from recon.errors import InputError
from recon.physics.masks import Mask, draw_mask, fixed
from recon.physics.operators import Cartesian, ColumnSense, Sense, to_hybrid

CACHE_BYTES = 2 * 1024**3

# The first integer of every seed sequence, so that no two kinds of draw share a stream. (Without it [seed, pass] and
# [seed, pass, 0] would be the same one: NumPy pads a seed sequence with zeros.)
_ORDER, _MASKS = 1, 2

Step = TypeVar("Step")
Result = TypeVar("Result")


class Batch(NamedTuple):
    """Slices of one task and one shape, divided by their volumes' scale: the network's input."""

    kspace: Tensor
    """(batch, coils, rows, columns) complex64, masked, in the operator's space."""
    maps: Tensor
    """(batch, coils, rows, columns) complex64, as the operator takes them; (batch, sets, coils, rows, columns) where
    there are several sets."""
    mask: Tensor
    """(batch, 1, 1, columns) bool where whole columns are kept, else (batch, 1, rows, columns)."""
    target: Tensor
    """(batch, rows, columns) complex64; (batch, sets, rows, columns) where there are several sets of maps."""
    task: str
    scale: Tensor
    """(batch,) float32: the scale by which k-space and target were divided."""
    crop: tuple[int, int]
    """The centre region (rows, columns) on which losses and metrics are computed."""
    slice_ids: tuple[int, ...]
    hybrid: bool
    """Whether k-space and maps are in hybrid space (``recon.physics.operators.to_hybrid``); centred otherwise."""

    def operator(self) -> Cartesian:
        """The acquisition operator of the batch; the batch's k-space is in its space."""
        return ColumnSense(self.maps, self.mask) if self.hybrid else Sense(self.maps, self.mask)

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
    """One slice, not yet masked; it is kept in memory between epochs."""

    kspace: Tensor
    """(coils, rows, columns) complex64, divided by the scale."""
    maps: Tensor
    """(coils, rows, columns) or (sets, coils, rows, columns) complex64."""
    target: Tensor
    """(rows, columns) or (sets, rows, columns) complex64, divided by the scale."""
    row: IndexRow
    acquired: NDArray[np.bool_] | None
    """(rows, columns): the samples that there are, of k-space in centred space; None in hybrid space."""

    @property
    def nbytes(self) -> int:
        """Size of its tensors in bytes."""
        return self.kspace.nbytes + self.maps.nbytes + self.target.nbytes


def to_sample(piece: Slice, by_sample: bool = False) -> Sample:
    """Divide a stored slice by its volume's scale, and bring it into hybrid space unless masks keep single samples.

    Args:
        piece: the slice.
        by_sample: what masks keep: single samples, or whole columns.
    """
    kspace, maps = torch.from_numpy(piece.kspace) / piece.row.scale, torch.from_numpy(piece.maps)
    acquired = np.asarray(piece.kspace.any(axis=0)) if by_sample else None
    if not by_sample:
        kspace, maps = to_hybrid(kspace, maps)
    return Sample(kspace, maps, torch.from_numpy(piece.target) / piece.row.scale, piece.row, acquired)


def collate(samples: Sequence[Sample], masks: Sequence[Mask], task: str) -> Batch:
    """Mask samples of one shape and put them together; all masks keep columns, or all keep single samples.

    A mask of single samples keeps none that its slice lacks.
    """
    kept = [
        mask.kept if sample.acquired is None else mask.within(sample.acquired).kept
        for sample, mask in zip(samples, masks, strict=True)
    ]
    hybrid = samples[0].acquired is None
    mask = torch.from_numpy(np.stack(kept))
    mask = mask[:, None, None, :] if hybrid else mask[:, None]
    first = samples[0].row
    return Batch(
        kspace=torch.stack([sample.kspace for sample in samples]).mul_(mask),
        maps=torch.stack([sample.maps for sample in samples]),
        mask=mask,
        target=torch.stack([sample.target for sample in samples]),
        task=task,
        scale=torch.tensor([sample.row.scale for sample in samples]),
        crop=(first.crop_rows, first.crop_columns),
        slice_ids=tuple(sample.row.slice_id for sample in samples),
        hybrid=hybrid,
    )


def to_batch(slices: Sequence[Slice], masks: Sequence[Mask], task: str) -> Batch:
    """Make a batch of stored slices of one shape, each with its mask."""
    return collate([to_sample(piece, masks[0].by_sample) for piece in slices], masks, task)


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
    """The mask of a training slice in a pass (from 1): new in every pass, and independent of the order of calls.

    It is keyed by the names of volume and slice, so that other volumes of the data set do not change it.
    """
    rng = np.random.default_rng(seeded_number(_MASKS, config.seed, number, row.volume, row.slice))
    return draw_mask(config.masks.train, row.shape, rng, row.padding)


class Samples:
    """Slices, read once and then kept in memory up to a limit.

    At the limit, the slices in memory stay, and the others are read from disk each time. Replacing old slices by new
    ones would not help, because an epoch asks for each slice only once.

    Args:
        data: the prepared data to read from.
        limit: the limit in bytes.
    """

    def __init__(self, data: PreparedData, limit: int = CACHE_BYTES) -> None:
        self._data = data
        self._free = limit
        self._kept: dict[tuple[int, bool], Sample] = {}
        self._lock = threading.Lock()

    def get(self, slice_id: int, by_sample: bool = False) -> Sample:
        """A slice as ``to_sample`` makes it."""
        key = (slice_id, by_sample)
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        sample = to_sample(self._data.read(slice_id), by_sample)
        with self._lock:
            if key not in self._kept and sample.nbytes <= self._free:
                self._kept[key] = sample
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

    def validation_batches(self, tasks: Container[str] | None = None) -> Iterator[Batch]:
        """The validation split, task by task in a fixed order, with the fixed mask of its shape; of these tasks, or all
        of the configuration."""
        mask = self._config.masks.val
        steps = [(0, *step) for step in self._validation if tasks is None or step[0] in tasks]
        return self._batches(steps, lambda row, _: fixed(mask, row.shape, row.padding))

    def _shapes(self, ids: Iterable[int]) -> dict[int, Shape]:
        return {one: shape_of(self._rows[one]) for one in ids}

    def _batches(
        self, steps: Iterable[tuple[int, str, tuple[int, ...]]], mask_of: Callable[[IndexRow, int], Mask]
    ) -> Iterator[Batch]:
        def make(step: tuple[int, str, tuple[int, ...]]) -> Batch:
            number, task, ids = step
            masks = [mask_of(self._rows[one], number) for one in ids]
            batch = collate([self._samples.get(one, masks[0].by_sample) for one in ids], masks, task)
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
