"""The function that is minimised: Neyman-Pearson loss plus the penalty on the amplitudes."""

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
    """L + alpha sum_i a_i^2 on one pool with one pair of weights.

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
    """

    pool: Pool
    weights: Weights
    competition: bool
    alpha: float
    backend: Backend

    def __call__(self, amplitudes: Array, centers: Array, width: float) -> Point:
        """Evaluate; a loss that is not finite is a ValueError, never a silent NaN."""
        loss, gradient, hessian, *of_centers = self.backend.value_and_gradient(
            self.pool, self.weights, amplitudes, centers, width, self.competition
        )
        if not np.isfinite(loss):
            raise ValueError(
                f"The loss is {loss} at width {width:.6g}: the features or weights are too large for their dtype. "
                "Rescale the features, or pass float64."
            )
        return Point(
            loss,
            loss + self.alpha * float(amplitudes @ amplitudes),
            gradient + 2 * self.alpha * amplitudes,
            hessian + 2 * self.alpha * np.eye(len(amplitudes)),
            *of_centers,
        )
