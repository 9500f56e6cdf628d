"""Beyond the toys: p from a tail that is fitted to them, checked, and given with its uncertainty."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import gammaincc, gammaln, ndtri_exp, polygamma, psi

from sparker._aggregation import RULES, TAIL, reached

Array = npt.NDArray[Any]

MODELS = ("gamma", "chi2", "pareto")

MIN_TOYS = 100  # the upper fifth of fewer is less than 20 toys: nothing to fit
MIN_ABOVE = 10  # toys above a threshold, where many tie
MAX_SHAPE = 0.1  # of the generalised Pareto distribution: 0 is an exponential tail
HELD = 5.0  # scales above the threshold; a tail with an end would give p = 0 beyond it
MIN_GOODNESS = 0.01
N_RESAMPLED = 200
N_CHECKS = 199
LEVEL = 0.95
STEPS = 8  # of Newton's method; quadratic from a start that is good to a few per cent


@dataclass(frozen=True, slots=True)
class Tail:
    """Tails of several samples: log p above a threshold, with the counted p where they meet.

    The threshold u is the 80 % quantile of the sample, and for x > u p = p(u) S(x) / S(u), where p(u) is the share of
    rows above u, counted with the observed one among them, and S the survival function of the model:

    - "gamma": fitted by maximum likelihood to all values above 0, which leaves an atom at 0 out;
    - "chi2": the same with the scale held at that of a chi-squared distribution, 2 in units of t, so that the degrees
      of freedom are all there is to fit. The aggregate has no such unit: there the scale is fitted too, which makes it
      the gamma distribution;
    - "pareto": generalised Pareto for the excess over u, by probability-weighted moments (Hosking and Wallis,
      Technometrics 29 (1987) 339), with the shape held in [-0.1, 0.1]. Where it is negative the hazard is held from 5
      scales above u on: a distribution that ends would give p = 0.

    Attributes
    ----------
    model : str
    threshold, log_share, shape, scale, at_threshold : ndarray of shape (m,)
        u, log p(u), the parameters, and log S(u); not finite where nothing can be fitted.
    """

    model: str
    threshold: Array
    log_share: Array
    shape: Array
    scale: Array
    at_threshold: Array

    def log_p(self, x: Array) -> Array:
        """Log p at x of shape (m,), one at or above each threshold."""
        if self.model == "pareto":
            log_survival = _pareto_log_survival(np.maximum(x - self.threshold, 0) / self.scale, self.shape)
        else:
            log_survival = _gamma_log_survival(x / self.scale, self.shape)
        return self.log_share + (log_survival - self.at_threshold)

    def above(self, x: Array) -> Array:
        """Where x of shape (m, n) is above the threshold, and no tie with it."""
        return reached(x) > self.threshold[:, None]

    def extend(self, log_p: Array, x: Array) -> Array:
        """`log_p`, from the tail where x is above the threshold and there is one; all of shape (m, n)."""
        log_p, above = log_p.copy(), self.above(x)
        with np.errstate(all="ignore"):
            tail = self.at(np.nonzero(above)[0]).log_p(x[above])
        log_p[above] = np.where(np.isfinite(tail), tail, log_p[above])
        return log_p

    def at(self, rows: Array) -> "Tail":
        """The tails of some of the samples."""
        fields = (self.threshold, self.log_share, self.shape, self.scale, self.at_threshold)
        return Tail(self.model, *(part[rows] for part in fields))


def fit(values: Array, model: str) -> Tail:
    """Tails of the rows of `values` of shape (m, n)."""
    u = np.quantile(values, 1 - TAIL, axis=1, method="higher")
    above = reached(values) > u[:, None]
    with np.errstate(all="ignore"):
        if model == "pareto":
            shape, scale = _fit_pareto(values, above, u)
            at_threshold = np.zeros(len(u))
        else:
            shape, scale = _fit_gamma(values) if model == "gamma" else _fit_chi2(values)
            at_threshold = _gamma_log_survival(u / scale, shape)
    return Tail(model, u, np.log((1 + above.sum(axis=1)) / (1 + values.shape[1])), shape, scale, at_threshold)


def goodness(tail: Tail, values: Array, rng: np.random.Generator) -> Array:
    """Probability, under the fitted model, of an Anderson-Darling distance as large as that of the upper fifth.

    The null of the distance is that of samples drawn from the model and fitted anew (parametric bootstrap; Stute et
    al., Metrika 40 (1993) 243). Values of shape (m, n) give shape (m,); 0 where there is no fit.
    """
    out = np.zeros(len(values))
    size = max(1, 2_000_000 // values.shape[1])  # of a block of samples, to bound memory
    for k, sample in enumerate(values):
        one = tail.at(np.array([k]))
        distance = _distance(one, sample[None])[0]
        if not np.isfinite(distance) or one.above(sample[None]).sum() < MIN_ABOVE:
            continue
        n_reached = 0
        for start in range(0, N_CHECKS, size):
            drawn = _draw(one, sample, min(size, N_CHECKS - start), rng)
            n_reached += int(np.sum(_distance(fit(drawn, tail.model), drawn) >= distance))
        out[k] = (1 + n_reached) / (1 + N_CHECKS)
    return out


@dataclass(frozen=True, slots=True)
class Extrapolation:
    """p of observed rows beyond the toys: at each scale, then of the aggregate.

    Attributes
    ----------
    log_p, z, low, high : ndarray of shape (..., n_scales + 1)
        NaN where the fit was refused; ``low`` and ``high`` are the 95 % band of Z.
    goodness : ndarray of shape (n_scales + 1,)
    note : str
        Why the aggregate has no tail; empty where it has one.
    """

    log_p: Array
    z: Array
    low: Array
    high: Array
    goodness: Array
    note: str


def extrapolate(null: Array, observed: Array, rule: str, model: str, rng: np.random.Generator) -> Extrapolation:
    """Find p of observed rows from tails fitted to the toys.

    Each scale's log p is counted up to the 80 % quantile and comes from its tail above, by one map for toys and
    observed row, made from the toys; a scale whose fit is refused stays counted. The rule joins them to an aggregate
    that is no longer bounded by ranks, and to which another tail is fitted. A lone scale needs no second fit: its p is
    that of the aggregate. The band comes from resampled toys, for which all of this is done anew.

    Parameters
    ----------
    null : ndarray of shape (n_toys, n_scales)
    observed : ndarray of shape (..., n_scales)
    rule : key of `sparker._aggregation.RULES`
    model : element of `MODELS`
    rng : Generator
    """
    n, n_scales = null.shape
    shape = (*observed.shape[:-1], n_scales + 1)
    if reason := _reason_against(null, model):
        nothing = np.full(shape, np.nan)
        return Extrapolation(nothing, nothing, nothing, nothing, np.zeros(n_scales + 1), reason)
    rows = observed.reshape(-1, n_scales)
    fine = goodness(fit(null.T, model), null.T, rng)
    used = fine >= MIN_GOODNESS
    log_p, toys = _evaluate(null, rows, rule, model, used)
    fine = np.append(fine, fine if n_scales == 1 else goodness(fit(toys[None], _unitless(model)), toys[None], rng))
    resampled = [_evaluate(null[rng.integers(n, size=n)], rows, rule, model, used)[0] for _ in range(N_RESAMPLED)]
    tails = 0.5 * (1 - LEVEL)
    low, high = -ndtri_exp(
        np.quantile(resampled, [1 - tails, tails], axis=0)
    )  # of log p, which is 0, not inf, at p = 1
    supported = np.where(fine >= MIN_GOODNESS, 0.0, np.nan)
    note = "" if fine[-1] >= MIN_GOODNESS else f"goodness of fit p = {fine[-1]:.2g} < {MIN_GOODNESS:g}"
    log_p, z, low, high = ((part + supported).reshape(shape) for part in (log_p, -ndtri_exp(log_p), low, high))
    return Extrapolation(log_p, z, low, high, fine, note)


def _reason_against(null: Array, model: str) -> str:
    if len(null) < MIN_TOYS:
        return f"{len(null)} toys are fewer than the {MIN_TOYS} that a tail needs"
    if not np.all(np.isfinite(null)):
        return "a failed toy reaches every statistic, so that p has no tail"
    if model != "pareto" and np.any(null < 0):
        return f'a statistic below 0 has no {model} distribution: tail="pareto" fits any'
    return ""


def _evaluate(null: Array, rows: Array, rule: str, model: str, used: Array) -> tuple[Array, Array]:
    """Log p of each row at each scale and of the aggregate, shape (m, n_scales + 1), and the aggregates of the toys."""
    scales = fit(null.T, model)
    at_rows, at_toys = (
        np.where(used, scales.extend(counted.T, x.T).T, counted)
        for x, counted in ((x, _counted_log_p(null, x)) for x in (rows, null))
    )
    aggregates, toys = RULES[rule][1](at_rows)[:, None], RULES[rule][1](at_toys)
    if len(used) == 1:
        return np.repeat(at_rows, 2, axis=1), toys
    counted = _counted_log_p(toys[:, None], aggregates)
    last = fit(toys[None], _unitless(model)).extend(counted.T, aggregates.T).T
    return np.concatenate([at_rows, last], axis=1), toys


def _counted_log_p(null: Array, x: Array) -> Array:
    """Log of (1 + number of toys that reach x) / (1 + n_toys), at each scale; x of shape (m, n_scales)."""
    n, ordered, thresholds = len(null), np.sort(null, axis=0), reached(x)
    below = [np.searchsorted(ordered[:, k], thresholds[:, k], side="left") for k in range(null.shape[1])]
    return np.log((1 + n - np.stack(below, axis=1)) / (1 + n))


def _unitless(model: str) -> str:
    """Model of an aggregate, whose scale means nothing."""
    return "gamma" if model == "chi2" else model


def _fit_gamma(values: Array) -> tuple[Array, Array]:
    """Shape and scale by maximum likelihood (T. Minka, "Estimating a gamma distribution", 2002)."""
    mean, mean_log = _positive_means(values)
    s = np.log(mean) - mean_log
    shape = (3 - s + np.sqrt((s - 3) ** 2 + 24 * s)) / (12 * s)
    for _ in range(STEPS):
        step = (np.log(shape) - psi(shape) - s) / (shape**2 * (1 / shape - polygamma(1, shape)))
        shape = 1 / (1 / shape + step)
    return shape, mean / shape


def _fit_chi2(values: Array) -> tuple[Array, Array]:
    """Half the degrees of freedom by maximum likelihood, and the scale 2: psi(shape) = mean log(x / 2)."""
    _, mean_log = _positive_means(values)
    y = mean_log - np.log(2)
    shape = np.where(y > -2.22, np.exp(y) + 0.5, -1 / (y - psi(1)))  # Minka, "Estimating a Dirichlet distribution"
    for _ in range(STEPS):
        shape = shape - (psi(shape) - y) / polygamma(1, shape)
    return shape, np.full_like(shape, 2.0)


def _positive_means(values: Array) -> tuple[Array, Array]:
    positive = values > 0
    n = positive.sum(axis=1)
    logs = np.log(np.where(positive, values, 1.0))
    return np.where(positive, values, 0.0).sum(axis=1) / n, logs.sum(axis=1) / n


def _fit_pareto(values: Array, above: Array, u: Array) -> tuple[Array, Array]:
    m = above.sum(axis=1)
    excess = np.where(above, values - u[:, None], 0.0)
    excess = -np.sort(-excess, axis=1)[:, : max(1, int(m.max()))]  # largest first
    mean = excess.sum(axis=1) / m
    weighted = excess @ np.arange(excess.shape[1]) / (m * (m - 1.0))
    shape = np.clip(2 - mean / (mean - 2 * weighted), -MAX_SHAPE, MAX_SHAPE)
    return shape, mean * (1 - shape)


def _gamma_log_survival(x: Array, shape: Array) -> Array:
    """Log of the survival function of a gamma distribution of scale 1, also where that is below the smallest float."""
    x = np.maximum(x, 0.0)
    direct = np.log(np.maximum(gammaincc(shape, x), np.finfo(np.float64).tiny))
    # first convergent of Legendre's continued fraction, good to a part in a thousand where the direct value is lost
    far = shape * np.log(np.maximum(x, 1.0)) - x - np.log(np.maximum(x + 1 - shape, 1.0)) - gammaln(shape)
    return np.where(direct > -600, direct, far)


def _pareto_log_survival(y: Array, shape: Array) -> Array:
    """Log of the survival function at the excess y in scales; the hazard of a negative shape is held beyond `HELD`."""
    inside = np.where(shape < 0, np.minimum(y, HELD), y)
    safe = np.where(np.abs(shape) < 1e-9, 1.0, shape)
    log_survival = np.where(np.abs(shape) < 1e-9, -inside, -np.log1p(safe * inside) / safe)
    return log_survival - (y - inside) / (1 + shape * inside)


def _distance(tail: Tail, values: Array) -> Array:
    """Anderson-Darling distance of the values above each threshold from the tail; values (m, n), shape (m,)."""
    out = np.full(len(values), np.nan)
    above = tail.above(values)
    sample = np.nonzero(above)[0]
    with np.errstate(all="ignore"):
        log_survival = np.minimum(tail.at(sample).log_p(values[above]) - tail.log_share[sample], 0.0)
    for k, logs in enumerate(np.split(log_survival, np.cumsum(above.sum(axis=1))[:-1])):
        log_s = np.sort(logs)  # smallest survival, largest value first
        m = len(log_s)
        if m == 0 or not np.all(np.isfinite(log_s)):
            continue
        log_f = np.log(-np.expm1(np.minimum(log_s, -1e-15)))
        i = np.arange(1, m + 1)
        out[k] = -m - np.sum((2 * i - 1) * (log_f[::-1] + log_s)) / m
    return out


def _draw(tail: Tail, values: Array, n_samples: int, rng: np.random.Generator) -> Array:
    """Samples like `values` of shape (n,) from a lone tail, shape (n_samples, n); what is not fitted stays."""
    drawn = np.tile(values, (n_samples, 1))
    shape, scale, u = (float(part[0]) for part in (tail.shape, tail.scale, tail.threshold))
    if tail.model == "pareto":
        fitted = reached(values) > u
        exponential = rng.standard_exponential((n_samples, int(fitted.sum())))
        drawn[:, fitted] = u + scale * _pareto_quantile(exponential, shape)
    else:
        fitted = values > 0
        drawn[:, fitted] = scale * rng.standard_gamma(shape, (n_samples, int(fitted.sum())))
    return drawn


def _pareto_quantile(exponential: Array, shape: float) -> Array:
    """Excess in scales whose log survival is minus an exponential variate; inverse of `_pareto_log_survival`."""
    if abs(shape) < 1e-9:
        return exponential
    y = np.expm1(shape * exponential) / shape
    if shape > 0:
        return y
    at_held = np.log1p(shape * HELD) / shape  # minus log survival there
    return np.where(exponential < at_held, y, HELD + (exponential - at_held) * (1 + shape * HELD))
