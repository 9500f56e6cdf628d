"""Whole fits on a GPU, none of whose steps waits for the host, and the scores and companions of toys there."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sparker import _kernels_cupy as device
from sparker._backends import StackedWeights, stack
from sparker._companions import Moments, Sums, entries
from sparker._objective import Objective
from sparker._pool import DEVICE_THREADS, Pool, Weights
from sparker._solvers import NewtonSolver, Paths
from sparker._starts import Scores, ScoreSums, standardise

Array = npt.NDArray[Any]

NAMES = [field.name for field in fields(Paths)]

DONE = 3  # as in ``_cuda.cu``
PASSES = 4  # until the host looks which problems go on
ROOM = 0.8 / DEVICE_THREADS  # largest share of the free memory for the weights of the toys of a batch


class CudaNewtonSolver(NewtonSolver):
    """`sparker._solvers.NewtonSolver` without the host: it waits for no step.

    Where a thread has room for the kernels, a fit is one launch in which a block of threads follows each problem. Else
    passes are matrix products and a kernel makes the steps between them; the host looks now and then which problems go
    on. More than 16 kernels, or other losses, take their steps on the host. As many toys are on the device at a time
    as their weights have room.
    """

    def solve(self, objective: Objective, toys: Array, centers: Array, schedule: Array) -> Paths:
        """See `sparker._solvers.Solver`."""
        pool, weights = objective.pool, objective.weights
        n_kernels, n_features = centers.shape[1:]
        plain = n_kernels <= device.FUSED_KERNELS and objective.loss == "np" and not objective.entropy
        rows = device.resident(pool) if plain and device.fits_a_thread(n_kernels, n_features) else None
        n_toys = max(1, int(ROOM * device.free_memory() / (2 * pool.n_rows * pool.dtype.itemsize)))
        parts = []
        for first in range(0, len(weights.data), n_toys):
            sent = StackedWeights(*(device.send(part[first : first + n_toys]) for part in weights))
            of_part = (toys >= first) & (toys < first + n_toys)
            arguments = replace(objective, weights=sent), toys[of_part] - first, centers[of_part], schedule[of_part]
            if rows is not None:
                parts.append(self._launch(rows, *arguments))
            else:
                parts.append(self._advance(*arguments) if plain else super().solve(*arguments))
        return Paths(*(np.concatenate([getattr(part, name) for part in parts]) for name in NAMES))

    def _launch(self, rows: device.Rows, objective: Objective, toys: Array, centers: Array, schedule: Array) -> Paths:
        dtype = objective.pool.dtype
        n_problems, n_kernels, n_features = centers.shape
        n_recorded, n_steps = schedule.shape[1:]
        record = _record(centers.shape, schedule.shape)
        arguments = (
            rows.columns,
            rows.boxes,
            np.int64(objective.pool.n_rows),
            *objective.weights,
            device.send(toys.astype(np.int32)),
            device.send(centers.astype(np.float64)),
            device.send(schedule.astype(np.float64)),
            np.int32(n_recorded),
            np.int32(n_steps),
            *map(np.float64, (objective.alpha, self.max_amplitude, self.tol, self.reach)),
            np.int32(self.max_polish),
            np.float64(np.log(0.25 * np.finfo(dtype).eps)),  # as in `sparker._kernels_numba`
            *record,
        )
        module = device.module(dtype, n_kernels, n_features, objective.competition, objective.loss)
        module.get_function("fit")((n_problems,), (device.THREADS,), arguments)
        return _paths(schedule, record)

    def _advance(self, objective: Objective, toys: Array, centers: Array, schedule: Array) -> Paths:
        """Passes by matrix products, and a step of every problem between two of them."""
        xp, pool = device.cupy(), objective.pool
        n_problems, m, d = centers.shape
        record = _record(centers.shape, schedule.shape)
        state = xp.zeros((n_problems, 5), dtype=np.int32)
        widths, trial = device.send(schedule[:, 0, 0].astype(np.float64)), xp.zeros((n_problems, m))
        trial_centers = device.send(centers.astype(np.float64))
        shapes = (m,), (m, d), (), (), (m,), (m, m), (m, d), (m,)
        at = [xp.zeros((n_problems, *shape)) for shape in shapes]
        step, shift, before, promise = (xp.zeros((n_problems, *shape)) for shape in ((m,), (m, d), (), ()))
        memory = (*at, trial, trial_centers, step, shift, widths, before, promise, state)
        given = (
            np.int32(d),
            device.send(schedule.astype(np.float64)),
            *map(np.int32, schedule.shape[1:]),
            *map(np.float64, (objective.alpha, self.max_amplitude, self.tol, self.reach)),
            np.int32(self.max_polish),
        )
        sums, center_sums = xp.zeros((n_problems, 1 + 2 * m + m * (m + 1) // 2)), xp.zeros(centers.shape)
        function = device.module(pool.dtype, m, 1, objective.competition, objective.loss).get_function("advance_all")
        toys_there = device.send(toys.astype(np.int32))
        going = np.arange(n_problems)
        while len(going):
            for _ in range(PASSES):
                some = toys_there[going], trial[going], trial_centers[going], widths[going]
                found = device.pass_over_rows(pool, objective.weights, *some, objective.competition, objective.loss)
                sums[going], center_sums[going] = found
                function((n_problems,), (device.THREADS,), (*given, sums, center_sums, *memory, *record))
            going = np.flatnonzero(xp.asnumpy(state[:, 0]) != DONE)
        return _paths(schedule, record)


def _record(shape: tuple[int, ...], of_schedule: tuple[int, ...]) -> tuple[Any, ...]:
    """Room on the device for losses, amplitudes, centres, curve and convergence of `Paths`."""
    xp, (n_problems, n_kernels, n_features) = device.cupy(), shape
    rows = n_problems, of_schedule[1]
    return (
        xp.full(rows, np.nan),
        xp.zeros((*rows, n_kernels)),
        xp.zeros((*rows, n_kernels, n_features)),
        xp.full((n_problems, of_schedule[1] * of_schedule[2]), np.nan),
        xp.zeros(rows, dtype=np.uint8),
    )


def _paths(schedule: Array, record: tuple[Any, ...]) -> Paths:
    losses, amplitudes, centers, curve, converged = map(device.cupy().asnumpy, record)
    return Paths(schedule[:, :, -1], losses, amplitudes, centers, curve, converged.astype(bool))


def device_stack(toys: Sequence[Weights], order: Array) -> StackedWeights:
    """`sparker._backends.stack` on the device, or on the host where there is no room for all toys."""
    if 2 * len(toys) * len(order) * toys[0].data.dtype.itemsize > ROOM / 2 * device.free_memory():
        return stack(toys, order)
    xp, there = device.cupy(), device.send(order)
    given = [toy.reference for toy in toys], [toy.data for toy in toys]
    return StackedWeights(*(xp.take(device.send(np.stack(part)), there, axis=1) for part in given))


def device_share(
    pool: Pool, toys: Sequence[Weights], candidates: Array, widths: Array, kept: Array, moments: Moments | None
) -> tuple[Sequence[Scores | None], Array]:
    """`sparker._starts.scores` and `sparker._companions.companions` of every toy, in one pass.

    No scores without candidates, no companions without moments.
    """
    n_toys = len(toys)
    scores = _ScoreSums(pool, candidates, widths, n_toys) if len(candidates) else None
    companions = None if moments is None else _CompanionSums(pool, moments, n_toys)
    for block in _weighted_blocks(pool, toys):
        for sums in (scores, companions):
            if sums is not None:
                sums.add(*block)
    units = [toy.unit for toy in toys]
    return (
        [None] * n_toys if scores is None else standardise(scores.found(kept), units),
        np.empty((n_toys, 0)) if companions is None else entries(companions.found(), companions.moments),
    )


def _weighted_blocks(pool: Pool, toys: Sequence[Weights]) -> Iterator[tuple[Any, Any, Any, Any, slice]]:
    """Rows less the origin, their squared norms, and of all toys c - w and v (`sparker._starts`), (n_toys, n_block)."""
    units = device.send(np.array([[toy.unit] for toy in toys], dtype=pool.dtype))
    given = [[toy.data for toy in toys], [toy.reference for toy in toys]]
    if not all(toy.plain for toy in toys):
        given.append([toy.spread() for toy in toys])
    for rows, norms, start in device.row_blocks(pool):
        block = slice(start, start + len(rows))
        data, reference, *spread = (device.send(np.stack([of_toy[block] for of_toy in part])) for part in given)
        yield rows, norms, data - reference, spread[0] if spread else reference + units * data, block


class _ScoreSums:
    """Running `sparker._starts.ScoreSums`, by matrix products."""

    def __init__(self, pool: Pool, candidates: Array, widths: Array, n_toys: int) -> None:
        xp = device.cupy()
        centers = (candidates - pool.origin).astype(pool.dtype)
        self.centers, self.norms = device.send(centers), device.send(np.einsum("kd,kd->k", centers, centers)[:, None])
        self.scales = [pool.dtype.type(-0.5 / width**2) for width in widths]
        shape = len(widths), len(centers), n_toys
        self.score, self.spread, self.reached = (xp.zeros(shape) for _ in range(3))

    def add(self, rows: Any, norms: Any, difference: Any, variance: Any, block: slice) -> None:
        """Add a block of rows."""
        xp = device.cupy()
        distances = xp.maximum(self.norms - 2 * xp.matmul(self.centers, rows.T) + norms, 0)
        for m, scale in enumerate(self.scales):
            kernels = xp.exp(distances * scale)
            self.score[m] += xp.matmul(kernels, difference.T)
            self.reached[m] += xp.matmul(kernels, variance.T)
            self.spread[m] += xp.matmul(kernels * kernels, variance.T)

    def found(self, kept: Array) -> ScoreSums:
        """The sums, 0 where a candidate is not kept."""
        score, spread, reached = (device.cupy().asnumpy(part) for part in (self.score, self.spread, self.reached))
        some = kept[:, :, None]
        return ScoreSums(some * score, some * spread, some * reached)


class _CompanionSums:
    """Running `sparker._companions.Sums`."""

    def __init__(self, pool: Pool, moments: Moments, n_toys: int) -> None:
        xp = device.cupy()
        self.moments = moments
        self.offset, self.deviation = device.send(pool.origin - moments.mean), device.send(moments.deviation)
        self.distances = device.send(moments.squared_distances)
        self.moved = xp.zeros((pool.n_features, n_toys))
        self.spread, self.noise, self.variance, self.size = (xp.zeros(n_toys) for _ in range(4))

    def add(self, rows: Any, norms: Any, difference: Any, variance: Any, block: slice) -> None:
        """Add a block of rows."""
        xp, distances = device.cupy(), self.distances[block]
        difference, variance = difference.astype(np.float64), variance.astype(np.float64)
        self.moved += xp.matmul(((rows + self.offset) / self.deviation).T, difference.T)
        self.spread += xp.matmul(difference, distances)
        self.noise += xp.matmul(variance, distances * distances)
        self.variance += xp.sum(variance, axis=1)
        self.size += xp.sum(xp.abs(difference), axis=1)

    def found(self) -> Sums:
        """The sums."""
        return Sums(*map(device.cupy().asnumpy, (self.moved, self.spread, self.noise, self.variance, self.size)))
