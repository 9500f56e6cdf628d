"""Where the samples differ, and how significant that is: scores of toys at given places, corrected p, excesses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparker import _aggregation, _calibration, _starts
from sparker._backends import one_blas_thread
from sparker._pool import BATCH, Weights
from sparker._results import counted_p_value
from sparker._toys import Toys

Array = npt.NDArray[Any]

SHOWN = 6  # coordinates of a centre in print


@dataclass(frozen=True, slots=True, eq=False)
class KernelSummary:
    """One fitted kernel, for reading.

    Attributes
    ----------
    center : ndarray of shape (n_features,)
        In the units of X.
    width : float
        sigma, in the units of X.
    amplitude : float
        a: the log density ratio that the kernel adds at its centre where no other kernel competes.
    sign : int
        +1 for an excess of data, -1 for a deficit, 0 for a kernel that does nothing.
    score : float
        (sum_D k - sum_R w k) / sqrt(V): how far the rows near the centre are from what the reference predicts, in
        standard deviations at a place fixed beforehand. At a fitted place it is biased upwards: it ranks, it does
        not test.
    excess : float
        Data rows more (or fewer) than the reference predicts that this kernel accounts for: its share of
        sum_D (1 - e^-f) over data rows with f > 0, or of sum_R w (e^f - 1) over reference rows with f < 0. Each sum
        runs over the sample that has the rows. Kernels share a row in proportion to their parts f_i of f that have
        its sign: an excess that several of them cover counts once.
    expected_excess : float
        sum_R w (e^f - e^(f - f_i)): how many rows fewer the fitted model would expect without this kernel. Kernels that
        overlap each count what they have in common; where the reference has hardly a row, and where ``amplitude`` is at
        ``max_amplitude``, it is too small, and ``excess`` is what to look at.
    nearest_rows : ndarray of shape (n_nearest,)
        Rows of the data sample nearest to the centre, nearest first, as indices into the array they were passed in.
    """

    center: Array
    width: float
    amplitude: float
    sign: int
    score: float
    excess: float
    expected_excess: float
    nearest_rows: npt.NDArray[np.intp]

    def __str__(self) -> str:
        center = np.array2string(self.center, precision=4, threshold=SHOWN, edgeitems=SHOWN // 2, max_line_width=1000)
        what = {1: "excess", -1: "deficit", 0: "effect"}[self.sign]
        return f"{what} of {abs(self.excess):.1f} rows, score {self.score:+.1f}, at {center}, width {self.width:.3g}"

    def radius(self, level: float = 0.5) -> float:
        """Return the radius of the region around the centre where the kernel is above a level.

        Parameters
        ----------
        level : float, default=0.5
            Share of the kernel's height, in (0, 1).

        Returns
        -------
        radius : float
            sigma sqrt(2 log(1 / level)), in the units of X.

        Raises
        ------
        ValueError
            If `level` is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise ValueError(f"level is {level}: needed is a number between 0 and 1.")
        return float(self.width * np.sqrt(-2 * np.log(level)))


@dataclass(frozen=True, slots=True, eq=False)
class KernelSignificance(KernelSummary):
    """One fitted kernel with its p-values.

    Attributes
    ----------
    center, width, amplitude, sign, score, excess, expected_excess, nearest_rows
        See `KernelSummary`.
    local_pvalue : float
        Share of toys whose squared score at this centre and width is as large. The centre was fitted to these data:
        this p is too small, whatever it is, and only describes.
    corrected_pvalue : float
        Share of toys whose most surprising score, over all their candidates and widths, is as surprising. It allows
        for the search: the chance that any kernel has p <= alpha under the null is at most alpha. A kernel counts no
        more than the best candidate did: where candidates are few, and none is near, p is too large.
    expected_excess_interval : tuple of float
        ``expected_excess`` minus and plus its standard deviation, from the counts of both samples, at the fitted
        centres and width: about 68 % where these were known beforehand, less where they were fitted. nan where
        ``amplitude`` is at ``max_amplitude``, since ``expected_excess`` is too small there, and unless ``loss="np"``.
    """

    local_pvalue: float
    corrected_pvalue: float
    expected_excess_interval: tuple[float, float]

    def __str__(self) -> str:
        return f"{KernelSummary.__str__(self)}, corrected p = {self.corrected_pvalue:.3g}"


def scores_of_toys(toys: Toys, names: Sequence[tuple[int, int]], centers: Array, width: float) -> Array:
    """U / sqrt(V) of kernels at given centres for each toy, shape (n_toys, n_centers); +inf where no toy is drawn.

    Names are the seed and the number of each toy, which are those of `sparker._calibration.simulate`.
    """
    out = np.full((len(names), len(centers)), np.inf)
    for first in range(0, len(names), BATCH):
        drawn = {}
        for i in range(first, min(first + BATCH, len(names))):
            try:
                drawn[i] = toys.draw(_calibration.generator(*names[i]))
            except ValueError:  # a toy that cannot be drawn counts as reaching any score, as in the test itself
                continue
        # Toys on one pool share its kernel matrix; toys with their own are alone.
        batches = [list(drawn)] if toys.pool is not None else [[i] for i in drawn]
        for batch in filter(None, batches):
            pool, weights = drawn[batch[0]][0], [drawn[i][1] for i in batch]
            with one_blas_thread():
                found = _starts.scores_at(pool, weights, centers, width)
            out[batch] = [of_toy.values[0] for of_toy in found]
    return out


def counted(null: Array, observed: Array) -> Array:
    """p-values of observed values (n,) among those of toys (n_toys, n)."""
    return np.array([counted_p_value(int(n), len(null)) for n in _aggregation.exceedances(null, observed)])


def corrected_p_values(null: Array, observed: Array, scores: Array, column: int) -> Array:
    """p-values of kernels of one entry against the most surprising score of each toy, over candidates and widths.

    Narrow kernels have more places to be at, and larger scores by chance. So that no width drowns the others, the
    largest score of each entry is turned into log p by one map for all n_toys + 1 rows, and rows are ranked by their
    smallest log p (the min-P procedure of Westfall and Young, Resampling-Based Multiple Testing, 1993). A kernel has
    moved from its candidate, toys' candidates have not: its score counts at most as the largest one of the observed
    candidates. Then no kernel is more surprising than the observed row, whose rank is uniform.

    Parameters
    ----------
    null : ndarray of shape (n_toys, n_entries)
        Largest squared score of each toy at each width, at all places, where rows are rare, and where they are dense.
    observed : ndarray of shape (n_entries,)
        The same of the observed pair.
    scores : ndarray of shape (n_kernels,)
        Squared scores of the fitted kernels.
    column : int
        Entry of their width, and of where rows are rare or dense if they are.
    """
    rows = np.concatenate([observed[None], null])
    surprise = -_aggregation.extended_log_p(rows)
    finite = rows[np.isfinite(rows[:, column]), column]
    order = np.argsort(finite, kind="stable")
    found = np.maximum.accumulate(surprise[np.isfinite(rows[:, column]), column][order])
    # Between two rows the map is a line, as in its tail: it rises with the score and meets that of the observed row.
    of_kernels = np.interp(np.minimum(scores, observed[column]), finite[order], found)
    return counted(surprise[1:].max(axis=1)[:, None], of_kernels)


def expected_excess(parts: Array, weight: Array, groups: Array) -> Array:
    """sum_R w (e^f - e^(f - f_G)) of groups of kernels, shape (n_groups,); f_G is the sum of their parts f_i of f.

    Parts are those of the reference rows, shape (n_reference, n_kernels); groups are True for their kernels, shape
    (n_groups, n_kernels).
    """
    f = parts.sum(axis=1, keepdims=True)
    return -weight @ (np.exp(f) * np.expm1(-parts @ groups.T))  # without cancellation for weak kernels


def excess_deviation(
    phi_reference: Array,
    phi_data: Array,
    amplitudes: Array,
    groups: Array,
    weights: Weights,
    alpha: float,
    shape_only: bool,
) -> Array:
    """Standard deviation of the `expected_excess` of groups of kernels at fixed centres, shape (n_groups,).

    The amplitudes solve sum_R w e^f phi - sum_D phi + 2 alpha a = 0, so that one more row changes an excess E by its
    influence: g^T H^-1 phi for a data row, and w (e^f - e^(f - f_G) - g^T H^-1 e^f phi) for a reference row, with H the
    Hessian and g = dE/da. The variance is the sum of their squares (the infinitesimal jackknife, Efron, The Jackknife,
    the Bootstrap and Other Resampling Plans, 1982, chapter 6), about their mean where a count is fixed.
    """
    n = len(phi_reference)
    w, count = weights.reference[:n].astype(np.float64), weights.data[n:].astype(np.float64)
    noise = (weights.unit * np.abs(w)) if weights.noise is None else weights.noise[:n].astype(np.float64)
    parts = amplitudes * phi_reference
    grown = np.exp(parts.sum(axis=1, keepdims=True))  # e^f
    without = grown * np.exp(-parts @ groups.T)  # e^(f - f_G)
    hessian = (w[:, None] * grown * phi_reference).T @ phi_reference + 2 * alpha * np.eye(len(amplitudes))
    weighted = w[:, None] * phi_reference
    slope = np.sum(weighted * grown, axis=0) - np.where(groups, 0.0, without.T @ weighted)  # f - f_G has no a_i of G
    pull = np.linalg.lstsq(hessian, slope.T, rcond=None)[0]
    of_data = phi_data @ pull
    of_reference = grown - without - grown * (phi_reference @ pull)
    of_reference -= w @ of_reference / w.sum()  # weights are scaled to a fixed sum
    if shape_only:
        of_data -= count @ of_data / count.sum()
    return np.sqrt(count @ of_data**2 + noise @ of_reference**2)
