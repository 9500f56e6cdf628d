"""The function that is minimised: the loss plus the penalties on amplitudes and centres, for many problems at once."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sparker._backends import Backend, Kernels, StackedWeights
from sparker._pool import Pool

Array = npt.NDArray[Any]


class Point(NamedTuple):
    """The objective and its derivatives at one point of each of P problems.

    Attributes
    ----------
    loss : ndarray of shape (P,)
        Unpenalised L, from which t = -2 L.
    value : ndarray of shape (P,)
        What is minimised, L + alpha ||a||^2.
    amplitude_gradient, amplitude_hessian, center_gradient, center_curvature
        Derivatives of ``value``, of shape (P, M), (P, M, M), (P, M, d), (P, M); see `sparker._kernels.Evaluation`.
    """

    loss: Array
    value: Array
    amplitude_gradient: Array
    amplitude_hessian: Array
    center_gradient: Array
    center_curvature: Array


@dataclass(frozen=True)
class Objective:
    """L + alpha sum_i a_i^2 + entropy L_H on one pool, with the weights of one or more toys.

    L_H = -sum_j q(mu_j) log q(mu_j) with q the mean of the kernels is the entropy term of SparKer-NPLM. It falls where
    centres that overlap (q > 1/e) merge and where others draw apart: few places, told apart.

    Attributes
    ----------
    pool, weights : Pool, StackedWeights
        The samples.
    competition : bool
        Softmax gate.
    alpha : float
        L2 penalty of the amplitudes.
    backend : Backend
        Who computes the sums.
    loss : {"np", "bce", "mse"}
        Which L is minimised.
    entropy : float
        Factor of the entropy term.
    """

    pool: Pool
    weights: StackedWeights
    competition: bool
    alpha: float
    backend: Backend
    loss: str = "np"
    entropy: float = 0.0

    def __call__(self, kernels: Kernels) -> Point:
        """Evaluate; values that are not finite are left to the caller."""
        loss, gradient, hessian, center_gradient, curvature = self.backend.value_and_gradient(
            self.pool, self.weights, kernels, self.competition, self.loss
        )
        amplitudes = kernels.amplitudes
        penalty = self.alpha * np.sum(amplitudes**2, axis=1)
        if self.entropy:
            entropy, slope = center_entropy(kernels.centers, kernels.widths)
            penalty += self.entropy * entropy
            center_gradient = center_gradient + self.entropy * slope
        return Point(
            loss,
            loss + penalty,
            gradient + 2 * self.alpha * amplitudes,
            hessian + 2 * self.alpha * np.eye(amplitudes.shape[1]),
            center_gradient,
            curvature,
        )

    def neyman_pearson(self, kernels: Kernels) -> Array:
        """Return the Neyman-Pearson losses, of which t is made whatever loss trained f."""
        found = self.backend.value_and_gradient(self.pool, self.weights, kernels, self.competition, "np")
        return np.asarray(found.value)


def center_entropy(centers: Array, widths: Array) -> tuple[Array, Array]:
    """L_H and its gradient in the centres, of shape (P,) and (P, M, d)."""
    offsets = centers[:, None] - centers[:, :, None]
    squared = widths[:, None, None] ** 2
    kernels = np.exp(np.sum(offsets**2, axis=3) * (-0.5 / squared))
    q = kernels.mean(axis=2)
    slope = -(np.log(q) + 1)
    pairs = (slope[:, :, None] + slope[:, None]) * kernels / (centers.shape[1] * squared)
    return -np.sum(q * np.log(q), axis=1), np.einsum("pil,pild->pid", pairs, offsets)
