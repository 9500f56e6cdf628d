"""Time and peak memory of each layer, for asv: from a pass over the rows to a whole test.

Run from benchmarks/: asv run --python=same --quick (this tree), asv continuous main HEAD (two commits).
"""

import numpy as np

from sparker import SparKerTest, _companions, _schedule, _starts
from sparker._aggregation import Rule, aggregate
from sparker._backends import Backend, Kernels, StackedWeights
from sparker._objective import Objective
from sparker._pool import Pool
from sparker._solvers import NewtonSolver
from sparker._tail import extrapolate
from sparker._toys import PermutationToys

SIZES = [(20_000, 1), (7000, 16), (5000, 300)]
M, N_WIDTHS, N_TOYS = 3, 8, 16


class Layers:
    """One pool with the toys of a batch."""

    params = (SIZES,)
    param_names = ("rows, features",)

    def setup(self, size: tuple[int, int]) -> None:
        n_rows, n_features = size
        rng = np.random.default_rng(0)
        self.X = rng.normal(size=size).astype(np.float32)
        self.pool = Pool([self.X])
        self.pool.prepare()
        draw = PermutationToys(self.pool, n_rows // 10, None)
        self.toys = [draw.draw(rng)[1] for _ in range(N_TOYS)]
        packed, order = self.pool.packed
        weights = StackedWeights(
            np.stack([toy.reference[order] for toy in self.toys]), np.stack([toy.data[order] for toy in self.toys])
        )
        self.objective = Objective(packed, weights, True, 0.5, Backend())
        widths = np.geomspace(2, 0.2, N_WIDTHS) * n_features**0.5
        owners = np.repeat(np.arange(N_TOYS), N_WIDTHS)
        centers = self.X[rng.integers(n_rows, size=(len(owners), M))].astype(np.float64)
        self.kernels = Kernels(owners, rng.normal(size=(len(owners), M)), centers, np.tile(widths, N_TOYS))
        self.widths = widths
        self.candidates = _starts.dictionary(self.pool, 200, rng)
        self.moments = _companions.learn(self.pool)
        self.rng = rng
        self.objective(self.kernels)

    def time_pass(self, size: tuple[int, int]) -> None:
        self.objective(self.kernels)

    def time_fit(self, size: tuple[int, int]) -> None:
        schedule = np.repeat(self.kernels.widths[:, None, None], 6, axis=2)
        NewtonSolver(5.0).solve(self.objective, self.kernels.toys, self.kernels.centers, schedule)

    def time_scores(self, size: tuple[int, int]) -> None:
        _starts.scores(self.pool, self.toys, self.candidates, self.widths)

    def time_companions(self, size: tuple[int, int]) -> None:
        _companions.companions(self.pool, self.toys, self.moments)

    def time_learn_moments(self, size: tuple[int, int]) -> None:
        _companions.learn(self.pool)

    def time_dictionary(self, size: tuple[int, int]) -> None:
        _starts.dictionary(self.pool, 200, np.random.default_rng(0))

    def time_width_range(self, size: tuple[int, int]) -> None:
        _schedule.width_range(self.pool, np.random.default_rng(0), None, None)

    def time_draw_toys(self, size: tuple[int, int]) -> None:
        draw = PermutationToys(self.pool, len(self.X) // 10, None)
        for _ in range(N_TOYS):
            draw.draw(self.rng)


class Tests:
    """Whole tests."""

    params = ([(300, 1), (4000, 1), (4000, 16), (2000, 300)],)
    param_names = ("reference rows, features",)
    timeout = 300

    def setup(self, size: tuple[int, int]) -> None:
        rng = np.random.default_rng(0)
        self.reference = rng.normal(size=size).astype(np.float32)
        self.data = rng.normal(size=(size[0] // 5, size[1])).astype(np.float32)
        self.fitted = SparKerTest(n_toys=16, random_state=0).fit(self.reference, data=self.data)
        self.fitted.p_value()

    def time_fit(self, size: tuple[int, int]) -> None:
        SparKerTest(random_state=0).fit(self.reference, data=self.data)

    def time_16_toys(self, size: tuple[int, int]) -> None:
        SparKerTest(n_toys=16, random_state=0).fit(self.reference, data=self.data).p_value()

    def time_score_samples(self, size: tuple[int, int]) -> None:
        self.fitted.score_samples(self.reference)

    def peakmem_16_toys(self, size: tuple[int, int]) -> None:
        SparKerTest(n_toys=16, random_state=0).fit(self.reference, data=self.data).p_value()


class Results:
    """From toys to p and Z."""

    def setup(self) -> None:
        self.null = np.random.default_rng(0).exponential(size=(1000, 42))
        self.observed = np.full(42, 3.0)

    def time_aggregate(self) -> None:
        aggregate(self.null, self.observed, Rule("power-mean"))

    def time_tail(self) -> None:
        extrapolate(self.null, self.observed, Rule("power-mean"), "pareto", np.random.default_rng(0))
