"""The function that is minimised: the loss plus the penalties on amplitudes and centres."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sparker._backends import Backend
from sparker._pool import Pool, Weights

Array = npt.NDArray[Any]


class Point(NamedTuple):
    """The objective and its derivatives at one point.

    Attributes
    ----------
    loss : float
        Unpenalised L, from which t = -2 L.
    value : float
        What is minimised, L + alpha ||a||^2.
    amplitude_gradient, amplitude_hessian, center_gradient, center_curvature
        Derivatives of ``value``; see `sparker._kernels.Evaluation`.
    """

    loss: float
    value: float
    amplitude_gradient: Array
    amplitude_hessian: Array
    center_gradient: Array
    center_curvature: Array


@dataclass(frozen=True)
class Objective:
    """L + alpha sum_i a_i^2 + entropy L_H on one pool with one pair of weights.

    L_H = -sum_j q(mu_j) log q(mu_j) with q the mean of the kernels is the entropy term of SparKer-NPLM. It falls where
    centres that overlap (q > 1/e) merge and where others draw apart: few places, told apart.

    Attributes
    ----------
    pool, weights : Pool, Weights
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
    weights: Weights
    competition: bool
    alpha: float
    backend: Backend
    loss: str = "np"
    entropy: float = 0.0

    def __call__(self, amplitudes: Array, centers: Array, width: float) -> Point:
        """Evaluate; a loss that is not finite is a ValueError, never a silent NaN."""
        loss, gradient, hessian, center_gradient, curvature = self.backend.value_and_gradient(
            self.pool, self.weights, amplitudes, centers, width, self.competition, self.loss
        )
        if not np.isfinite(loss):
            raise ValueError(
                f"The loss is {loss} at width {width:.6g}: the features or weights are too large for their dtype. "
                "Rescale the features, or pass float64."
            )
        penalty = self.alpha * float(amplitudes @ amplitudes)
        if self.entropy:
            entropy, slope = center_entropy(centers, width)
            penalty += self.entropy * entropy
            center_gradient = center_gradient + self.entropy * slope
        return Point(
            loss,
            loss + penalty,
            gradient + 2 * self.alpha * amplitudes,
            hessian + 2 * self.alpha * np.eye(len(amplitudes)),
            center_gradient,
            curvature,
        )

    def neyman_pearson(self, amplitudes: Array, centers: Array, width: float) -> float:
        """Return the Neyman-Pearson loss, of which t is made whatever loss trained f."""
        loss = self.backend.value_and_gradient(
            self.pool, self.weights, amplitudes, centers, width, self.competition, "np"
        ).value
        return float(loss)


def center_entropy(centers: Array, width: float) -> tuple[float, Array]:
    """L_H and its gradient in the centres, shape (M, d)."""
    offsets = centers[None] - centers[:, None]
    kernels = np.exp(np.sum(offsets**2, axis=2) * (-0.5 / width**2))
    q = kernels.mean(axis=1)
    slope = -(np.log(q) + 1)
    pairs = (slope[:, None] + slope) * kernels / (len(centers) * width**2)
    return float(-np.sum(q * np.log(q))), np.einsum("il,ild->id", pairs, offsets)
