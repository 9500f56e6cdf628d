"""Toys to a null distribution, in parallel; knows nothing of the statistic but how to call it."""

import logging
from collections.abc import Iterator, Sequence
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
        _ = toys.pool.order, toys.pool.origin  # computed here, once, not in each worker
    done = Parallel(n_jobs=n_jobs, return_as="generator")(
        delayed(_evaluate_batch)(statistic, toys, plan, seed, batch) for batch in batches
    )
    parts = list(_progress(done, batches, verbose))
    values, converged, failures = ([item for part in parts for item in part[column]] for column in range(3))
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
) -> tuple[list[Array], list[bool], list[str | None]]:
    """Values, convergence and failure of each toy of a batch."""
    # A product's last bits depend on its shape: a batch on a shared pool is always drawn whole, however few are wanted.
    n_drawn = len(batch) if toys.pool is None else BATCH
    rngs = [generator(seed, i) for i in range(batch.start, batch.start + n_drawn)]
    drawn = [toys.draw(rng) for rng in rngs]
    if toys.pool is None:
        # Toys with their own pool learn anew what the observed pair learned from its pool.
        plans = [statistic.learn(pool, rng) for (pool, _), rng in zip(drawn, rngs, strict=True)]
        shared = [statistic.share(pool, [w], p)[0] for (pool, w), p in zip(drawn, plans, strict=True)]
    else:
        plans = [plan] * n_drawn
        shared = list(statistic.share(toys.pool, [weights for _, weights in drawn], plan))
    values: list[Array] = []
    converged: list[bool] = []
    failures: list[str | None] = []
    for _, (pool, weights), rng, own, part in zip(batch, drawn, rngs, plans, shared, strict=False):
        try:
            value, good = statistic.evaluate(pool, weights, own, rng, part)
        except ValueError as error:
            value, good = np.empty(0), False
            failures.append(str(error))
        else:
            failures.append(None)
        values.append(value)
        converged.append(good)
    return values, converged, failures


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
