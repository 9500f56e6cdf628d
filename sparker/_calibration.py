"""Toys to a null distribution, in parallel; knows nothing of the statistic but how to call it."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, fields
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from joblib import Parallel, cpu_count, delayed, effective_n_jobs
from joblib.parallel import get_active_backend

from sparker._backends import one_blas_thread
from sparker._kernels_cupy import on_this_device
from sparker._null import NullDistribution, load_run, plain
from sparker._pool import BATCH, DEVICE_BATCH, DEVICE_THREADS, Pool, Weights
from sparker._toys import CallableToys, Observed, PermutationToys, ThinnedToys, Toys
from sparker._version import __version__

Array = npt.NDArray[Any]

logger = logging.getLogger("sparker")

APART, POOLED = "reference and data apart", "pooled rows with labels"

# Streams of one seed beside those of the toys, which are 0, 1, 2 ...
POOL_STREAM = 2**32 - 1
OBSERVED_STREAM = 2**32 - 2
PLAN_STREAM = 2**32 - 3
TAIL_STREAM = 2**32 - 4

DEVICE_BYTES = 1 << 32  # of the weights that the host has at a time for a device, of all toys and copies of them
ROUNDS = 4  # batches for each worker, between two checkpoints, where a backend returns results all at once
LOSSES = 3  # of the rows, with nothing finished in between, after which a cluster is given up
WRITING = 0.05  # largest share of the time that goes into writing finished toys

Toy = tuple[Array, bool, str | None]  # values, convergence, and what failed


class Statistic(Protocol):
    """A test statistic: a vector over scales for every pair of weights on a pool.

    Attributes
    ----------
    on_device : bool
        Whether a GPU does the work: one process then takes large batches.
    entry_weights : ndarray of shape (n_entries,) or None
        Weight of each entry in the aggregate, of sum 1; None: equal.
    """

    @property
    def on_device(self) -> bool:
        """See the attributes."""

    @property
    def entry_weights(self) -> Array | None:
        """See the attributes."""

    def learn(self, pool: Pool, rng: np.random.Generator) -> Any:
        """What may be learned from the rows of a pool without labels: a plan, frozen for all toys on it."""

    def share(self, pool: Pool, toys: Sequence[Weights], plan: Any) -> Sequence[Any]:
        """What is cheaper to compute for a batch of toys at once, for each of them."""

    def evaluate(
        self,
        pool: Pool,
        toys: Sequence[Weights],
        plan: Any,
        rngs: Sequence[np.random.Generator],
        shared: Sequence[Any],
    ) -> Sequence[tuple[Array, bool] | ValueError]:
        """Values (n_entries,) of each toy and whether its fit converged, or the error where a value is not finite.

        What is found for a toy must not depend on the others.
        """


def generator(seed: int, stream: int) -> np.random.Generator:
    """Generator of one stream: a function of (seed, stream) alone."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream,)))


def describe(statistic: Any, toys: Toys, observed: Observed, seed: int, pooled: bool) -> dict[str, Any]:
    """Items that two calibrations must share for their toys to be exchanged: see ``NullDistribution.origin``.

    Permutation toys share what was learned from the pool with the seed, so that the seed is one of the items; all
    others learn from rows that the observed pair does not have, or anew. A pool that was scaled as a whole knows its
    data: toys from its reference would serve no other data, and the form of the samples is an item there.
    """
    kept, counted = isinstance(toys, PermutationToys), observed.expected is not None
    rows = toys.reference if isinstance(toys, ThinnedToys) else toys.pool  # with the weights that they are drawn by
    items: dict[str, Any] = {"version": __version__, "statistic": type(statistic).__name__}
    items |= {item.name: getattr(statistic, item.name) for item in fields(statistic)}
    items |= {
        "calibration": toys.function if isinstance(toys, CallableToys) else toys.name,
        "rows": None if rows is None else rows.fingerprint(),
        "n_rows": None if rows is None else rows.n_rows,
        "n_features": observed.pool.n_features,
        "dtype": str(observed.pool.dtype),
        "n_data": None if counted else observed.n_data,
        "expected_count": observed.expected,
    }
    if isinstance(toys, CallableToys):  # which draw references of a size of their own
        items["n_reference"] = observed.n_reference
    if kept:
        items["seed"] = seed
    elif toys.pool is not None:
        items["samples"] = POOLED if pooled else APART
    return dict(plain(items))


def simulate(
    statistic: Statistic,
    toys: Toys,
    plan: Any,
    seed: int,
    n_toys: int,
    *,
    n_jobs: int | None = None,
    verbose: int = 0,
    first: int = 0,
    origin: Mapping[str, Any] | None = None,
    path: Any = None,
    stopping: tuple[int, Callable[[Array], int]] | None = None,
) -> NullDistribution:
    """Evaluate the statistic on `n_toys` toys, the first of which has the number `first`.

    Toy i depends on (seed, i) alone: the same numbers for any `n_jobs`, and 100 toys are the first 100 of 1000.
    Finished toys are written to `path`, if there is one, and those that it holds already are not simulated again.

    With `stopping`, a number and what counts the exceedances among the toys so far, the last toy is the first at which
    the count reaches the number. Toys behind it that other processes had begun are dropped.

    Raises
    ------
    ValueError
        If there are no numbers for so many toys from `first` on, or the file at `path` is that of another calibration.
    ToyFailure
        If more than 5 % of the toys fail, and more than one.
    """

    def collect() -> NullDistribution:
        numbers = np.arange(first, first + len(rows))
        return _collect(rows, seed, numbers, toys.name, dict(origin or {}), limit)

    if n_toys > TAIL_STREAM:  # the streams behind are not for toys
        raise ValueError(f"n_toys is {n_toys}: a seed has {TAIL_STREAM} toys.")
    if not 0 <= first <= TAIL_STREAM - n_toys:
        raise ValueError(f"first is {first}: needed is a number from 0 to {TAIL_STREAM - n_toys}.")
    limit = None if stopping is None else stopping[0]
    rows = _resume(path, {**(origin or {}), "seed": seed, "first": first, "stopping": limit})[:n_toys]
    n_read, end = len(rows), _stopping_index(rows, 0, stopping)
    batches = list(_batches(first + len(rows), first + n_toys, _batch_size(statistic)))
    if toys.pool is not None:
        toys.pool.prepare()
    work = _Work(statistic, toys, plan, seed)
    evaluate = delayed(on_this_device(_evaluate_batch) if _on_threads(statistic) else _evaluate_batch)
    # joblib takes tasks as it goes: after the end there are no more
    tasks = (evaluate(work, batch) for batch in batches if end is None)
    checkpoint = _Checkpoint(path)
    # Set here as well, so that workers which are threads of this process find one thread, and leave it at that.
    with one_blas_thread():
        for part in _progress(_run(tasks, work, 1 if statistic.on_device else n_jobs), batches, verbose):
            if end is None:
                rows += part
                end = _stopping_index(rows, len(rows) - len(part), stopping)
                rows = rows[:end]
            checkpoint.offer(collect)
    rows = rows[:end]
    null = collect()
    if path is not None and len(rows) > n_read:  # a file that holds more toys than this run needs keeps them
        null.save(path)
    null.check_failures()
    _log(null)
    return null


class _Checkpoint:
    """Writes what is finished, now and then: the next time when the last has become a small share of the time."""

    def __init__(self, path: Any) -> None:
        self.path = path
        self.next = time.monotonic()

    def offer(self, collect: Callable[[], NullDistribution]) -> None:
        """Write the toys, or leave it for later."""
        start = time.monotonic()
        if self.path is not None and start >= self.next:
            collect().save(self.path)
            end = time.monotonic()
            self.next = end + (end - start) / WRITING


def _batch_size(statistic: Statistic) -> int:
    return DEVICE_BATCH if statistic.on_device else BATCH


def _batches(first: int, last: int, size: int) -> Iterator[range]:
    """Ranges of toys, cut where the number is a multiple of `size`: a toy is always at its place in a batch."""
    while first < last:
        stop = min(first - first % size + size, last)
        yield range(first, stop)
        first = stop


def _stopping_index(
    rows: Sequence[Toy], n_checked: int, stopping: tuple[int, Callable[[Array], int]] | None
) -> int | None:
    """Number of toys at which the count of exceedances first reaches its limit; None if it does not."""
    if stopping is None:
        return None
    limit, count = stopping
    values = _values(rows)
    if not values.shape[1]:  # all have failed: `check_failures` says why
        return len(rows) if len(rows) >= limit else None
    for n in range(max(n_checked + 1, limit), len(rows) + 1):
        if count(values[:n]) >= limit:
            return n
    return None


def _values(rows: Sequence[Toy]) -> Array:
    """Values of toys, +inf for those that failed."""
    n_entries = max((len(values) for values, _, _ in rows), default=0)
    values = [values if message is None else np.full(n_entries, np.inf) for values, _, message in rows]
    return np.array(values).reshape(len(rows), n_entries)


def _collect(
    rows: Sequence[Toy], seed: int, numbers: Array, calibration: str, origin: dict[str, Any], stopping: int | None
) -> NullDistribution:
    return NullDistribution(
        values=_values(rows),
        converged=np.array([converged for _, converged, _ in rows], dtype=bool),
        failed=np.array([message is not None for _, _, message in rows], dtype=bool),
        seeds=np.full(len(rows), seed, dtype=np.int64),
        numbers=numbers.astype(np.int64),
        calibration=calibration,
        failures=tuple(message for _, _, message in rows if message is not None),
        origin=origin,
        stopping=stopping,
    )


def _resume(path: Any, needed: Mapping[str, Any]) -> list[Toy]:
    """Toys that an earlier run has written; an error if they are others than this run would simulate."""
    if path is None or not Path(path).exists():
        return []
    null = load_run(path, needed)
    messages = iter(null.failures)
    return [
        (np.empty(0), False, next(messages)) if failed else (values, bool(converged), None)
        for values, converged, failed in zip(null.values, null.converged, null.failed, strict=True)
    ]


def _log(null: NullDistribution) -> None:
    for message in null.failures:
        logger.warning("Failed, counted as reaching the observed statistic: %s", message)
    if names := null.not_converged:
        logger.info("Not converged, keep their value as the observed fit would: %s", ", ".join(names))


@dataclass(frozen=True)
class _Work:
    """What all batches have in common."""

    statistic: Statistic
    toys: Toys
    plan: Any
    seed: int


def _run(tasks: Iterator[Any], work: _Work, n_jobs: int | None) -> Iterator[list[Toy]]:
    """Results of tasks in their order, as they come; in rounds where the backend cannot hand them out singly."""
    active, _ = get_active_backend()
    if hasattr(active, "client"):
        yield from _run_on_dask(active, tasks, work, n_jobs)
        return
    backend: Any = None
    ahead = "2*n_jobs"  # tasks that are handed out, joblib's default
    if _on_threads(work.statistic):
        n_jobs, backend = _device_threads(work.toys), "threading"
        ahead = "n_jobs"  # of large batches: where toys stop early, others have been for nothing
    if active.supports_return_generator:
        yield from Parallel(n_jobs=n_jobs, backend=backend, return_as="generator", pre_dispatch=ahead)(tasks)
        return
    parallel = Parallel(n_jobs=n_jobs, backend=backend)
    while some := list(islice(tasks, ROUNDS * effective_n_jobs(n_jobs))):
        yield from parallel(some)


def _run_on_dask(active: Any, tasks: Iterator[Any], work: _Work, n_jobs: int | None) -> Iterator[list[Toy]]:
    """Results of tasks in their order; what is lost with a worker is sent and simulated again.

    Rows are sent to all workers, but Dask soon drops all copies but one. With the worker that has it go the rows, and
    all tasks that need them, which Dask then calls cancelled.
    """
    lock, handed_out, losses = threading.Lock(), deque[Any](), 0
    again = tasks

    def hand_out(unfinished: deque[Any], again: Iterator[Any]) -> Iterator[Any]:
        # Threads of an attempt that was given up may still ask for tasks: these must be of the next one.
        while True:
            with lock:
                task = next(again, None) if unfinished is handed_out else None
                if task is None:
                    return
                unfinished.append(task)
            yield task

    while True:
        backend = type(active)(client=active.client, scatter=[work], **active.submit_kwargs)
        with lock:
            again, handed_out = chain(handed_out, again), deque()
        try:
            for part in Parallel(n_jobs=n_jobs, backend=backend, return_as="generator")(hand_out(handed_out, again)):
                handed_out.popleft()
                losses = 0
                yield part
            return
        except CancelledError:
            losses += 1
            if losses == LOSSES:
                raise
            logger.warning("A worker was lost, and the rows with it: they are sent again")


def _on_threads(statistic: Statistic) -> bool:
    """Whether threads of this process drive a device, not the workers of a cluster theirs."""
    active, _ = get_active_backend()
    return statistic.on_device and active.supports_return_generator and not hasattr(active, "client")


def _device_threads(toys: Toys) -> int:
    """Batches at a time on a device, fewer where many rows would fill the memory of the host."""
    if toys.pool is None:
        return 1
    of_batch = 4 * DEVICE_BATCH * toys.pool.n_rows * toys.pool.dtype.itemsize  # two weights, and a copy of both
    return max(1, min(DEVICE_THREADS, cpu_count(), DEVICE_BYTES // of_batch))


def _evaluate_batch(work: _Work, batch: range) -> list[Toy]:
    """Values, convergence and failure of each toy of a batch."""
    statistic, toys, plan, seed = work.statistic, work.toys, work.plan, work.seed
    rngs = [generator(seed, i) for i in batch]
    drawn = [_or_error(toys.draw, rng) for rng in rngs]
    good = [k for k, pair in enumerate(drawn) if not isinstance(pair, ValueError)]
    weights, some = [drawn[k][1] for k in good], [rngs[k] for k in good]
    found: list[Any] = list(drawn)
    if toys.pool is None:
        for k in good:
            found[k] = _or_error(evaluate_alone, statistic, *drawn[k], rngs[k])
    elif good:
        shared = _share(statistic, toys.pool, weights, plan, [batch.start % _batch_size(statistic) + k for k in good])
        for k, values in zip(good, statistic.evaluate(toys.pool, weights, plan, some, shared), strict=True):
            found[k] = values
    return [_outcome(values, i, seed) for i, values in zip(batch, found, strict=True)]


def _share(statistic: Statistic, pool: Pool, weights: Sequence[Weights], plan: Any, places: Sequence[int]) -> list[Any]:
    """What the toys at some places of a batch get from the passes that they share.

    A product's last bits depend on its shape and the place in it: a batch is always whole, a toy at its place.
    """
    whole = [weights[0]] * _batch_size(statistic)
    for place, toy in zip(places, weights, strict=True):
        whole[place] = toy
    shared = statistic.share(pool, whole, plan)
    return [shared[place] for place in places]


def evaluate_alone(statistic: Statistic, pool: Pool, weights: Weights, rng: np.random.Generator) -> Any:
    """Value of a toy that brings its own pool, and learns from it."""
    plan = statistic.learn(pool, rng)
    return statistic.evaluate(pool, [weights], plan, [rng], statistic.share(pool, [weights], plan))[0]


def _outcome(found: tuple[Array, bool] | ValueError, number: int, seed: int) -> Toy:
    if not isinstance(found, ValueError) and not np.all(np.isfinite(found[0])):
        found = ValueError("The statistic is not finite.")
    if isinstance(found, ValueError):
        return np.empty(0), False, f"toy {number}: {found} (seed {seed})"
    return (*found, None)


def _or_error(function: Callable[..., Any], *args: Any) -> Any:
    """What the function returns, or its ValueError: one toy that fails must not end the others."""
    try:
        return function(*args)
    except ValueError as error:
        return error


def _progress(done: Any, batches: Sequence[range], verbose: int) -> Iterator[Any]:
    """Pass results on, with a bar on completed toys where asked for."""
    if not verbose:
        yield from done
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        logger.info("No progress bar: pip install 'sparker[progress]'")
        yield from done
        return
    with tqdm(total=sum(map(len, batches)), desc="toys", unit="toy") as bar:
        for part in done:
            bar.update(len(part))
            yield part
