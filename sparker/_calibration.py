"""Toys to a null distribution, in parallel; knows nothing of the statistic but how to call it."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed

from sparker._pool import BATCH, Pool, Weights
from sparker._toys import Toys

Array = npt.NDArray[Any]

logger = logging.getLogger("sparker")

MAX_FAILED = 0.05

# Streams of one seed beside those of the toys, which are 0, 1, 2 ...
POOL_STREAM = 2**32 - 1
OBSERVED_STREAM = 2**32 - 2
PLAN_STREAM = 2**32 - 3


class ToyFailure(ValueError):
    """More toys failed than a p-value can bear."""


class Statistic(Protocol):
    """A test statistic: a vector over scales for every pair of weights on a pool."""

    def learn(self, pool: Pool, rng: np.random.Generator) -> Any:
        """What may be learned from the rows of a pool without labels: a plan, frozen for all toys on it."""

    def share(self, pool: Pool, toys: Sequence[Weights], plan: Any) -> Sequence[Any]:
        """What is cheaper to compute for a batch of toys at once, for each of them."""

    def evaluate(
        self, pool: Pool, weights: Weights, plan: Any, rng: np.random.Generator, shared: Any
    ) -> tuple[Array, bool]:
        """Values (n_entries,) and whether the fit converged; a ValueError where a value is not finite."""


@dataclass(frozen=True, slots=True)
class NullDistribution:
    """The statistic of toys drawn under the null, as vectors over scales.

    Attributes
    ----------
    values : ndarray of shape (n_toys, n_entries)
        Row i belongs to toy i, seeded by ``SeedSequence(seed, spawn_key=(i,))``. A failed toy is +inf in each entry.
    converged, failed : ndarray of bool of shape (n_toys,)
    seed : int
    calibration : str
        How toys were drawn.
    """

    values: Array
    converged: npt.NDArray[np.bool_]
    failed: npt.NDArray[np.bool_]
    seed: int
    calibration: str
    failures: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.values)


def generator(seed: int, stream: int) -> np.random.Generator:
    """Generator of one stream: a function of (seed, stream) alone."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream,)))


def simulate(
    statistic: Statistic, toys: Toys, plan: Any, seed: int, n_toys: int, n_jobs: int | None, verbose: int
) -> NullDistribution:
    """Evaluate the statistic on `n_toys` toys.

    Toy i depends on (seed, i) alone: the same numbers for any `n_jobs`, and 100 toys are the first 100 of 1000.

    Raises
    ------
    ToyFailure
        If more than 5 % of the toys fail.
    """
    batches = [range(first, min(first + BATCH, n_toys)) for first in range(0, n_toys, BATCH)]
    if toys.pool is not None:
        _ = toys.pool.order, toys.pool.scrambled, toys.pool.origin  # computed here, once, not in each worker
    done = Parallel(n_jobs=n_jobs, return_as="generator")(
        delayed(_evaluate_batch)(statistic, toys, plan, seed, batch) for batch in batches
    )
    parts = list(_progress(done, batches, verbose))
    values, converged, failures = zip(*(toy for part in parts for toy in part), strict=True)
    failed = np.array([failure is not None for failure in failures])
    messages = tuple(f"toy {i}: {failure}" for i, failure in enumerate(failures) if failure is not None)
    if failed.mean() > MAX_FAILED:
        raise ToyFailure(
            f"{failed.sum()} of {n_toys} toys failed, at most {MAX_FAILED:.0%} may (seed {seed}). First {messages[0]}"
        )
    for message in messages:
        logger.warning("Failed, counted as reaching the observed statistic: %s (seed %d)", message, seed)
    n_entries = max(len(row) for row in values)
    rows = [row if len(row) else np.full(n_entries, np.inf) for row in values]
    return NullDistribution(np.array(rows), np.array(converged), failed, seed, toys.name, messages)


def _evaluate_batch(
    statistic: Statistic, toys: Toys, plan: Any, seed: int, batch: range
) -> list[tuple[Array, bool, str | None]]:
    """Values, convergence and failure of each toy of a batch."""
    rngs = [generator(seed, i) for i in batch]
    drawn = [_or_error(toys.draw, rng) for rng in rngs]
    good = [pair[1] for pair in drawn if not isinstance(pair, ValueError)]
    if toys.pool is None or not good:
        return [_evaluate_toy(statistic, pair, None, None, rng) for pair, rng in zip(drawn, rngs, strict=True)]
    # A product's last bits depend on its shape and the place in it: a batch is always whole, a toy always at its place.
    weights = [good[0] if isinstance(pair, ValueError) else pair[1] for pair in drawn]
    shared = statistic.share(toys.pool, weights + good[:1] * (BATCH - len(batch)), plan)
    return [_evaluate_toy(statistic, *toy) for toy in zip(drawn, [plan] * len(batch), shared, rngs, strict=False)]


def _evaluate_toy(
    statistic: Statistic, pair: tuple[Pool, Weights] | ValueError, plan: Any, shared: Any, rng: np.random.Generator
) -> tuple[Array, bool, str | None]:
    """Values, convergence and failure of a toy; without a plan it learns from its own pool."""

    def evaluate(pool: Pool, weights: Weights) -> tuple[Array, bool]:
        if plan is not None:
            return statistic.evaluate(pool, weights, plan, rng, shared)
        learned = statistic.learn(pool, rng)
        return statistic.evaluate(pool, weights, learned, rng, statistic.share(pool, [weights], learned)[0])

    found = pair if isinstance(pair, ValueError) else _or_error(evaluate, *pair)
    return (np.empty(0), False, str(found)) if isinstance(found, ValueError) else (*found, None)


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
    with tqdm(total=batches[-1].stop, desc="toys", unit="toy") as bar:
        for batch, part in zip(batches, done, strict=True):
            bar.update(len(batch))
            yield part
