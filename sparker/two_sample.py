"""`SparKerTest`, the two-sample test with moving kernels, and its one-call form `two_sample_test`."""

import logging
import warnings
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from sparker import _calibration, _schedule, _starts, _where
from sparker._backends import BACKENDS, Backend, choose
from sparker._base import Fitted, TwoSampleTest
from sparker._kernels import LOSSES, to_host
from sparker._null import NullDistribution
from sparker._results import TwoSampleResult
from sparker._samples import FLOATS, check_names
from sparker._schedule import Width
from sparker._statistic import OF_WIDTHS, SparKerStatistic
from sparker._where import KernelSignificance, KernelSummary

ROWS = 1 << 16  # in a block of `score_samples`

logger = logging.getLogger("sparker")

Array = npt.NDArray[Any]


class SparKerTest(ClassNamePrefixFeaturesOutMixin, TransformerMixin, TwoSampleTest):
    """Two-sample test with a few Gaussian kernels that move, compete and narrow.

    The kernels maximise the Neyman-Pearson likelihood ratio between the data and an anomaly-free reference at each of
    several widths; toys drawn under the null turn the result into a p-value. As a scikit-learn estimator it is a binary
    classifier (reference against data) and a transformer (the contribution of each kernel).

    Parameters
    ----------
    n_kernels : int, default=3
        Number of kernels M, at most ``n_candidates`` with ``start="score"``. More are not better: each also fits noise.
    n_widths : int, default=8
        Widths at which the statistic is recorded.
    width_init, width_final : float or tuple of two floats, default=None
        Widest and narrowest width in the units of X, or a factor and a percentile: ``(2.0, 99)`` is twice the 99th
        percentile of the distances of pooled rows. None: their 99th percentile, and the smaller of half their 1st
        percentile and a quarter of their median. With ``n_widths=1`` the narrowest is recorded.
    annealing : {"geometric", "linear", "logarithmic"}, default="geometric"
        How the width falls with ``start="random"``, from step to step; "logarithmic": 1/width grows with log(1 + step).
        With ``start="score"`` nothing anneals, and the recorded widths are spaced geometrically.
    competition : bool, default=True
        Softmax gate: kernels compete for each row. False gives the plain sum of kernels of SparKer-NPLM.
    loss : {"np", "bce", "mse"}, default="np"
        What trains the log density ratio f: the Neyman-Pearson loss, or, for comparison, binary cross-entropy or mean
        squared error of a classifier with odds e^f. The statistic is -2 L of the Neyman-Pearson loss in any case.
    solver : {"newton", "adam", "alternating"}, default="newton"
        "newton": exact amplitudes and centre steps that do not know the dimension. "adam": as in arXiv:2511.03095.
        "alternating": Adam on amplitudes and centres by turns, as in SparKer-NPLM.
    start : {"score", "random"}, default="score"
        "score": at every recorded width kernels start on the candidates with the largest score, one given the others.
        "random": on random data rows at the widest width, and anneal from there to the narrowest.
    n_candidates : int, default=None
        Candidates of the score start: pooled rows, labels unseen, half at random and half spread out over the pool.
        None: 1000, on pools of more than 40 000 rows as many as make 40 million pairs with its rows (of more than
        200 000 and 200 million in one dimension), at least 200. With each width those a fifth of it apart are used.
    companions : bool, default=True
        Test beside the kernels, which see what is local, the whole sample: its mean (Hotelling's T^2) and whether it
        reaches farther out (Mahalanobis distances from the mean, one-sided). They enter ``statistics_`` and p, never
        the log density ratio.
    max_iter : int, default=6
        Solver steps for each recorded width ("adam" and "alternating" want about 100 and more).
    tol : float, default=1e-3
        A step that changes the loss by less ends the steps at a width ("newton").
    alpha : float, default=0.1
        L2 penalty: alpha sum_i a_i^2 is added to the loss that is minimised, never to the statistic.
    entropy : float, default=0.0
        Factor lambda_H of the entropy term of SparKer-NPLM, -sum_j q(mu_j) log q(mu_j) with q the mean of the kernels,
        which merges centres that overlap and draws others apart; added to the loss that is minimised.
    max_amplitude : float, default=5.0
        Bound on the size of an amplitude: a kernel on a row far from all reference rows would grow without end.
    learning_rate : float, default=0.05
        Step of "adam" and "alternating", in amplitude units and in the units of X.
    expected_count : float, default=None
        Expected data count under the null, N(D|H0). None: shape only, toys keep N_D. A number: the count is part of the
        test, the reference is scaled to it and toy counts are Poisson: permutation toys are then approximate, since
        the pool holds the observed number of rows.
    calibration : {"permutation", "split", "bootstrap"} or callable, default="permutation"
        How toys are drawn. "permutation": labels of the pooled rows are permuted; exact. "split": the reference is
        split into toy data and toy reference, and the observed fit gives up N_D reference rows to be like them; needs
        N_R >= 2 N_D. With event weights > 0 rows become data in proportion to them; needs N_D max(w) / sum(w) <= 1/2,
        1/50 where weights seem to have no upper bound. "bootstrap": data redrawn from the reference with replacement,
        beside the rows that were not drawn; for negative or unbounded weights and small references; conservative. A
        callable ``draw(rng)`` returns ``(reference, data)`` or ``(reference, data, reference_weight)``, of the sizes of
        the fit; with `expected_count` the number of data rows is its own.
    n_toys : int, default=500
        Number of toys; the smallest possible p-value is 1 / (n_toys + 1).
    aggregation : {"power-mean", "min-mean", "min", "product", "mean"}, default="power-mean"
        How the p-values at all scales are joined, before the same toys calibrate the result. "power-mean": the mean
        of p^(-3/4), weighted by kind of entry (``scales_["weight"]``), with an exponential tail for the p of the
        uppermost toys, whose counts are too coarse.
        "min-mean": -(min log p + mean log p) / 2 of counted p, as in arXiv:2511.03095.
    tail : {"gamma", "chi2", "pareto"} or None, default=None
        Model of the upper tail of the null, for p below 1 / (n_toys + 1), beside the counted p and never in its place.
        "pareto": generalised Pareto, fitted to the upper fifth of the toys; that of the aggregate in any case. "gamma":
        fitted to the whole null of each scale. "chi2": the same with the degrees of freedom alone free. Fits that fail
        a test of goodness are refused. Needs 100 toys; see "Beyond the toys" in the user guide.
    stopping : int or None, default=None
        Stop simulating once as many toys reach the observed statistic: p is then ``stopping`` over the number of toys.
        Valid, and much cheaper where there is no anomaly. ``n_toys`` is the most that are simulated.
    null_distribution : NullDistribution or None, default=None
        Toys of an earlier calibration, in place of new ones; ``n_toys`` is then not used, and ``random_state=None``
        takes the seed of the toys. Toys that do not fit this test are refused in ``fit``. Toys of a permutation fit the
        same pool and seed alone; those of "split" and "bootstrap" any data of the same number of rows, or with
        ``expected_count`` of the same expected count, beside the same reference. Whatever was learned from pooled rows,
        as a scaler is in a Pipeline, rules that out; toys that were made from pooled rows with labels are refused.
        What a callable draws is not seen: only its name is compared.
    backend : {"auto", "numba", "matmul", "numpy", "cupy"}, default="auto"
        "numba": fused compiled loops; "matmul": matrix products; "numpy": the slow definition; "cupy": a CUDA GPU, see
        "On a GPU" in the user guide. "auto" takes "cupy" where CuPy sees a device, else "matmul" above 48 features and
        "numba" below.
    random_state : int, RandomState, Generator or None, default=None
        Source of ``seed_``, from which all random numbers of fit and toys come.
    n_jobs : int, default=None
        Processes for toys; None means 1, -1 all cores. The numbers do not depend on it. A GPU is driven by one,
        with up to four threads.
    verbose : int, default=0
        1 shows a progress bar on completed toys.

    Attributes
    ----------
    statistics_ : ndarray of shape (n_scales,)
        t at each recorded width; then, with ``start="score"``, the largest squared score of a single kernel there, the
        largest where rows are rare, with fewer than 5 rows of the smaller sample in reach, and the largest where they
        are dense, with 30 or more (others count less), these three at least 5, which is the most that one row alone can
        have; then the joint score, of up to 150 kernels of one width; then the two companions. All of it is calibrated
        and aggregated. No entry is negative.
    scales_ : dict of str to ndarray of shape (n_scales,)
        ``kind`` ("t", "score", "rare", "dense", "joint", "mean" or "spread"), ``width`` and ``weight`` in the aggregate
        of each entry; a companion has width inf.
    width_ : float
        The recorded width that ``score_samples``, ``transform`` and ``kernel_table`` describe: the one with the
        largest t - 2 M log(number of distinct places at that width). It needs no toys; calibrating never changes it.
    amplitudes_, centers_ : ndarray of shape (n_kernels,), (n_kernels, n_features)
        Kernels at ``width_``.
    path_widths_, path_amplitudes_, path_centers_ : ndarray of shape (n_widths, ...)
        Kernels at every recorded width.
    loss_curve_ : ndarray of shape (n_steps,)
        Minimised loss after each solver step.
    n_iter_ : int
        Number of solver steps.
    converged_ : bool
        Whether the amplitudes are optimal at every recorded width. Always true of "adam" and
        "alternating", whose fixed number of steps has no test of convergence.
    null_distribution_ : NullDistribution
        The toys, once ``calibrate``, ``p_value``, ``test_statistic`` or ``result`` has simulated them.
    seed_ : int
        Every random number of the test comes from it.
    classes_ : ndarray of shape (2,)
        Labels of reference and data.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns, where X has names that are all strings.

    See Also
    --------
    two_sample_test : The same in one call.

    Notes
    -----
    With k_i(x) = exp(-||x - mu_i||^2 / (2 sigma^2)) and the gate p_i = k_i / sum_j k_j the log density ratio is
    f(x) = sum_i a_i p_i(x) k_i(x) (eq. 2 of [1]_), the loss L = sum_R w (e^f - 1) - sum_D f and the statistic
    t = max(0, -2 L) (eq. 3). Columns are not rescaled: put a scaler before the test in a Pipeline, and pass that
    Pipeline the pooled rows and their labels, ``make_pipeline(StandardScaler(), SparKerTest()).fit(X, y)``. It would
    transform a reference passed as X, but not the data passed beside it.

    References
    ----------
    .. [1] "SparKer", arXiv:2511.03095.
    .. [2] B. Phipson and G. Smyth, "Permutation p-values should never be zero", Stat. Appl. Genet. Mol. Biol. 9
       (2010) 39.

    Examples
    --------
    >>> import numpy as np
    >>> from sparker import SparKerTest
    >>> rng = np.random.default_rng(0)
    >>> reference = rng.exponential(size=(2000, 1))
    >>> data = np.concatenate([rng.exponential(size=(400, 1)), rng.normal(6.4, 0.16, size=(12, 1))])
    >>> test = SparKerTest(n_toys=99, random_state=0).fit(reference, data)
    >>> test.p_value()
    0.01
    >>> strongest = test.kernel_table()[0]
    >>> strongest.sign, bool(abs(strongest.center[0] - 6.4) < 0.2)
    (1, True)
    """

    _parameter_constraints = {
        **TwoSampleTest._parameter_constraints,
        "n_kernels": [Interval(Integral, 1, None, closed="left")],
        "n_widths": [Interval(Integral, 1, None, closed="left")],
        "width_init": [Interval(Real, 0, None, closed="neither"), tuple, None],
        "width_final": [Interval(Real, 0, None, closed="neither"), tuple, None],
        "annealing": [StrOptions({"geometric", "linear", "logarithmic"})],
        "competition": ["boolean"],
        "loss": [StrOptions(set(LOSSES))],
        "solver": [StrOptions({"newton", "adam", "alternating"})],
        "start": [StrOptions({"score", "random"})],
        "n_candidates": [Interval(Integral, 1, None, closed="left"), None],
        "companions": ["boolean"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "entropy": [Interval(Real, 0, None, closed="left")],
        "max_amplitude": [Interval(Real, 0, 80, closed="neither")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "backend": [StrOptions(set(BACKENDS))],
    }

    def __init__(
        self,
        n_kernels: int = 3,
        *,
        n_widths: int = 8,
        width_init: Width | None = None,
        width_final: Width | None = None,
        annealing: str = "geometric",
        competition: bool = True,
        loss: str = "np",
        solver: str = "newton",
        start: str = "score",
        n_candidates: int | None = None,
        companions: bool = True,
        max_iter: int = 6,
        tol: float = 1e-3,
        alpha: float = 0.1,
        entropy: float = 0.0,
        max_amplitude: float = 5.0,
        learning_rate: float = 0.05,
        expected_count: float | None = None,
        calibration: str | Callable[..., Any] = "permutation",
        n_toys: int = 500,
        aggregation: str = "power-mean",
        tail: str | None = None,
        stopping: int | None = None,
        null_distribution: NullDistribution | None = None,
        backend: str = "auto",
        random_state: Any = None,
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_kernels = n_kernels
        self.n_widths = n_widths
        self.width_init = width_init
        self.width_final = width_final
        self.annealing = annealing
        self.competition = competition
        self.loss = loss
        self.solver = solver
        self.start = start
        self.n_candidates = n_candidates
        self.companions = companions
        self.max_iter = max_iter
        self.tol = tol
        self.alpha = alpha
        self.entropy = entropy
        self.max_amplitude = max_amplitude
        self.learning_rate = learning_rate
        self.expected_count = expected_count
        self.calibration = calibration
        self.n_toys = n_toys
        self.aggregation = aggregation
        self.tail = tail
        self.stopping = stopping
        self.null_distribution = null_distribution
        self.backend = backend
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    def _make_statistic(self) -> SparKerStatistic:
        fewest = self.n_candidates or _starts.FEWEST
        if self.start == "score" and self.n_kernels > fewest:
            raise ValueError(
                f"n_kernels is {self.n_kernels}, but there may be as few as {fewest} candidates to start on: lower "
                'n_kernels, set n_candidates, or pass start="random".'
            )
        for name in ("width_init", "width_final"):
            _check_width(name, getattr(self, name))
        backend = choose(self.backend)
        if self.verbose and backend == "auto":
            logger.info('backend="auto": CuPy sees no CUDA device, the CPU does the work')
        params = {name: getattr(self, name) for name in SparKerStatistic.__dataclass_fields__}
        return SparKerStatistic(**{**params, "backend": backend})

    def _observe(self, fitted: Fitted) -> Array:
        statistic, observed, plan = fitted.statistic, fitted.observed, fitted.plan
        assert isinstance(statistic, SparKerStatistic)
        rng = _calibration.generator(self.seed_, _calibration.OBSERVED_STREAM)
        shared = statistic.share(observed.pool, [observed.weights], plan, self.n_jobs)
        (path,) = statistic.fit(observed.pool, [observed.weights], plan, [rng], shared, self.n_jobs)
        if failure := path.failure():
            raise failure
        self._best = best = int(np.argmax(-2 * path.losses - 2 * statistic.n_kernels * np.log(plan.places)))
        self.width_ = float(path.widths[best])
        self.amplitudes_ = path.amplitudes[best]
        self.centers_ = path.centers[best]
        self.path_widths_, self.path_amplitudes_, self.path_centers_ = path.widths, path.amplitudes, path.centers
        self.loss_curve_ = path.loss_curve
        self.n_iter_ = len(path.loss_curve)
        self.converged_ = bool(path.converged.all())
        self._n_features_out = statistic.n_kernels
        if not self.converged_:
            narrow = path.widths[~path.converged]
            warnings.warn(
                f"The amplitudes did not converge at the widths {narrow}. Raise alpha or max_iter, or lower n_kernels.",
                ConvergenceWarning,
                stacklevel=4,
            )
        self.scales_ = statistic.scales(path)
        return statistic.entries(path, plan, shared[0], observed.weights)

    def transform(self, X: Any) -> Array:
        """Contribution a_i p_i(x) k_i(x) of each kernel to the log density ratio.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        contributions : ndarray of shape (n_samples, n_kernels)
            They add up to ``score_samples(X)``; dtype of X if float32, else float64.
        """
        check_is_fitted(self)
        X = validate_data(self, to_host(X), dtype=FLOATS, order="C", reset=False)
        return np.concatenate([self._contributions(block) for block in _blocks(X)])

    def kernel_table(self, n_nearest: int = 10) -> list[KernelSummary]:
        """The kernels at ``width_``, largest score first.

        Parameters
        ----------
        n_nearest : int, default=10
            Data rows to name for each kernel.

        Returns
        -------
        kernels : list of KernelSummary
            ``pandas.DataFrame(test.kernel_table())`` makes a table of it.

        Raises
        ------
        ValueError
            If `n_nearest` is negative, or if the samples were changed in place after fit.
        """
        check_is_fitted(self)
        if not (isinstance(n_nearest, Integral) and n_nearest >= 0):
            raise ValueError(f"n_nearest is {n_nearest!r}: needed is a whole number >= 0.")
        self._refuse_changed()
        samples, observed = self._fitted.samples, self._fitted.observed
        parts = self._contributions(samples.reference).astype(np.float64)
        reference_weight = observed.weights.reference[: len(parts)].astype(np.float64)
        expected_excess = _where.expected_excess(parts, reference_weight, np.eye(len(self.amplitudes_), dtype=bool))
        of_data = self._contributions(samples.data).astype(np.float64)
        data_weight = observed.weights.data[len(parts) :].astype(np.float64)
        excess = data_weight @ _shares(of_data, 1, lambda f: -np.expm1(-f))
        excess += reference_weight @ _shares(parts, -1, np.expm1)
        scores, order = self._by_score()
        score = scores.values[0]
        table = []
        for i in order:
            distances = np.sum((samples.data - self.centers_[i]) ** 2, axis=1)
            nearest = np.argsort(distances, kind="stable")[:n_nearest]
            table.append(
                KernelSummary(
                    center=self.centers_[i].copy(),
                    width=self.width_,
                    amplitude=float(self.amplitudes_[i]),
                    sign=int(np.sign(self.amplitudes_[i])),
                    score=float(score[i]),
                    excess=float(excess[i]),
                    expected_excess=float(expected_excess[i]),
                    nearest_rows=samples.data_rows[nearest],
                )
            )
        return table

    def expected_excess(self, kernels: npt.ArrayLike | None = None) -> tuple[float, float, float]:
        """Excess that some kernels account for together, with an interval: several may share one clump.

        E_G = sum_R w (e^f - e^(f - f_G)), f_G being the sum of their parts of f: how many rows fewer the fitted model
        would expect without all of them. What they have in common counts once, so that the excesses in `kernel_table`,
        each of one kernel alone, do not add up to it.

        Parameters
        ----------
        kernels : array-like of int of shape (n,), default=None
            Positions in `kernel_table`. None: all kernels.

        Returns
        -------
        expected_excess, low, high : float
            E_G in data rows, and E_G minus and plus its standard deviation, from the counts of both samples, at the
            fitted centres and width: see ``expected_excess_interval`` of `KernelSignificance`, also for when it is nan.

        Raises
        ------
        ValueError
            If `kernels` are not different positions in `kernel_table`, or if the samples were changed in place after
            fit.
        """
        check_is_fitted(self)
        self._refuse_changed()
        n_kernels = len(self.amplitudes_)
        chosen = np.arange(n_kernels) if kernels is None else np.asarray(kernels)
        known = chosen.ndim == 1 and len(chosen) > 0 and chosen.dtype.kind in "iu"
        if not known or len(np.unique(chosen)) < len(chosen) or chosen.min() < 0 or chosen.max() >= n_kernels:
            raise ValueError(
                f"kernels is {kernels!r}: needed are different positions in kernel_table(), 0 to {n_kernels - 1}."
            )
        group = np.isin(np.arange(n_kernels), self._by_score()[1][chosen])[None]
        reference, weights = self._fitted.samples.reference, self._fitted.observed.weights.reference
        parts = self._contributions(reference).astype(np.float64)
        excess = float(_where.expected_excess(parts, weights[: len(parts)].astype(np.float64), group)[0])
        half = float(self._excess_deviation(group)[0])
        return excess, excess - half, excess + half

    def local_p_values(self, centers: Any, width: float) -> Array:
        """Probability, under the null, of as large a score at each of some places that were fixed beforehand.

        The statistic is the squared score of one kernel of the given centre and width,
        q = (sum_D k - sum_R w k)^2 / V; the toys are those of the test, all of them where they are to stop early,
        evaluated at the same places. Nothing is searched: each p holds for its own place, and is not corrected for the
        number of places. At places that were chosen by looking at these data it is too small.

        Parameters
        ----------
        centers : array-like of shape (n_places, n_features)
            Places, in the units of X.
        width : float
            Width of the kernels, in the units of X.

        Returns
        -------
        p_values : ndarray of shape (n_places,)
            (1 + #{toys >= observed}) / (1 + n_toys).

        Raises
        ------
        ValueError
            If `centers` is not finite, or has other columns than X, if `width` is not a finite number > 0, or if the
            samples were changed in place after fit.

        Warns
        -----
        UserWarning
            If a place is the centre of a fitted kernel.
        """
        check_is_fitted(self)
        check_names(getattr(self, "feature_names_in_", None), centers, "centers")
        places = check_array(centers, dtype=self._fitted.observed.pool.dtype, input_name="centers")
        if places.shape[1] != self.n_features_in_:
            raise ValueError(f"centers has {places.shape[1]} features, but X has {self.n_features_in_}.")
        if not (isinstance(width, Real) and 0 < width < np.inf):
            raise ValueError(f"width is {width!r}: needed is a finite number > 0.")
        _schedule.check_widths(width, places.dtype)
        _schedule.check_size(places)
        found = self.path_centers_.reshape(-1, places.shape[1]).astype(places.dtype)
        n_fitted = int(np.sum([np.any(np.all(found == place, axis=1)) for place in places]))
        if n_fitted:
            warnings.warn(
                f"{n_fitted} of {len(places)} places are centres of kernels fitted to these data: local p-values there "
                "are too small. Corrected ones are in kernel_significance().",
                UserWarning,
                stacklevel=2,
            )
        return self._local_p_values(places, float(width))

    def kernel_significance(self) -> list[KernelSignificance]:
        """The kernels of `kernel_table` with p-values and an interval of the excess; simulates the toys on first use.

        Returns
        -------
        kernels : list of KernelSignificance
            In the order of `kernel_table`.

        Raises
        ------
        ValueError
            If the test has ``start="random"``, which records no scores.
        """
        check_is_fitted(self)
        fitted, is_score = self._fitted, np.isin(self.scales_["kind"], OF_WIDTHS[1:])
        if not is_score.any():
            raise ValueError('kernel_significance needs the scores that toys record with start="score".')
        null = self.calibrate()
        table = self.kernel_table()
        scores, order = self._by_score()
        centers = self.centers_[order]
        columns = self._best + len(self.path_widths_) * scores.classes()[0][order]
        local = self._local_p_values(centers.astype(fitted.observed.pool.dtype), self.width_)
        entries = null.values[:, is_score], self.statistics_[is_score]
        squared = scores.values[0][order, None] ** 2
        corrected = [
            _where.corrected_p_values(*entries, *of_kernel)[0] for of_kernel in zip(squared, columns, strict=True)
        ]
        half = self._excess_deviation(np.eye(len(table), dtype=bool)[order])
        return [
            KernelSignificance(
                **{field: getattr(kernel, field) for field in KernelSummary.__dataclass_fields__},
                local_pvalue=float(local[i]),
                corrected_pvalue=float(corrected[i]),
                expected_excess_interval=(
                    kernel.expected_excess - float(half[i]),
                    kernel.expected_excess + float(half[i]),
                ),
            )
            for i, kernel in enumerate(table)
        ]

    def _local_p_values(self, centers: Array, width: float) -> Array:
        fitted = self._fitted
        self._refuse_changed()
        null = getattr(self, "null_distribution_", fitted.null_distribution)
        if null is None or null.stopping is not None:  # how many toys there are must not depend on the data
            names = [(self.seed_, i) for i in range(fitted.n_toys)]
        else:
            names = list(zip(null.seeds.tolist(), null.numbers.tolist(), strict=True))
        of_toys = _where.scores_of_toys(self._make_toys(), names, centers, width)
        (observed,) = _starts.scores_at(fitted.observed.pool, [fitted.observed.weights], centers, width)
        return _where.counted(of_toys**2, observed.values[0] ** 2)

    def _by_score(self) -> tuple[_starts.Scores, Array]:
        """The scores of the kernels at `width_`, and their order in `kernel_table`."""
        observed = self._fitted.observed
        (scores,) = _starts.scores_at(observed.pool, [observed.weights], self.centers_, self.width_)
        return scores, np.argsort(-np.abs(scores.values[0]), kind="stable")

    def _excess_deviation(self, groups: Array) -> Array:
        """Standard deviation of the expected excess of groups of kernels, (n_groups, n_kernels).

        nan where one of them is at its bound, and where the loss is not L.
        """
        fitted, statistic = self._fitted, self._fitted.statistic
        assert isinstance(statistic, SparKerStatistic)
        if statistic.loss != "np":
            return np.full(len(groups), np.nan)
        samples, backend = fitted.samples, Backend(statistic.backend)
        of_reference, of_data = (
            backend.activations(X, self.centers_, self.width_, statistic.competition).astype(np.float64)
            for X in (samples.reference, samples.data)
        )
        shape_only = fitted.observed.expected is None
        deviation = _where.excess_deviation(
            of_reference, of_data, self.amplitudes_, groups, fitted.observed.weights, statistic.alpha, shape_only
        )
        at_bound = np.abs(self.amplitudes_) >= statistic.max_amplitude
        return np.where(np.any(groups & at_bound, axis=1), np.nan, deviation)

    def _log_density_ratio(self, X: Array) -> Array:
        return np.concatenate([self._contributions(block).sum(axis=1) for block in _blocks(X)])

    def _contributions(self, X: Array) -> Array:
        statistic = self._fitted.statistic
        assert isinstance(statistic, SparKerStatistic)
        rows = X.astype(np.result_type(X, self._fitted.observed.pool.dtype), copy=False)  # what the fit has needed
        _schedule.check_size(rows)
        phi = Backend(statistic.backend).activations(rows, self.centers_, self.width_, statistic.competition)
        return (phi * self.amplitudes_).astype(X.dtype)

    def _warm_up(self) -> None:
        statistic = self._fitted.statistic
        assert isinstance(statistic, SparKerStatistic)
        pool = self._fitted.observed.pool
        Backend(statistic.backend).warm_up(pool.dtype, pool.n_features)
        _starts.warm_up(pool.dtype)


def _blocks(X: Array) -> list[Array]:
    """Rows a few at a time: they may be in a file, and what is made of them is larger than they are."""
    return [X[start : start + ROWS] for start in range(0, len(X), ROWS)]


def _shares(parts: Array, sign: int, value: Callable[[Array], Array]) -> Array:
    """Value of f of the rows where f has this sign, shared out to the kernels whose parts have it; shape of `parts`."""
    f = parts.sum(axis=1, keepdims=True)
    alike = np.where(sign * parts > 0, parts, 0.0)
    total = np.where(sign * f > 0, alike.sum(axis=1, keepdims=True), np.inf * sign)
    return value(f) * alike / total


def _check_width(name: str, width: Any) -> None:
    if isinstance(width, tuple):
        numbers = all(isinstance(number, Real) for number in width)
        if len(width) != 2 or not numbers or not (0 < width[0] < np.inf and 0 <= width[1] <= 100):
            raise ValueError(f"{name} is {width}: a tuple must be a finite factor > 0 and a percentile in [0, 100].")


def two_sample_test(reference: Any, data: Any, *, sample_weight: Any = None, **params: Any) -> TwoSampleResult:
    """Test whether `data` holds something that `reference` does not.

    Parameters
    ----------
    reference : array-like of shape (n_reference, n_features)
        Anomaly-free sample.
    data : array-like of shape (n_data, n_features)
        Sample under test.
    sample_weight : array-like of shape (n_reference,), default=None
        Weights of the reference rows.
    **params
        Parameters of `SparKerTest`.

    Returns
    -------
    result : TwoSampleResult
        p-value, Z and the table of scales.

    See Also
    --------
    SparKerTest : The estimator, which also says where the difference lies.

    Examples
    --------
    >>> import numpy as np
    >>> from sparker import two_sample_test
    >>> rng = np.random.default_rng(0)
    >>> result = two_sample_test(
    ...     rng.normal(size=(300, 2)), rng.normal(0.6, 1, size=(200, 2)), n_toys=99, random_state=0
    ... )
    >>> result.pvalue
    0.01
    """
    return SparKerTest(**params).fit(reference, data=data, sample_weight=sample_weight).result()
