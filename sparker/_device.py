"""Whole fits on a GPU in one launch, and the scores of candidates there."""

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

ROOM = 0.8  # largest share of the free memory for the weights of toys


class CudaNewtonSolver(NewtonSolver):
    """`sparker._solvers.NewtonSolver` with whole fits in one launch, each problem followed by one block of threads.

    Where a thread has no room for the kernels, or the device none for the rows, steps are made on the host and passes
    on the device. As many toys are there at a time as their weights have room.
    """

    def solve(self, objective: Objective, toys: Array, centers: Array, schedule: Array) -> Paths:
        """See `sparker._solvers.Solver`."""
        pool, weights = objective.pool, objective.weights
        fused = objective.loss == "np" and not objective.entropy and device.fits_a_thread(*centers.shape[1:])
        rows = device.resident(pool) if fused else None
        n_toys = max(1, int(ROOM * device.free_memory() / (2 * pool.n_rows * pool.dtype.itemsize)))
        parts = []
        for first in range(0, len(weights.data), n_toys):
            sent = StackedWeights(*(device.send(part[first : first + n_toys]) for part in weights))
            of_part = (toys >= first) & (toys < first + n_toys)
            arguments = replace(objective, weights=sent), toys[of_part] - first, centers[of_part], schedule[of_part]
            parts.append(super().solve(*arguments) if rows is None else self._launch(rows, *arguments))
        return Paths(*(np.concatenate([getattr(part, name) for part in parts]) for name in NAMES))

    def _launch(self, rows: device.Rows, objective: Objective, toys: Array, centers: Array, schedule: Array) -> Paths:
        xp, dtype = device.cupy(), objective.pool.dtype
        n_problems, n_kernels, n_features = centers.shape
        n_recorded, n_steps = schedule.shape[1:]
        curve = xp.full((n_problems, n_recorded * n_steps), np.nan)
        losses = xp.empty((n_problems, n_recorded))
        amplitudes = xp.empty((n_problems, n_recorded, n_kernels))
        moved = xp.empty((n_problems, n_recorded, n_kernels, n_features))
        converged = xp.empty((n_problems, n_recorded), dtype=np.uint8)
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
            *(losses, amplitudes, moved, curve, converged),
        )
        module = device.module(dtype, n_kernels, n_features, objective.competition, objective.loss)
        module.get_function("fit")((n_problems,), (device.THREADS,), arguments)
        losses, amplitudes, moved, curve, converged = map(xp.asnumpy, arguments[-5:])
        return Paths(schedule[:, :, -1], losses, amplitudes, moved, curve, converged.astype(bool))


def device_scores(pool: Pool, toys: Sequence[Weights], candidates: Array, widths: Array) -> list[Scores]:
    """`sparker._starts.scores` by matrix products on the device."""
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
    return standardise(
        ScoreSums(xp.asnumpy(score), xp.asnumpy(spread), xp.asnumpy(reached), size), [toy.unit for toy in toys]
    )
