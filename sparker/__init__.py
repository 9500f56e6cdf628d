"""Two-sample tests with sparse, moving Gaussian kernels (arXiv:2511.03095)."""

from sparker._null import NullDistribution
from sparker._results import TwoSampleResult
from sparker._version import __version__
from sparker.two_sample import KernelSummary, SparKerTest, two_sample_test

__all__ = ["KernelSummary", "NullDistribution", "SparKerTest", "TwoSampleResult", "__version__", "two_sample_test"]
