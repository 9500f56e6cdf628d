import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sparker import PowerCurve, SparKerTest, _aggregation
from sparker.displays import (
    DEFICIT,
    EXCESS,
    KernelsDisplay,
    NullDistributionDisplay,
    PowerCurveDisplay,
    ScalesDisplay,
)
from sparker.peers import MMDTest

matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def fitted(quick, samples):
    reference, data = samples
    return SparKerTest(**quick).fit(reference, data=data)


@pytest.fixture
def fitted_line(quick, rng):
    """One feature, with an excess at 4."""
    reference = rng.exponential(size=(400, 1))
    data = np.concatenate([rng.exponential(size=(150, 1)), rng.normal(4.0, 0.1, size=(12, 1))])
    return SparKerTest(**quick).fit(reference, data=data), reference, data


def test_import_loads_no_matplotlib():
    code = "import sys, sparker.displays; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_matplotlib(monkeypatch, fitted):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.delattr(matplotlib, "pyplot")
    with pytest.raises(ImportError, match=r"pip install 'sparker\[plot\]'"):
        ScalesDisplay.from_estimator(fitted)


def test_scales_are_those_of_the_result(fitted):
    result = fitted.result()
    display = ScalesDisplay.from_result(result)
    assert list(display.lines_) == ["t", "score", "rare", "dense", "joint", "mean", "spread"]
    for kind, line in display.lines_.items():
        rows = np.flatnonzero(result.scales["kind"] == kind)
        if np.isinf(result.scales["width"][rows]).all():  # of the whole sample: a line across all widths
            assert_array_equal(line.get_ydata(), [result.scales["pvalue"][rows[0]]] * 2)
            continue
        rows = rows[np.argsort(result.scales["width"][rows])]
        assert_array_equal(line.get_xdata(), result.scales["width"][rows])
        assert_array_equal(line.get_ydata(), result.scales["pvalue"][rows])
    assert_array_equal(display.p_value_line_.get_ydata(), [result.pvalue] * 2)
    assert_array_equal(display.resolution_line_.get_ydata(), [1 / (result.n_toys + 1)] * 2)
    assert (display.ax_.get_xscale(), display.ax_.get_yscale()) == ("log", "log")
    low, high = display.ax_.get_ylim()
    assert low < 1 / (result.n_toys + 1) < 1 < high


def test_scales_of_another_test(fitted):
    display = ScalesDisplay(
        widths=np.array([2.0, 1.0]), p_values=np.array([0.5, 0.25]), kinds=np.array(["mmd"] * 2), p_value=0.3, n_toys=9
    ).plot(width_unit="GeV", color="black")
    assert_array_equal(display.lines_["mmd"].get_xydata(), [[1.0, 0.25], [2.0, 0.5]])
    assert display.lines_["mmd"].get_color() == "black"
    assert "GeV" in display.ax_.get_xlabel()


def test_null_distribution_is_that_of_the_result(fitted):
    result = fitted.result()
    display = NullDistributionDisplay.from_result(result, bins=7)
    observed, null = _aggregation.aggregate(
        result.null_distribution.values, result.scales["statistic"], fitted._fitted.aggregation
    )
    assert observed == result.statistic
    assert_array_equal(display.line_.get_xdata(), [result.statistic] * 2)
    counts, edges = np.histogram(null, bins=7)
    assert_array_equal(display.counts_, counts)
    assert_array_equal(display.edges_, edges)
    assert_array_equal([bar.get_height() for bar in display.bars_], counts)


@pytest.mark.parametrize(
    ("at_resolution", "text"), [(True, "$p = 0.01$,  $Z > 2.33$"), (False, "$p = 0.01$,  $Z = 2.33$")]
)
def test_null_distribution_says_p_and_z(at_resolution, text):
    display = NullDistributionDisplay(
        null=np.arange(99.0), observed=100.0, p_value=0.01, z_score=2.326, at_resolution=at_resolution
    ).plot()
    assert display.text_.get_text() == text
    assert display.text_.get_visible()
    assert display.ax_.get_legend().get_title() is display.text_


@pytest.mark.parametrize("display_class", [ScalesDisplay, NullDistributionDisplay])
def test_estimator_and_result_draw_the_same(fitted, display_class):
    first, second = display_class.from_estimator(fitted), display_class.from_result(fitted.result())
    piped = display_class.from_estimator(make_pipeline("passthrough", fitted))
    for other in (second, piped):
        for line, same in zip(first.ax_.lines, other.ax_.lines, strict=True):
            assert_array_equal(line.get_xydata(), same.get_xydata())


def test_displays_draw_where_they_are_told(fitted, samples):
    for draw in (
        ScalesDisplay.from_estimator,
        NullDistributionDisplay.from_estimator,
        lambda test, **options: KernelsDisplay.from_estimator(test, *samples, **options),
    ):
        figure, ax = plt.subplots()
        display = draw(fitted, ax=ax)
        assert display.ax_ is ax
        assert display.figure_ is figure
        assert display.plot() is display
        assert display.ax_ is not ax
        figure.draw_without_rendering()


def test_rows_carry_the_log_ratio(fitted, samples):
    reference, data = samples
    display = KernelsDisplay.from_estimator(fitted, reference, data)
    f = fitted.score_samples(data)
    order = np.argsort(np.abs(f))
    assert_array_equal(display.points_.get_offsets(), data[order])
    assert_array_equal(display.points_.get_array(), f[order])
    assert display.points_.norm.vmax == -display.points_.norm.vmin == np.abs(f).max()
    assert display.colorbar_.ax.figure is display.figure_


def test_kernels_are_those_of_the_table(fitted, samples):
    display = KernelsDisplay.from_estimator(fitted, *samples)
    table = fitted.kernel_table()
    assert len(table) == len(display.kernels_) == len(display.labels_)
    for kernel, ellipse, label in zip(table, display.kernels_, display.labels_, strict=True):
        assert_allclose(ellipse.get_center(), kernel.center)
        assert_allclose([ellipse.width, ellipse.height], 2 * np.sqrt(2) * fitted.width_)
        assert ellipse.get_edgecolor()[:3] == to_rgb(EXCESS if kernel.sign > 0 else DEFICIT)
        text = label.get_text().replace("\N{MINUS SIGN}", "-")
        assert_allclose(float(text), kernel.excess, atol=0.5)


def test_kernels_of_a_pipeline_are_drawn_in_its_input_units(quick, samples):
    reference, data = (rows * [1.0, 50.0] + [10.0, -3.0] for rows in samples)
    X, y = np.concatenate([reference, data]), np.repeat([0, 1], [len(reference), len(data)])
    model = make_pipeline(StandardScaler(), SparKerTest(**quick)).fit(X, y)
    display = KernelsDisplay.from_estimator(model, reference, data)
    scaler, test = model
    for kernel, ellipse in zip(test.kernel_table(), display.kernels_, strict=True):
        assert_allclose(ellipse.get_center(), kernel.center * scaler.scale_ + scaler.mean_)
        assert_allclose([ellipse.width, ellipse.height], 2 * np.sqrt(2) * test.width_ * scaler.scale_)
    assert_array_equal(display.log_ratio_data, model.score_samples(data))


def test_a_rotation_keeps_circles(quick, samples):
    reference, data = samples
    X, y = np.concatenate([reference, data]), np.repeat([0, 1], [len(reference), len(data)])
    model = make_pipeline(PCA(), SparKerTest(**quick)).fit(X, y)
    display = KernelsDisplay.from_estimator(model, reference, data)
    assert_allclose(display.radii, np.sqrt(2) * model[-1].width_)


def test_histograms_along_one_feature(fitted_line):
    test, reference, data = fitted_line
    display = KernelsDisplay.from_estimator(test, reference, data, n_bins=20)
    edges = display.edges_
    assert len(edges) == 21
    weight = np.full(len(reference), len(data) / len(reference))
    expected = np.histogram(reference[:, 0], edges, weights=weight)[0]
    assert_allclose(display.reference_.get_data().values, expected)
    fitted = np.histogram(reference[:, 0], edges, weights=weight * np.exp(test.score_samples(reference)))[0]
    assert_allclose(display.fit_.get_data().values, fitted)
    counts = np.histogram(data[:, 0], edges)[0]
    points, _, (bars,) = display.data_
    drawn = np.zeros(20)
    drawn[np.searchsorted(edges, points.get_xdata()) - 1] = points.get_ydata()
    assert_array_equal(drawn, counts)
    for n, (low, high) in zip(points.get_ydata(), [bar[:, 1] for bar in bars.get_segments()], strict=True):
        assert_allclose(stats.poisson.sf(n - 1, low), 0.16 if n else 1.0, rtol=1e-6)
        assert_allclose(stats.poisson.cdf(n, high), 0.16, rtol=1e-6)


def test_spans_along_one_feature(fitted_line):
    test, reference, data = fitted_line
    display = KernelsDisplay.from_estimator(test, reference, data)
    reach = np.sqrt(2) * test.width_
    for kernel, span in zip(test.kernel_table(), display.kernels_, strict=True):
        assert_allclose(span.get_xdata(), kernel.center[0] + reach * np.array([-1, 0, 1]))
        assert span.get_color() == (EXCESS if kernel.sign > 0 else DEFICIT)


def test_reference_is_scaled_to_the_expected_count(quick, samples):
    reference, data = samples
    weight = np.linspace(1, 2, len(reference))
    test = SparKerTest(**quick, expected_count=55.0).fit(reference, data=data, sample_weight=weight)
    display = KernelsDisplay.from_estimator(test, reference, data, sample_weight=weight, features=[1])
    assert_allclose(display.reference_weight, weight * 55.0 / weight.sum())
    x = reference[:, 1]
    inside = (x >= display.edges_[0]) & (x <= display.edges_[-1])
    assert_allclose(display.reference_.get_data().values.sum(), display.reference_weight[inside].sum())


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_default_features_are_those_of_the_strongest_kernel(quick, rng):
    reference = rng.normal(size=(200, 4))
    data = np.concatenate([rng.normal(size=(60, 4)), rng.normal([0.0, 3.0, 0.0, -3.0], 0.1, size=(20, 4))])
    frames = [pd.DataFrame(rows, columns=list("abcd")) for rows in (reference, data)]
    test = SparKerTest(**{**quick, "n_kernels": 1, "n_candidates": 100}).fit(frames[0], data=frames[1])
    display = KernelsDisplay.from_estimator(test, *frames)
    assert display.feature_names == ["b", "d"]
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("b", "d")
    assert_array_equal(display.data, data[:, [1, 3]])
    chosen = KernelsDisplay.from_estimator(test, *frames, features=[2, 0], feature_names=["A", "B", "C", "D"])
    assert chosen.feature_names == ["C", "A"]
    with pytest.raises(ValueError, match="one or two columns"):
        KernelsDisplay.from_estimator(test, *frames, features=[0, 1, 2])


def test_nothing_to_find_is_drawn_too(quick):
    rows = np.ones((5, 1))
    test = SparKerTest(**quick).fit(rows, data=rows)
    display = KernelsDisplay.from_estimator(test, rows, rows)
    display.figure_.draw_without_rendering()
    assert [label.get_text().strip() for label in display.labels_] == ["+0"] * 2


def test_null_distribution_with_failed_toys():
    null = np.array([0.1, np.inf, 0.4, 0.2])
    display = NullDistributionDisplay(null=null, observed=0.3, p_value=0.6, z_score=-0.25).plot(bins=3)
    assert display.counts_.sum() == 3
    assert "1 failed" in display.ax_.get_legend_handles_labels()[1][0]


def test_power_is_that_of_the_curve():
    p = np.ones((3, 10))
    p[1, :5] = p[2, :10] = 0.01
    curve = PowerCurve(np.array([0.0, 0.1, 0.2]), p, 0.05, 100, 20, None)
    display = PowerCurveDisplay.from_curve(curve, color="black")
    assert_array_equal(display.line_.get_xydata(), [[0, 0], [0.1, 0.5], [0.2, 1]])
    assert display.line_.get_color() == "black"
    vertices = display.band_.get_paths()[0].vertices
    low, high = curve.band
    for x, bottom, top in zip(curve.fractions, low, high, strict=True):
        assert_allclose(np.unique(vertices[vertices[:, 0] == x, 1]), np.unique([bottom, top]))
    assert_array_equal(display.level_line_.get_ydata(), [0.05, 0.05])
    axes = plt.figure().add_subplot()
    assert PowerCurveDisplay.from_curve(curve, ax=axes).ax_ is axes


def test_the_reference_is_scaled_to_the_count_of_the_fit(quick, samples):
    test = SparKerTest(**quick, expected_count=50).fit(*samples)
    test.set_params(expected_count=1e6)
    assert_allclose(KernelsDisplay.from_estimator(test, *samples).reference_weight.sum(), 50)


def test_weights_are_those_of_the_fit_unless_given(samples, quick):
    weight = np.linspace(0.5, 1.5, 120)
    test = SparKerTest(**quick, calibration="split").fit(*samples, sample_weight=weight)
    for given in (None, weight):
        display = KernelsDisplay.from_estimator(test, *samples, sample_weight=given)
        assert_allclose(display.reference_weight, weight / weight.sum() * 40)
    with pytest.raises(ValueError, match=r"sample_weight has shape \(120,\) in the fit: needed .* each of the 50 rows"):
        KernelsDisplay.from_estimator(test, samples[0][:50], samples[1])
    with pytest.raises(ValueError, match=r"sample_weight has shape \(119,\): needed .* each of the 120 rows"):
        KernelsDisplay.from_estimator(test, *samples, sample_weight=weight[1:])


def test_a_test_without_kernels_is_named(samples):
    with pytest.raises(TypeError, match="MMDTest has no kernels that could be drawn: needed is a SparKerTest"):
        KernelsDisplay.from_estimator(MMDTest(random_state=0).fit(*samples), *samples)


@pytest.mark.parametrize("features", [[5], [-1], "z", ["x", "z"], [], [0, 1, 0]])
def test_columns_that_are_not_there_are_named(fitted, samples, features):
    with pytest.raises(ValueError, match="needed are one or two columns, by number from 0 to 1 or by name"):
        KernelsDisplay.from_estimator(fitted, *samples, features=features, feature_names=["x", "y"])
    with pytest.raises(ValueError, match="feature_names has 1 names: there are 2 columns"):
        KernelsDisplay.from_estimator(fitted, *samples, feature_names=["x"])


@pytest.mark.parametrize(("features", "want"), [("y", [1]), (1, [1]), (["y", 0], [1, 0]), (np.array([1, 0]), [1, 0])])
def test_columns_are_known_by_number_and_by_name(fitted, samples, features, want):
    display = KernelsDisplay.from_estimator(fitted, *samples, features=features, feature_names=["x", "y"])
    assert display.feature_names == [["x", "y"][j] for j in want]
    assert_array_equal(display.data, samples[1][:, want])


@pytest.mark.parametrize("steps", [(np.log, np.exp), (np.exp, np.log), (np.log, None)])
def test_steps_that_are_not_linear_are_refused(rng, quick, steps):
    reference, data = (np.exp(rng.normal(size=(n, 2))) for n in (120, 40))
    X, y = np.concatenate([reference, data]), np.repeat([0, 1], [120, 40])
    model = make_pipeline(FunctionTransformer(*steps), SparKerTest(**quick)).fit(X, y)
    with pytest.raises(ValueError, match="The steps of the Pipeline are not linear, or have no inverse"):
        KernelsDisplay.from_estimator(model, reference, data)
