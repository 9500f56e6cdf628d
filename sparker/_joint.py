"""The joint score: whether the kernels of one width tell the samples apart together, where no single one does.

A mode that has narrowed, or many small excesses, change many scores a little. With z the scores of K candidates
(`sparker._starts`) and R the overlap of their kernels on the pool, labels unseen,

    R_ij = C_ij / sqrt(C_ii C_jj),   C_ij = sum_x w_x k_i(x) k_j(x) + 0.2 (i = j),

the entry is z^T (R + gamma)^-1 z / d_1 with d_1 = tr R (R + gamma)^-1: the kernel Fisher discriminant ratio (Harchaoui,
Bach and Moulines, NeurIPS 20 (2007)) of these kernels, over d_1. Theirs has the centred covariance; R is that of scores
of Poisson numbers of rows, with one more direction, along which fixed numbers do not vary. As in V of a score a fifth
of a row is added: where few rows are in reach, the more so of a sample, kernels look more alike than their scores are,
and the difference of two of them would be all.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import inv

from sparker._pool import Pool
from sparker._starts import BLOCK, PSEUDO, distances_by_products

Array = npt.NDArray[Any]

MOST = 150  # kernels
SAMPLE = 5000  # rows from which R is learned; where toys learn anew, it is most of their time
RIDGE = 2e-3  # gamma: neighbours overlap, and what tells them apart is noise


@dataclass(frozen=True, slots=True)
class Joint:
    """What is learned of the kernels.

    Attributes
    ----------
    which : ndarray of shape (K,)
        The candidates at which they are.
    matrix : ndarray of shape (K, K)
        (R + gamma)^-1 / d_1.
    """

    which: npt.NDArray[np.intp]
    matrix: Array

    def entry(self, score: Array) -> float:
        """The joint score, from those of all candidates at the width, shape (n_candidates,)."""
        z = score[self.which]
        return float(np.einsum("i,ij,j", z, self.matrix, z))  # no BLAS, whose last bits depend on threads


def learn(pool: Pool, candidates: Array, kept: npt.NDArray[np.bool_], width: float, rng: np.random.Generator) -> Joint:
    """The joint score of kernels of one width at up to `MOST` of the candidates that are `kept` there."""
    which = np.sort(rng.permutation(np.flatnonzero(kept))[:MOST])
    n_rows, pool = min(pool.n_drawn, SAMPLE), pool.thinned(SAMPLE)
    centers = candidates[which].astype(np.float64) - pool.origin
    norms, doubled = np.sum(centers**2, axis=1)[:, None], -2 * centers
    covariance = np.zeros((len(which), len(which)))
    size = max(64, BLOCK // len(which))
    for X, part in pool.parts():
        for start in range(0, len(X), size):
            rows = X[start : start + size].astype(np.float64) - pool.origin
            kernels = np.empty((len(which), len(rows)))
            distances_by_products(rows, doubled, norms, kernels)
            kernels *= -0.5 / width**2
            np.exp(kernels, out=kernels)
            covariance += (kernels * pool.weight[part][start : start + size]) @ kernels.T
    covariance *= n_rows / pool.weight.sum()  # what is added has the same part in what toys learn from fewer rows
    covariance[np.diag_indices_from(covariance)] += PSEUDO
    deviation = np.sqrt(np.diag(covariance))
    inverse = inv(covariance / deviation / deviation[:, None] + RIDGE * np.eye(len(which)))
    return Joint(which, inverse / (len(which) - RIDGE * np.trace(inverse)))
