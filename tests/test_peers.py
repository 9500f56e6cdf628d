"""The rivals: each against its definition, and all of them on the base that they share with `SparKerTest`."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from scipy.special import expit
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.utils.estimator_checks import parametrize_with_checks

from sparker import SparKerTest, peers
from sparker._pool import Pool
from sparker._toys import PermutationToys, pair_weights
from sparker.datasets import make_exponential
from sparker.peers import LikelihoodRatioTest, MMDTest, StaticKernelStatistic, StaticKernelTest


def first_feature(X):
    return 0.3 * np.tanh(X[:, 0])


def all_peers(**params):
    return [
        MMDTest(random_state=0, **params),
        StaticKernelTest(n_kernels=12, random_state=0, **params),
        LikelihoodRatioTest(first_feature, random_state=0, **params),
    ]


# The likelihood ratio refuses toys whose data come from the reference.
MODES = [(k, mode) for k in range(3) for mode in ("permutation", "split", "bootstrap")][:7]


PEERS = pytest.mark.parametrize("make", [lambda k=k, **p: all_peers(**p)[k] for k in range(3)])


@parametrize_with_checks(all_peers(n_toys=3)[:2])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@PEERS
def test_numbers_do_not_depend_on_jobs_or_on_the_number_of_toys(make, samples):
    one, two = (make(n_toys=n, n_jobs=jobs).fit(*samples) for n, jobs in ((20, 1), (40, 2)))
    assert_array_equal(one.calibrate().values, two.calibrate().values[:20])


@PEERS
def test_result_and_scores(make, samples):
    test = make(n_toys=39).fit(*samples)
    result = test.result()
    assert result.pvalue == test.p_value()
    assert result.scales["statistic"].shape == result.scales["width"].shape == test.statistics_.shape
    assert test.score_samples(samples[1]).shape == (40,)
    assert test.predict(samples[1]).shape == (40,)
    assert 0.025 <= result.pvalue <= 1


def test_the_likelihood_ratio_takes_no_toys_whose_data_come_from_the_reference(samples):
    for calibration in ("split", "bootstrap"):
        with pytest.raises(ValueError, match=f"'calibration' parameter.*'{calibration}'"):
            LikelihoodRatioTest(first_feature, calibration=calibration).fit(*samples)


@pytest.mark.parametrize(("k", "calibration"), MODES)
@pytest.mark.filterwarnings("ignore:calibration:UserWarning")
def test_false_alarms_at_a_quarter(k, calibration):
    """On 60 null pairs with 19 toys, with the same seed: p <= 0.25 in 15 of them; 3.7 standard deviations."""
    rng = np.random.default_rng(0)
    p = [
        all_peers(n_toys=19, calibration=calibration)[k].fit(
            rng.exponential(size=(80, 2)), rng.exponential(size=(30, 2))
        )
        for _ in range(60)
    ]
    share = np.mean([test.p_value() <= 0.25 for test in p])
    assert share <= 0.25 + 3.7 * np.sqrt(0.25 * 0.75 / 60)


class TestMMD:
    @pytest.mark.parametrize("block", [300, 10_000_000])
    def test_is_the_unbiased_estimate(self, samples, block, monkeypatch):
        monkeypatch.setattr(peers, "BLOCK", block)  # two rows at a time, and all at once
        test = MMDTest(n_toys=5, random_state=0).fit(*samples)
        R, D = samples
        for width, found in zip(test.scales_["width"], test.statistics_, strict=True):
            rr, dd, rd = (rbf_kernel(a, b, 0.5 / width**2) for a, b in ((R, R), (D, D), (R, D)))
            n, m = len(R), len(D)
            want = (rr.sum() - n) / (n * (n - 1)) + (dd.sum() - m) / (m * (m - 1)) - 2 * rd.mean()
            assert_allclose(found, want, rtol=1e-9)

    def test_weights_are_those_of_the_rows(self, samples, rng):
        weight = rng.uniform(0, 2, 120)
        test = MMDTest(1, n_toys=5, random_state=0).fit(samples[0], data=samples[1], sample_weight=weight)
        R, D = samples
        rr, dd, rd = (rbf_kernel(a, b, 0.5 / test.width_**2) for a, b in ((R, R), (D, D), (R, D)))
        w = weight / weight.sum()
        want = (w @ rr @ w - w @ w) / (1 - w @ w) + (dd.sum() - 40) / (40 * 39) - 2 * np.mean(w @ rd)
        assert_allclose(test.statistics_, want, rtol=1e-9)

    def test_is_zero_on_average_under_the_null(self, rng):
        pool = Pool([rng.normal(size=(80, 2))])
        toys = [PermutationToys(pool, 30, None).draw(rng)[1] for _ in range(800)]
        statistic = peers.MMDStatistic(2)
        values = np.array([v for v, _ in statistic.share(pool, toys, np.array([2.0, 0.5]))])
        assert_allclose(values.mean(axis=0) / (values.std(axis=0) / np.sqrt(800)), 0, atol=4)

    def test_widths_are_powers_of_two_around_the_median(self, samples):
        widths = MMDTest(3, random_state=0).fit(*samples).scales_["width"]
        assert_allclose(widths / widths[1], [2, 1, 0.5], rtol=1e-12)
        X = np.concatenate(samples)
        assert_allclose(widths[1], np.median(cdist(X, X)), rtol=0.1)

    def test_scores_are_log_ratios_of_densities(self, samples):
        test = MMDTest(random_state=0).fit(*samples)
        x = samples[1][:3]
        data, reference = (rbf_kernel(x, rows, 0.5 / test.width_**2).mean(axis=1) for rows in samples[::-1])
        assert_allclose(test.score_samples(x), np.log(data / reference), rtol=1e-9)
        assert np.all(np.isfinite(test.score_samples(np.full((1, 2), 1e3))))

    def test_one_row_makes_no_pair_and_a_term_of_0(self, rng):
        reference, row = rng.normal(size=(200, 50)), 3 + rng.normal(size=(1, 50))
        test = MMDTest(random_state=0).fit(reference, row)
        for width, found in zip(test.scales_["width"], test.statistics_, strict=True):
            rr, rd = (rbf_kernel(reference, rows, 0.5 / width**2) for rows in (reference, row))
            assert_allclose(found, (rr.sum() - 200) / (200 * 199) - 2 * rd.mean(), rtol=1e-9)

    def test_compares_densities_whatever_the_count(self, samples):
        assert "expected_count" not in MMDTest().get_params()
        assert MMDTest(n_toys=9, random_state=0).fit(*samples).result().mode == "shape only"


class TestStaticKernels:
    def test_an_offset_changes_nothing(self, samples):
        for offset in (2.0**20, 2.0**30):
            R, D = ((X * 2**14).round() / 2**14 for X in samples)  # numbers that keep all their bits
            near, far = (StaticKernelTest(12, n_widths=2, random_state=0).fit(R + o, D + o) for o in (0, offset))
            assert_allclose(far.statistics_, near.statistics_, rtol=1e-5)
            assert_allclose(far.score_samples(D + offset), near.score_samples(D), atol=1e-4)

    def test_rounding_is_not_ranked(self):
        for value in (1.1e8, 12345.678, 0.1):
            test = StaticKernelTest(random_state=0).fit(np.full((200, 3), value), np.full((50, 3), value))
            assert_array_equal(test.statistics_, 0)

    def test_each_toy_is_fitted_once(self, samples, monkeypatch):
        fitted, fit = [], StaticKernelStatistic.fit
        monkeypatch.setattr(StaticKernelStatistic, "fit", lambda *args: fitted.append(args[-1]) or fit(*args))
        test = StaticKernelTest(8, n_widths=2, n_toys=19, random_state=0).fit(*samples)
        fitted.clear()
        test.calibrate()
        assert len(fitted) == 2 * 19

    def test_minimise_the_penalised_logistic_loss(self, samples):
        test = StaticKernelTest(8, penalty=1e-3, random_state=0).fit(*samples)
        X, is_data = np.concatenate(samples), np.arange(160) >= 120
        features = test._features.transform(X)

        def loss(beta):
            f = features @ beta
            parts = np.where(is_data, np.logaddexp(0, -f), np.logaddexp(0, f) * 40 / 120)
            residual = np.where(is_data, -expit(-f), expit(f) * 40 / 120)
            return parts.sum() + 160 * 1e-3 * beta @ beta, features.T @ residual + 2 * 160 * 1e-3 * beta

        want = minimize(loss, np.zeros(features.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-9}).x
        f = features @ want
        assert_allclose(test.score_samples(X), f, atol=1e-3)
        t = -2 * (np.sum(np.expm1(f[:120])) / 3 - f[120:].sum())
        assert_allclose(test.statistics_, t, rtol=1e-3)

    def test_features_are_the_kernel_on_its_centres(self, samples):
        test = StaticKernelTest(10, width=2.0, random_state=0).fit(*samples)
        centers = test._fitted.plan.centers
        features = test._features.transform(centers)
        assert_allclose(features @ features.T, rbf_kernel(centers, centers, 0.125), atol=1e-6)

    @pytest.mark.parametrize("calibration", ["permutation", "split", "bootstrap"])
    @pytest.mark.filterwarnings("ignore:calibration:UserWarning")
    def test_toys_have_as_many_kernels_as_the_fit(self, rng, calibration, monkeypatch):
        samples, learned = (rng.normal(size=(2000, 2)), rng.normal(size=(1000, 2))), []
        learn = peers.StaticKernelStatistic.learn
        monkeypatch.setattr(
            peers.StaticKernelStatistic, "learn", lambda *args: learned.append(learn(*args)) or learned[-1]
        )
        StaticKernelTest(calibration=calibration, n_toys=2, random_state=0).fit(*samples).calibrate()
        n_plans, most = (1, 55) if calibration == "permutation" else (2, 45)  # roots of 3000 and 2000 rows
        assert len(learned) == n_plans
        assert all(most - 3 <= len(plan.centers) <= most for plan in learned)  # rows may be drawn twice

    def test_several_widths(self, samples):
        test = StaticKernelTest(10, n_widths=4, n_toys=5, random_state=0).fit(*samples)
        assert np.all(np.diff(test.scales_["width"]) < 0)
        assert test.calibrate().values.shape == (5, 4)
        assert np.all(test.calibrate().values >= 0)

    def test_says_that_it_did_not_converge(self, samples):
        with pytest.warns(UserWarning, match="did not converge. Raise max_iter"):
            test = StaticKernelTest(10, max_iter=1, n_toys=5, random_state=0).fit(*samples)
        assert not test.converged_
        assert test.result().n_not_converged == 5


class TestLikelihoodRatio:
    def test_is_twice_the_sum_over_the_data(self, samples):
        test = LikelihoodRatioTest(first_feature).fit(*samples)
        assert_allclose(test.statistics_, 2 * first_feature(samples[1]).sum(), rtol=1e-12)
        assert_array_equal(test.score_samples(samples[0]), first_feature(samples[0]))

    def test_null_has_the_moments_of_poisson_sums(self):
        """Toys of the generator: mean and variance of 2 sum f are 2 N0 E[f] and 4 N0 E[f^2]."""
        pair = make_exponential("bulk", n_reference=5, random_state=1)
        f = pair.true_log_ratio

        def draw(rng):
            return np.ones((5, 1)), rng.exponential(size=(rng.poisson(2000), 1))

        test = LikelihoodRatioTest(f, expected_count=2000, calibration=draw, n_toys=400, random_state=0)
        values = test.fit(pair.reference, pair.data).calibrate().values[:, 0]
        x = np.linspace(0, 40, 400_001)[:, None]
        mean, square = (2000 * np.trapezoid(g * np.exp(-x[:, 0]), x[:, 0]) for g in (2 * f(x), 4 * f(x) ** 2))
        assert_allclose(values.mean(), mean, atol=4 * np.sqrt(square / 400))
        assert_allclose(values.var(), square, rtol=4 * np.sqrt(2 / 400))

    def test_refuses_what_is_not_a_log_ratio(self, samples):
        for bad in (lambda X: X, lambda X: np.full(len(X), np.nan)):
            with pytest.raises(ValueError, match=r"log_ratio\(X\) returned an array of shape .* needed are finite"):
                LikelihoodRatioTest(bad).fit(*samples)


def test_weights_of_a_callable_toy(rng):
    """The statistic of a pair depends on its weights alone, not on how the pool is cut into blocks."""
    X = rng.normal(size=(50, 2))
    pools = Pool([X]), Pool([X[:20], X[20:]])
    for statistic in (peers.MMDStatistic(2), peers.StaticKernelStatistic(6, 2, None, 1e-4, 200)):
        found = []
        for pool in pools:
            weights = pair_weights(pool, np.where(np.arange(50) < 30, 1.0, 0.0), np.arange(50) * 1.0 // 30, 40.0)
            plan = statistic.learn(pool, np.random.default_rng(0))
            found.append(statistic.share(pool, [weights], plan)[0][0])
        assert_allclose(*found, rtol=1e-9)


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_statistic_that_is_not_finite_is_an_error_and_no_discovery(samples):
    with pytest.raises(ValueError, match="The statistic is not finite.*Rescale them"):
        LikelihoodRatioTest(lambda X: np.full(len(X), 1e308)).fit(*samples)


@pytest.mark.parametrize("make", [MMDTest, StaticKernelTest])
@pytest.mark.parametrize("scale", [1e-170, 1e-160, 1e160])
def test_features_out_of_range_are_refused(make, scale, samples):
    with pytest.raises(ValueError, match="too large for float64|too near to each other"):
        make(random_state=0).fit(*(X * scale for X in samples))


@pytest.mark.parametrize("width", [1e-200, 1e200])
def test_a_width_out_of_range_is_refused(width, samples):
    with pytest.raises(ValueError, match="leave the range of float64"):
        StaticKernelTest(width=width).fit(*samples)


@pytest.mark.parametrize("make", [MMDTest, StaticKernelTest, SparKerTest])
def test_rows_too_large_to_be_scored_are_refused(make, samples):
    test = make(random_state=0).fit(*samples)
    with pytest.raises(ValueError, match="Features as large as 1e\\+200"):
        test.score_samples([[0.0, 1e200]])


def test_toys_of_another_log_ratio_are_refused(samples):
    def truth(scale):
        return lambda X: scale * first_feature(X)

    one = LikelihoodRatioTest(truth(1.0), n_toys=19, random_state=0).fit(*samples)
    bank = one.calibrate()
    again = LikelihoodRatioTest(truth(1.0), null_distribution=bank).fit(*samples)
    assert again.p_value() == one.p_value()
    with pytest.raises(ValueError, match="does not fit this test.*log_ratio_values"):
        LikelihoodRatioTest(truth(-1.0), null_distribution=bank).fit(*samples)


def test_mmd_refuses_to_describe_samples_that_were_changed(samples):
    test = MMDTest(random_state=0).fit(*samples)
    samples[1][0] += 1
    with pytest.raises(ValueError, match="changed in place after fit"):
        test.score_samples(samples[0])
