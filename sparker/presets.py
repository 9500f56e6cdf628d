"""The papers' settings, as parameters of `sparker.SparKerTest`: ``SparKerTest(**presets.SPARKER)``.

What a paper leaves open is set to a value that works and is named in the comment.
"""

from typing import Any

__all__ = ["SPARKER", "SPARKER_NPLM", "sparker_nplm"]

#: SparKer, arXiv:2511.03095: five competing kernels from random data rows, Adam along linearly narrowing widths from
#: twice the 99th to half the 1st percentile of the distances, p-values aggregated by half minimum and half mean.
SPARKER: dict[str, Any] = {
    "n_kernels": 5,
    "n_widths": 5,
    "width_init": (2.0, 99),
    "width_final": (0.5, 1),
    "annealing": "linear",
    "competition": True,
    "loss": "np",
    "solver": "adam",
    "start": "random",
    "companions": False,
    "max_iter": 200,  # 1000 steps in all
    "learning_rate": 0.05,  # our choice, for standardised columns
    "alpha": 0.0,
    "max_amplitude": 5.0,
    "aggregation": "min-mean",
}


def sparker_nplm(
    n_kernels: int = 10, lambda_a: float = 1e-3, lambda_h: float = 1e-3, n_passes: int = 100_000
) -> dict[str, Any]:
    """Return the settings of SparKer-NPLM ("Learning dictionaries of New Physics with sparse local kernels").

    Kernels without competition at one width, the 90 % quantile of the distances; amplitudes and centres are trained
    by turns, with penalties lambda_a mean(a^2) and lambda_H L_H.

    Parameters
    ----------
    n_kernels : int, default=10
        Number of kernels M.
    lambda_a, lambda_h : float, default=1e-3
        Factors of the two penalties.
    n_passes : int, default=100000
        Passes over the data; each step takes two, one for the amplitudes and one for the centres.

    Returns
    -------
    params : dict
        For ``SparKerTest(**params)``.

    Raises
    ------
    ValueError
        If there are fewer than two passes.

    Examples
    --------
    >>> from sparker import SparKerTest, presets
    >>> SparKerTest(**presets.sparker_nplm(n_passes=1000)).max_iter
    500
    """
    if n_passes < 2:
        raise ValueError(f"n_passes is {n_passes}: needed are at least 2, the passes of a step.")
    return {
        "n_kernels": n_kernels,
        "n_widths": 1,
        "width_init": (1.0, 90),
        "width_final": (1.0, 90),
        "competition": False,
        "loss": "np",
        "solver": "alternating",
        "start": "random",
        "companions": False,
        "max_iter": n_passes // 2,
        "learning_rate": 0.01,  # our choice
        "alpha": lambda_a / n_kernels,
        "entropy": lambda_h,
        "max_amplitude": 10.0,  # our choice
        "aggregation": "min",  # of one entry
    }


#: `sparker_nplm` with its defaults.
SPARKER_NPLM: dict[str, Any] = sparker_nplm()
