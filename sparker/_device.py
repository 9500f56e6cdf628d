"""Whole fits on a GPU, none of whose steps waits for the host, and the scores of candidates there."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sparker import _kernels_cupy as device
from sparker._backends import StackedWeights
from sparker._objective import Objective
from sparker._pool import Pool, Weights
from sparker._solvers import NewtonSolver, Paths
from sparker._starts import Scores, ScoreSums, score_weights, standardise

Array = npt.NDArray[Any]

NAMES = [field.name for field in fields(Paths)]

DONE = 3  # as in ``_cuda.cu``
PASSES = 4  # until the host looks which problems go on
ROOM = 0.8  # largest share of the free memory for the weights of toys


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


def device_scores(
    pool: Pool,
    toys: Sequence[Weights],
    candidates: Array,
    widths: Array,
    n_jobs: int | None = 1,
    kept: Array | None = None,
) -> list[Scores]:
    """`sparker._starts.scores` by matrix products on the device, which computes all and needs no `n_jobs`."""
    xp = device.cupy()
    difference, variance = score_weights(toys)
    centers = (candidates - pool.origin).astype(pool.dtype)
    moved, norms = device.send(centers), device.send(np.einsum("kd,kd->k", centers, centers)[:, None])
    score = xp.zeros((len(widths), len(centers), difference.shape[1]))
    spread, reached = (xp.zeros((len(widths), len(centers), variance.shape[1])) for _ in range(2))
    for rows, of_rows, start in device.row_blocks(pool):
        part = slice(start, start + len(rows))
        of_block = device.send(difference[part]), device.send(variance[part])
        distances = xp.maximum(norms - 2 * xp.matmul(moved, rows.T) + of_rows, 0)
        for m, width in enumerate(widths):
            kernels = xp.exp(distances * pool.dtype.type(-0.5 / width**2))
            score[m] += xp.matmul(kernels, of_block[0])
            reached[m] += xp.matmul(kernels, of_block[1])
            spread[m] += xp.matmul(kernels * kernels, of_block[1])
    size = np.asarray(np.sum(np.abs(difference), axis=0, dtype=np.float64))
    some = 1.0 if kept is None else kept[:, :, None]
    score, spread, reached = (some * xp.asnumpy(part) for part in (score, spread, reached))
    return standardise(ScoreSums(score, spread, reached, size), [toy.unit for toy in toys])
