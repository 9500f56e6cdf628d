"""A reference larger than one machine: passes as sums over the partitions of a Dask array, the solver on the client."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, NoReturn, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import _fit_context
from sklearn.utils.validation import validate_data

from sparker import _calibration, _companions, _starts, _toys
from sparker._aggregation import Rule
from sparker._backends import Backend, Kernels, StackedWeights, one_blas_thread, stack
from sparker._base import Fitted, _draw_seed
from sparker._kernels import Evaluation, to_host
from sparker._objective import Objective
from sparker._pool import Pool, Weights
from sparker._samples import FLOATS, float32_suffices
from sparker._statistic import Plan, Shared, SparKerStatistic
from sparker.two_sample import SparKerTest

__all__ = ["PartitionedTest"]

Array = npt.NDArray[Any]

SAMPLE = 20_000  # rows from which widths, candidates and moments are learned


@dataclass(frozen=True)
class _Rows:
    """The two weights of a toy on a partitioned pool: all reference rows alike, but for a few that are left out.

    Attributes
    ----------
    left_out : ndarray of int64
        Rows of the reference, in order, that have no weight as reference.
    are_data : bool
        Whether these are the data (a toy) or not used at all (the observed pair, whose data are rows of their own).
    unit : float
        Weight of a reference row.
    n_reference, n_data : int
        Rows with a weight.
    """

    left_out: npt.NDArray[np.int64]
    are_data: bool
    unit: float
    n_reference: int
    n_data: int

    @property
    def size(self) -> float:
        """Sum of all weights of either sample."""
        return self.unit * self.n_reference + self.n_data

    def effective_sizes(self) -> tuple[float, float]:
        """Of reference and data, whose rows weigh the same."""
        return float(self.n_reference), float(self.n_data)

    def within(self, start: int, n_rows: int) -> "_Rows":
        """The same for the rows from `start` on, which are counted from there."""
        ends = np.searchsorted(self.left_out, [start, start + n_rows])
        return replace(self, left_out=self.left_out[slice(*ends)] - start)

    def weights(self, n_rows: int, dtype: np.dtype[Any]) -> Weights:
        """Weights of all rows of a partition."""
        reference, data = np.full(n_rows, self.unit, dtype), np.zeros(n_rows, dtype)
        reference[self.left_out] = 0
        data[self.left_out] = self.are_data
        return Weights(reference, data, self.unit)


class PartitionedPool:
    """Reference rows on the workers of a Dask cluster, and the data of the observed pair on the client.

    Parameters
    ----------
    client : distributed.Client
    parts : list of Future
        A `Pool` each.
    sizes : list of int
        Their numbers of rows.
    n_features, dtype
        Of the rows.
    data : Pool or None
        Data rows of the observed pair.
    given_up : ndarray of int64
        Rows of the reference that the observed pair does not use.
    """

    def __init__(
        self,
        client: Any,
        parts: list[Any],
        sizes: Sequence[int],
        n_features: int,
        dtype: np.dtype[Any],
        data: Pool | None,
        given_up: npt.NDArray[np.int64],
    ) -> None:
        self.client = client
        self.parts = parts
        self.sizes = list(sizes)
        self.starts = np.cumsum([0, *self.sizes])
        self.n_reference = int(self.starts[-1])
        self.n_features = n_features
        self.dtype = dtype
        self.data = data
        self.given_up = given_up
        self.n_rows = self.n_reference + (0 if data is None else data.n_rows)

    def prepare(self) -> None:
        """Nothing is computed once for all toys but what stands on the workers."""

    def sample(self, rng: np.random.Generator) -> Pool:
        """Rows drawn without replacement from those that are used, reference and data; all of them if they are few."""
        n_used = self.n_rows - len(self.given_up)
        n = min(SAMPLE, n_used)
        chosen = np.sort(rng.choice(n_used, n, replace=False)) if n < n_used else np.arange(n)
        chosen += np.searchsorted(self.given_up - np.arange(len(self.given_up)), chosen, side="right")
        ends = np.searchsorted(chosen, self.starts)
        wanted = [chosen[a:b] - start for a, b, start in zip(ends[:-1], ends[1:], self.starts[:-1], strict=True)]
        blocks = self.client.gather(self.client.map(_take, self.parts, wanted, pure=False))
        if self.data is not None:
            blocks.append(self.data.rows(chosen[ends[-1] :] - self.n_reference))
        return Pool(blocks)

    def within_parts(self, toys: Sequence[_Rows]) -> list[list[_Rows]]:
        """What each partition needs to know of toys."""
        places = zip(self.starts[:-1].tolist(), self.sizes, strict=True)
        return [[toy.within(start, size) for toy in toys] for start, size in places]

    def fingerprint(self) -> str:
        """Digests of the partitions, in their order."""
        return "-".join(self.client.gather(self.client.map(_fingerprint, self.parts)))


@dataclass(frozen=True)
class _SplitToys:
    """N_D random rows of the reference as data, the others as reference."""

    pool: Any
    n_data: int
    expected: float | None
    name: str = "split"

    def draw(self, rng: np.random.Generator) -> tuple[Any, Any]:
        """See `sparker._toys.Toys`."""
        n = self.pool.n_reference
        count = _toys.data_count(rng, self.n_data, self.expected, n)
        drawn = np.sort(rng.choice(n, count, replace=False, shuffle=False))
        total = count if self.expected is None else self.expected
        return self.pool, _Rows(drawn, True, total / (n - count), n - count, count)


@dataclass(frozen=True)
class _PartitionedBackend:
    """`Backend` on the partitions of a pool and on the data of the observed pair, added in their order."""

    name: str

    def value_and_gradient(
        self, pool: PartitionedPool, weights: Any, kernels: Kernels, competition: bool, loss: str
    ) -> Evaluation:
        on_workers, of_data = weights
        arguments = {"kernels": kernels, "competition": competition, "loss": loss, "name": self.name}
        futures = pool.client.map(_evaluate, pool.parts, on_workers, pure=False, **arguments)
        terms = pool.client.gather(futures)
        if pool.data is not None:
            backend = Backend(self.name, alone=False)
            terms.append(backend.value_and_gradient(pool.data, of_data, kernels, competition, loss))
        return Evaluation(*(_add(parts) for parts in zip(*terms, strict=True)))


@dataclass(frozen=True)
class _PartitionedStatistic(SparKerStatistic):
    """The statistic of `SparKerTest`, each of its sums over rows taken where the rows are."""

    on_device = False  # the workers may have one, but the steps are made here

    def learn(self, pool: Any, rng: np.random.Generator) -> Plan:
        """What is learned comes from a sample of the rows."""
        return super().learn(pool.sample(rng), rng)

    def share(self, pool: Any, toys: Sequence[Any], plan: Plan, n_jobs: int | None = 1) -> Sequence[Shared]:
        """Scores and companions of each toy; the workers decide on threads."""
        places = plan.candidates, plan.schedule[:, -1], plan.kept, plan.moments
        futures = pool.client.map(_share, pool.parts, pool.within_parts(toys), places=places, pure=False)
        terms = pool.client.gather(futures)
        if pool.data is not None:
            terms.append(_sums(pool.data, [_of_data(pool.data, toy) for toy in toys], *places))
        scores = _starts.ScoreSums(*(_add(parts) for parts in zip(*(term[0] for term in terms), strict=True)))
        companions = np.empty((len(toys), 0))
        if plan.moments is not None:
            sums = _companions.Sums(*(_add(parts) for parts in zip(*(term[1] for term in terms), strict=True)))
            companions = _companions.entries(sums, plan.moments)
        standardised = _starts.standardise(scores, [toy.unit for toy in toys])
        return [Shared(*of_toy) for of_toy in zip(standardised, companions, strict=True)]

    def _objective(self, pool: Any, toys: Sequence[Any], n_jobs: int | None, alone: bool) -> Objective:
        on_workers = pool.client.map(_stack, pool.parts, pool.within_parts(toys), pure=False)
        of_data = None
        if pool.data is not None:
            of_data = stack([_of_data(pool.data, toy) for toy in toys], np.arange(pool.data.n_rows))
        backend: Any = _PartitionedBackend(self.backend)
        weights: Any = on_workers, of_data
        return Objective(pool, weights, self.competition, self.alpha, backend, self.loss, self.entropy)


class PartitionedTest(SparKerTest):
    """`SparKerTest` for a reference that is a Dask array, in the memory of the workers of a cluster.

    Every sum over reference rows, of the scores, of the loss, its gradient and Hessian, is taken on the workers, one
    partition at a time, and added up on the client in the order of the partitions. The solver runs on the client. Toys
    are those of ``calibration="split"``, which has to be passed: N_D random rows of the reference are the data of a
    toy, all others its reference, and 16 toys share each pass.

    Parameters are those of `SparKerTest`; ``start`` must be "score". ``score_samples``, ``transform``, ``p_value``,
    ``result``, ``calibrate`` and all that they take work as there. Whatever lists rows of the samples, `kernel_table`
    and `kernel_significance`, does not.

    See Also
    --------
    sparker.SparKerTest : For a reference on one machine.

    Examples
    --------
    >>> import dask.array, distributed  # doctest: +SKIP
    >>> from sparker.distributed import PartitionedTest
    >>> data = np.load("data.npy")  # doctest: +SKIP
    >>> client = distributed.Client("scheduler:8786")  # doctest: +SKIP
    >>> reference = dask.array.from_zarr("reference.zarr")  # doctest: +SKIP
    >>> test = PartitionedTest(calibration="split", n_toys=99)  # doctest: +SKIP
    >>> test.fit(reference, data=data).p_value()  # doctest: +SKIP
    """

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, *, data: Any = None, sample_weight: Any = None) -> Self:
        """Fit the kernels to a reference on a cluster and data on the client.

        Parameters
        ----------
        X : dask.array.Array of shape (n_reference, n_features)
            Reference; any chunks, all numbers finite. It is kept in the memory of the workers.
        y : array-like of shape (n_data, n_features), default=None
            The data sample.
        data : array-like of shape (n_data, n_features), default=None
            The data sample, as a keyword.
        sample_weight : None
            Weights of rows are not supported here.

        Returns
        -------
        self : object
            Fitted estimator.

        Raises
        ------
        ImportError
            If Dask is not installed.
        TypeError
            If `X` is no Dask array.
        ValueError
            If there is no Dask client, if weights are given, if ``calibration`` is not "split" or ``start`` not
            "score", if a sample is empty or not finite, or if the reference has fewer than twice the rows of the data.
        """
        client = _client()
        second = self._refuse(X, y, data, sample_weight)
        self._forget()
        second = validate_data(self, to_host(second), dtype=FLOATS, order="C")
        if second.shape[1] != X.shape[1]:
            raise ValueError(f"data has {second.shape[1]} features, but X has {X.shape[1]}: they must agree.")
        dtype = np.result_type(X.dtype, second.dtype) if X.dtype in FLOATS else np.dtype(np.float64)
        if dtype == np.float32 and not float32_suffices(Pool([second])):
            dtype = np.dtype(np.float64)
        second = second.astype(dtype, copy=False)
        self.classes_ = np.array([0, 1])
        self.seed_ = _draw_seed(self.random_state)
        parts, sizes = _parts(client, X.astype(dtype))
        n_reference, n_data = sum(sizes), len(second)
        if n_reference < 2 * n_data:
            raise ValueError(
                f"PartitionedTest needs twice as many reference as data rows, found {n_reference} and {n_data}."
            )
        rng = _calibration.generator(self.seed_, _calibration.POOL_STREAM)
        # Toys take their data out of the reference; the observed pair gives up as many rows, to be like them.
        left_out = np.sort(rng.choice(n_reference, n_data, replace=False, shuffle=False))
        expected = n_data if self.expected_count is None else self.expected_count
        weights = _Rows(left_out, False, expected / (n_reference - n_data), n_reference - n_data, n_data)
        pool = PartitionedPool(client, parts, sizes, X.shape[1], dtype, Pool([second]), left_out)
        observed = _toys.Observed(pool, weights, n_reference, n_data, self.expected_count, np.empty(0))  # type: ignore[arg-type]
        statistic = self._make_statistic()
        samples: Any = _Samples(X.name)
        self._fitted = Fitted(
            statistic,
            samples,
            samples.fingerprint(),
            observed,
            statistic.learn(pool, rng),  # type: ignore[arg-type]
            self.calibration,
            Rule(self.aggregation, statistic.entry_weights),
            self.n_toys,
            self.tail,
            self.stopping,
            self.null_distribution,
        )
        if self.null_distribution is not None:
            self._check_bank(self.null_distribution)
        self._evaluate_observed()
        return self

    def _make_statistic(self) -> SparKerStatistic:
        statistic = super()._make_statistic()
        return _PartitionedStatistic(**{name: getattr(statistic, name) for name in statistic.__dataclass_fields__})

    def _refuse(self, X: Any, y: Any, data: Any, sample_weight: Any) -> Any:
        """What is not supported; returns the data."""
        if not hasattr(X, "to_delayed") or getattr(X, "ndim", 0) != 2:
            raise TypeError(f"X is {type(X).__name__}: needed is a two-dimensional dask.array.Array.")
        if (y is None) == (data is None):
            raise ValueError("Pass the data sample once, as fit(reference, data) or fit(reference, data=...).")
        if sample_weight is not None:
            raise ValueError("sample_weight is not supported by PartitionedTest: rows of the reference weigh the same.")
        for name, needed in (("calibration", "split"), ("start", "score")):
            if getattr(self, name) != needed:
                raise ValueError(f"{name} is {getattr(self, name)!r}: PartitionedTest needs {name}={needed!r}.")
        return data if data is not None else y

    _splits = False

    @property
    def _toy_jobs(self) -> int:
        """One process, this one, tells the workers what to do."""
        return 1

    def _make_toys(self) -> Any:
        pool: Any = self._fitted.observed.pool
        alone = PartitionedPool(
            pool.client, pool.parts, pool.sizes, pool.n_features, pool.dtype, None, np.empty(0, np.int64)
        )
        return _SplitToys(alone, self._fitted.observed.n_data, self._fitted.observed.expected)

    def kernel_table(self, n_nearest: int = 10) -> NoReturn:
        """Not supported: the rows are on the workers. ``centers_``, ``amplitudes_`` and ``width_`` say where.

        Parameters
        ----------
        n_nearest : int, default=10
            Not used.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError(
            "PartitionedTest lists no rows: centers_, amplitudes_ and width_ say where the kernels are."
        )

    def kernel_significance(self) -> NoReturn:
        """Not supported, see `kernel_table`.

        Raises
        ------
        NotImplementedError
            Always.
        """
        self.kernel_table()

    def expected_excess(self, kernels: Any = None) -> NoReturn:
        """Not supported, see `kernel_table`.

        Parameters
        ----------
        kernels : array-like of int of shape (n,), default=None
            Not used.

        Raises
        ------
        NotImplementedError
            Always.
        """
        self.kernel_table()

    def local_p_values(self, centers: Any, width: float) -> NoReturn:
        """Not supported, see `kernel_table`.

        Parameters
        ----------
        centers : array-like of shape (n_places, n_features)
            Not used.
        width : float
            Not used.

        Raises
        ------
        NotImplementedError
            Always.
        """
        self.kernel_table()

    def decision_function(self, X: Any) -> Array:
        """Log odds that a row is data: f(x) + log(N(D|H0) / N_R).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        log_odds : ndarray of shape (n_samples,)
            Positive where a row is more likely data than reference, at the sizes of the samples.
        """
        log_ratio = self.score_samples(X)
        observed = self._fitted.observed
        expected = observed.n_data if observed.expected is None else observed.expected
        return log_ratio + np.log(expected / observed.n_reference)


@dataclass(frozen=True)
class _Samples:
    """Stands for samples that cannot be changed in place."""

    name: str
    pooled: bool = False

    def fingerprint(self) -> str:
        return self.name


def _client() -> Any:
    try:
        from distributed import get_client
    except ImportError as error:
        raise ImportError("PartitionedTest needs Dask: pip install 'sparker[dask]'.") from error
    try:
        return get_client()
    except ValueError as error:
        raise ValueError("There is no Dask client: make one, distributed.Client(...), before fit.") from error


def _parts(client: Any, X: Any) -> tuple[list[Any], list[int]]:
    """Partitions that stay on the workers, and their numbers of rows."""
    blocks = client.compute(list(X.rechunk({1: -1}).to_delayed().ravel()))
    sizes = client.gather(client.map(_checked_size, blocks))
    kept = [(block, size) for block, size in zip(blocks, sizes, strict=True) if size]
    if not kept:
        raise ValueError("The reference, X, has 0 rows: at least one is needed.")
    return [client.submit(_make_pool, block, pure=False) for block, _ in kept], [size for _, size in kept]


def _checked_size(rows: Array) -> int:
    if not np.isfinite(rows).all():
        raise ValueError("The reference, X, contains NaN or infinity.")
    return len(rows)


def _make_pool(rows: Array) -> Pool:
    return Pool([np.ascontiguousarray(rows)])


def _take(pool: Pool, wanted: Array) -> Array:
    return pool.rows(wanted)


def _fingerprint(pool: Pool) -> str:
    return pool.fingerprint()


def _weights(pool: Pool, toys: Sequence[_Rows]) -> list[Weights]:
    return [toy.weights(pool.n_rows, pool.dtype) for toy in toys]


def _stack(pool: Pool, toys: Sequence[_Rows]) -> StackedWeights:
    return stack(_weights(pool, toys), pool.packed[1])


def _evaluate(
    pool: Pool, weights: StackedWeights, kernels: Kernels, competition: bool, loss: str, name: str
) -> Evaluation:
    with one_blas_thread():
        return Backend(name, alone=False).value_and_gradient(pool.packed[0], weights, kernels, competition, loss)


def _share(pool: Pool, toys: Sequence[_Rows], places: Any) -> Any:
    return _sums(pool, _weights(pool, toys), *places)


def _sums(pool: Pool, weights: Sequence[Weights], candidates: Array, widths: Array, kept: Array, moments: Any) -> Any:
    """Sums of the scores and of the companions over the rows of a pool."""
    with one_blas_thread():
        scores = _starts.score_sums(pool, weights, candidates, widths, kept=kept)
        if moments is None:
            return scores, None
        return scores, _companions.sums(pool, weights, _companions.on_pool(moments, pool))


def _of_data(pool: Pool, of_pair: _Rows) -> Weights:
    """Weights of the data rows of the observed pair."""
    one = np.ones(pool.n_rows, pool.dtype)
    return Weights(0 * one, one, of_pair.unit)


def _add(parts: Sequence[Array]) -> Array:
    """Sum in the order of the partitions; a part with one column stands for all."""
    return reduce(np.add, parts)
