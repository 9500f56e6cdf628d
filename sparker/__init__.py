"""Two-sample tests with sparse, moving Gaussian kernels (arXiv:2511.03095)."""

from sparker._null import NullDistribution
from sparker._results import TwoSampleResult
from sparker._version import __version__
from sparker._where import KernelSignificance, KernelSummary
from sparker.monitoring import BatchMonitor, BatchResult, MonitorResult
from sparker.planning import PowerCurve, power_curve, toys_needed
from sparker.systematics import SystematicResult, systematic_p_value
from sparker.two_sample import SparKerTest, two_sample_test

__all__ = [
    "BatchMonitor",
    "BatchResult",
    "KernelSignificance",
    "KernelSummary",
    "MonitorResult",
    "NullDistribution",
    "PowerCurve",
    "SparKerTest",
    "SystematicResult",
    "TwoSampleResult",
    "__version__",
    "power_curve",
    "systematic_p_value",
    "toys_needed",
    "two_sample_test",
]
