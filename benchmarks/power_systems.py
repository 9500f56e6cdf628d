"""Who is measured: sparker with its defaults, the papers' settings, and rivals; each gives numbers for a pair.

A system takes a pair and a seed to a vector of entries, larger meaning less compatible with the reference, and names
the rule that joins them. Nothing here runs toys: the judge compares entries with those of null pairs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats
from sklearn.covariance import ledoit_wolf
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import pairwise_distances_chunked, roc_auc_score
from sklearn.model_selection import train_test_split

from sparker import SparKerTest, presets
from sparker._aggregation import RULES, Rule, counted_log_p
from sparker._statistic import WEIGHTS
from sparker.datasets import SamplePair
from sparker.peers import LikelihoodRatioTest, MMDTest, StaticKernelTest

RULES["power-mean of counts"] = (counted_log_p, RULES["power-mean"][1])  # for an ablation

Entries = Callable[..., np.ndarray]


@dataclass(frozen=True)
class System:
    """A name, how entries are computed from (pair, expected count, seed, options), and the rule that joins them.

    It is left out where there are more features than it can bear, and, if it is slow, where there is nothing to judge.
    Systems with the same ``computed`` have the same entries, and differ in the rule.
    """

    name: str
    entries: Entries
    rule: Rule = Rule("min")
    max_features: int = 10_000
    knows_truth: bool = False
    computed: str = ""
    has_backend: bool = False
    is_slow: bool = False


def _estimator(make: Callable[..., Any]) -> Entries:
    def entries(pair: SamplePair, expected_count: float | None, seed: int, **options: Any) -> np.ndarray:
        test = make(expected_count=expected_count, random_state=seed, **options)
        reference, data = (rows.astype(np.float32) for rows in (pair.reference, pair.data))
        return test.fit(reference, data=data).statistics_

    return entries


def sparker(name: str = "sparker", **params: Any) -> System:
    """`SparKerTest` with some parameters changed."""
    test = SparKerTest(**params)
    rule = Rule(test.aggregation, test._make_statistic().entry_weights)
    return System(name, _estimator(lambda **given: SparKerTest(**params, **given)), rule, has_backend=True)


def ruled(name: str, rule: str = "power-mean", **weights: float) -> System:
    """`SparKerTest` with its entries joined by another rule, or with other weights of some kinds of them."""
    default = sparker()
    kinds = SparKerTest()._make_statistic()._kinds()
    of_entries = np.array([(WEIGHTS | weights)[kind] / kinds.count(kind) for kind in kinds])
    return replace(default, name=name, rule=Rule(rule, of_entries / of_entries.sum()), computed=default.name)


def _likelihood_ratio(pair: SamplePair, expected_count: float | None, seed: int) -> np.ndarray:
    test = LikelihoodRatioTest(pair.true_log_ratio, expected_count=expected_count, random_state=seed)
    return test.fit(pair.reference, data=pair.data).statistics_


def _mahalanobis(pair: SamplePair, expected_count: float | None, seed: int) -> np.ndarray:
    """Mean Mahalanobis distance of the data from the reference."""
    reference, data = (rows.astype(np.float64) for rows in (pair.reference, pair.data))
    mean = reference.mean(axis=0)
    covariance, _ = ledoit_wolf(reference - mean)
    z = np.linalg.solve(np.linalg.cholesky(covariance), (data - mean).T)
    return np.array([np.sqrt(np.sum(z**2, axis=0)).mean()])


def _classifier(pair: SamplePair, expected_count: float | None, seed: int) -> np.ndarray:
    """Area under the ROC curve of boosted trees on the half of the rows that they were not trained on."""
    X = np.concatenate([pair.reference, pair.data])
    y = np.repeat([0, 1], [len(pair.reference), len(pair.data)])
    train_X, test_X, train_y, test_y = train_test_split(X, y, test_size=0.5, stratify=y, random_state=seed)
    # Class weights do not matter for the area, and make the binning slow.
    model = HistGradientBoostingClassifier(max_iter=50, max_bins=63, max_leaf_nodes=8, random_state=seed)
    model.fit(train_X, train_y)
    return np.array([roc_auc_score(test_y, model.predict_proba(test_X)[:, 1])])


def _energy(pair: SamplePair, expected_count: float | None, seed: int) -> np.ndarray:
    """Energy distance, as dcor's; its arrays of all differences are too large for many features."""
    reference, data = (rows.astype(np.float64) for rows in (pair.reference, pair.data))
    if reference.shape[1] == 1:
        return np.array([stats.energy_distance(reference[:, 0], data[:, 0])])

    def mean_distance(X: np.ndarray, Y: np.ndarray) -> float:
        return sum(part.sum() for part in pairwise_distances_chunked(X, Y, working_memory=64)) / (len(X) * len(Y))

    between, within = mean_distance(reference, data), mean_distance(reference, reference) + mean_distance(data, data)
    return np.array([np.sqrt(max(2 * between - within, 0.0))])


ALL = [
    sparker(),
    System("ideal", _likelihood_ratio, knows_truth=True),
    System("MMD", _estimator(lambda expected_count, **given: MMDTest(**given)), Rule("min-mean")),
    System("static kernels", _estimator(lambda **given: StaticKernelTest(n_kernels=100, **given)), Rule("min")),
    System(
        "static kernels, 5 widths",
        _estimator(lambda **given: StaticKernelTest(n_kernels=100, n_widths=5, **given)),
        Rule("min-mean"),
    ),
    System("Mahalanobis", _mahalanobis),
    System("classifier", _classifier),
    System("energy distance", _energy, is_slow=True),
    System(
        "SparKer, arXiv:2511.03095",
        _estimator(lambda **given: SparKerTest(**presets.SPARKER, **given)),
        Rule("min-mean"),
        max_features=100,
        is_slow=True,
    ),
    System(
        "SparKer-NPLM, 2000 passes",
        _estimator(lambda **given: SparKerTest(**presets.sparker_nplm(n_passes=2000), **given)),
        Rule("min"),
        max_features=100,
        is_slow=True,
    ),
]
