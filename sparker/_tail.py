"""Beyond the toys: p from a tail that is fitted to them, checked, and given with its uncertainty."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import gammaincc, gammaln, ndtri_exp, polygamma, psi

from sparker._aggregation import TAIL, Rule, reached

Array = npt.NDArray[Any]

MODELS = ("gamma", "chi2", "pareto")

MIN_TOYS = 100  # the upper fifth of fewer is less than 20 toys: nothing to fit
MIN_ABOVE = 10  # toys above a threshold, where many tie
MAX_SHAPE = 0.1  # of the generalised Pareto distribution: 0 is an exponential tail
SHAPE_VARIANCE = 4 / 3  # of its estimate, times the number of excesses, near 0 (Hosking and Wallis, table 1)
HELD = 5.0  # scales above the threshold; a tail with an end would give p = 0 beyond it
MIN_GOODNESS = 0.05
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
      of freedom are all there is to fit (with a scale of its own it would be the gamma distribution);
    - "pareto": generalised Pareto for the excess over u, by probability-weighted moments (Hosking and Wallis,
      Technometrics 29 (1987) 339), with the shape held in [-0.1, 0.1]. Where it is negative the hazard is held from 5
      scales above u on: a distribution that ends would give p = 0.

    Attributes
    ----------
    model : str
    threshold, log_share, shape, scale, at_threshold : ndarray of shape (m,)
        u, log p(u), the parameters, and log S(u); not finite where nothing can be fitted.
    deviation : float
        What is known beforehand of the shape of "pareto": its standard deviation about 0, inf if nothing is.
    """

    model: str
    threshold: Array
    log_share: Array
    shape: Array
    scale: Array
    at_threshold: Array
    deviation: float = np.inf

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
        threshold, log_share, shape, scale, at_threshold = (
            part[rows] for part in (self.threshold, self.log_share, self.shape, self.scale, self.at_threshold)
        )
        return Tail(self.model, threshold, log_share, shape, scale, at_threshold, self.deviation)


def fit(values: Array, model: str, deviation: float = np.inf) -> Tail:
    """Tails of the rows of `values` of shape (m, n); see `Tail` for `deviation`."""
    u = np.quantile(values, 1 - TAIL, axis=1, method="higher")
    above = reached(values) > u[:, None]
    with np.errstate(all="ignore"):
        if model == "pareto":
            shape, scale = _fit_pareto(values, above, u, deviation)
            at_threshold = np.zeros(len(u))
        else:
            shape, scale = _fit_gamma(values) if model == "gamma" else _fit_chi2(values)
            at_threshold = _gamma_log_survival(u / scale, shape)
    log_share = np.log((1 + above.sum(axis=1)) / (1 + values.shape[1]))
    return Tail(model, u, log_share, shape, scale, at_threshold, deviation)


def goodness(tail: Tail, values: Array, rng: np.random.Generator) -> Array:
    """Probability, under the fitted model, of a distance as large as that between the model and what it was fitted to.

    The distance is that of Anderson and Darling with all weight on the upper tail (Sinclair, Spurr and Ahmad, Commun.
    Stat. Theory 19 (1990) 3677), over the excesses of "pareto" and over all positive values of the others: looked at in
    the upper fifth alone, which the fit does not know from the rest, a wrong gamma distribution passes too often. Its
    null is that of samples drawn from the model and fitted anew (parametric bootstrap; Stute et al., Metrika 40 (1993)
    243). Values of shape (m, n) give shape (m,); 0 where there is no fit.
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
            n_reached += int(np.sum(_distance(fit(drawn, tail.model, tail.deviation), drawn) >= distance))
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


def extrapolate(null: Array, observed: Array, rule: Rule, model: str, rng: np.random.Generator) -> Extrapolation:
    """Find p of observed rows from tails fitted to the toys: at each scale, and of the aggregate.

    The rule joins the log p of all scales to an aggregate, which is bounded where they are counted. Here they are
    counted up to the 80 % quantile and come from a tail above, by one map for toys and observed row, made from the
    toys; the aggregate then has no bound, and a generalised Pareto tail is fitted to it, whatever the model of the
    scales. The map need not be right, only the same for all, see `aggregate_beyond`.

    A lone scale needs no aggregate: its p is that of the scale. The band comes from resampled toys, for which all of
    this is done anew.

    Parameters
    ----------
    null : ndarray of shape (n_toys, n_scales)
    observed : ndarray of shape (..., n_scales)
    rule : Rule
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
    log_p, toys = _evaluate(null, rows, rule, model, np.ones(n))
    fine = np.append(fine, fine if n_scales == 1 else goodness(_fit_aggregate(toys), toys[None], rng))
    resampled = []
    for _ in range(N_RESAMPLED):
        drawn = rng.integers(n, size=n)
        resampled.append(_evaluate(null[drawn], rows, rule, model, np.bincount(drawn, minlength=n)[drawn])[0])
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


def _evaluate(null: Array, rows: Array, rule: Rule, model: str, copies: Array) -> tuple[Array, Array]:
    """Log p of each row at each scale and of the aggregate, shape (m, n_scales + 1), and the aggregates of the toys.

    ``copies`` says how often each toy stands in `null`, itself included.
    """
    at_scales = fit(null.T, model).extend(_counted_log_p(null, rows).T, rows.T).T
    if null.shape[1] == 1:
        return np.repeat(at_scales, 2, axis=1), null[:, 0]
    toys, aggregates = aggregate_beyond(null, null, rule, copies), aggregate_beyond(null, rows, rule)[:, None]
    last = _fit_aggregate(toys).extend(_counted_log_p(toys[:, None], aggregates).T, aggregates.T).T
    return np.concatenate([at_scales, last], axis=1), toys


def _fit_aggregate(toys: Array) -> Tail:
    """Tail of an aggregate of log p: near exponential, so that a hundred toys need not find its shape anew.

    They would find it to 0.12 only; shapes are taken to have a standard deviation of 0.05, whose 95 % are the range in
    which they are held.
    """
    return fit(toys[None], "pareto", 0.5 * MAX_SHAPE)


def aggregate_beyond(null: Array, rows: Array, rule: Rule, copies: Array | None = None) -> Array:
    """Aggregate of each row, by a map from the statistic at each scale to log p that toys make and that has no end.

    Counted up to the 80 % quantile, then a generalised Pareto tail with the mean excess of the toys and the largest
    shape that is held possible. A map with a lighter tail than the null of a scale leaves the aggregate one that is
    heavier than its fit, and Z too large; a fitted shape adds its noise, to the aggregates of the toys and to that of
    the observed row in different ways. Both were measured to be worse on the null of a real search; so was a tail of
    the few toys that lie above a value at which nearly all tie, where counts go on instead.

    For the toys themselves, where ``copies`` says how often each stands in `null`, the map of a toy is that of the
    others: the observed row is not in its map either, and toys that were in theirs would seem less extreme than it.
    """
    mine = np.zeros(1) if copies is None else copies
    n = len(null) - mine[:, None]
    log_p = np.log((1 + _n_reached(null, rows) - mine[:, None]) / (1 + n))
    u = np.quantile(null, 1 - TAIL, axis=0, method="higher")
    of_toys, of_rows = reached(null) > u, reached(rows) > u
    excess = np.where(of_rows, rows - u, 0.0)
    with np.errstate(all="ignore"):
        above = of_toys.sum(axis=0) - mine[:, None]
        mean = (np.where(of_toys, null - u, 0.0).sum(axis=0) - mine[:, None] * excess) / above
        tail = np.log((1 + above) / (1 + n)) - np.log1p(MAX_SHAPE * excess / (mean * (1 - MAX_SHAPE))) / MAX_SHAPE
    has_tail = (of_toys.sum(axis=0) >= MIN_ABOVE) & np.isfinite(tail)
    return np.asarray(rule.combine(np.where(of_rows & has_tail, tail, log_p)))


def _counted_log_p(null: Array, x: Array) -> Array:
    """Log of (1 + number of toys that reach x) / (1 + n_toys), at each scale; x of shape (m, n_scales)."""
    return np.log((1 + _n_reached(null, x)) / (1 + len(null)))


def _n_reached(null: Array, x: Array) -> Array:
    """Number of toys that reach x at each scale, shape (m, n_scales)."""
    ordered, thresholds = np.sort(null, axis=0), reached(x)
    below = [np.searchsorted(ordered[:, k], thresholds[:, k], side="left") for k in range(null.shape[1])]
    return len(null) - np.stack(below, axis=1)


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


def _fit_pareto(values: Array, above: Array, u: Array, deviation: float) -> tuple[Array, Array]:
    m = above.sum(axis=1)
    excess = np.where(above, values - u[:, None], 0.0)
    excess = -np.sort(-excess, axis=1)[:, : max(1, int(m.max()))]  # largest first
    mean = excess.sum(axis=1) / m
    weighted = excess @ np.arange(excess.shape[1]) / (m * (m - 1.0))
    shape = 2 - mean / (mean - 2 * weighted)
    shape = np.clip(shape / (1 + SHAPE_VARIANCE / (m * deviation**2)), -MAX_SHAPE, MAX_SHAPE)
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


def _fitted(tail: Tail, values: Array) -> npt.NDArray[np.bool_]:
    """Which values the model was fitted to."""
    return tail.above(values) if tail.model == "pareto" else values > 0


def _distance(tail: Tail, values: Array) -> Array:
    """Upper-tail Anderson-Darling distance of the fitted values from the model; values (m, n), shape (m,)."""
    out = np.full(len(values), np.nan)
    fitted = _fitted(tail, values)
    sample = np.nonzero(fitted)[0]
    with np.errstate(all="ignore"):
        one = tail.at(sample)
        log_survival = np.minimum(one.log_p(values[fitted]) - one.log_share + one.at_threshold, 0.0)
    for k, logs in enumerate(np.split(log_survival, np.cumsum(fitted.sum(axis=1))[:-1])):
        m = len(logs)
        if m > 0 and np.all(np.isfinite(logs)):
            weights = 2 - (2 * np.arange(1, m + 1) - 1) / m
            out[k] = 0.5 * m + 2 * np.sum(np.expm1(logs)) - weights @ np.sort(logs)[::-1]  # smallest value first
    return out


def _draw(tail: Tail, values: Array, n_samples: int, rng: np.random.Generator) -> Array:
    """Samples like `values` of shape (n,) from a lone tail, shape (n_samples, n); what is not fitted stays."""
    drawn = np.tile(values, (n_samples, 1))
    fitted = _fitted(tail, values[None])[0]
    shape, scale, u = (float(part[0]) for part in (tail.shape, tail.scale, tail.threshold))
    if tail.model == "pareto":
        exponential = rng.standard_exponential((n_samples, int(fitted.sum())))
        drawn[:, fitted] = u + scale * _pareto_quantile(exponential, shape)
    else:
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
