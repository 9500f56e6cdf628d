"""The kernels of `sparker._kernels` on a GPU: passes by matrix products, and what is kept on the device between them.

The only module that knows CuPy. Arrays of the device stay in here and in `sparker._device`; what comes in and goes out
is NumPy. Products have fixed shapes, whatever else is in the batch, and sums a fixed order: the same seed, the same
numbers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from sparker._kernels import LOSSES, Evaluation
from sparker._pool import Pool

Array = npt.NDArray[Any]
DeviceArray = Any

INSTALL = 'pip install "sparker[gpu]"'

THREADS = 128  # of a block; a power of 2
BOX = 1024  # rows of which `fit` knows the bounds, and of which `terms` makes one partial sum
MOST_KERNELS = 64  # for which the sums of a thread have room
FUSED_KERNELS, FUSED_COORDINATES = 16, 64  # most that a thread of `fit` keeps, and coordinates of their centres
COLUMNS = 1 << 10  # centres in a product
ROWS = 1 << 14  # rows in a product
RESIDENT = 0.5  # largest share of the free memory for the rows of a pool


@cache
def cupy() -> Any:
    """CuPy, where it is installed and sees a device.

    Raises
    ------
    ImportError
        If it is not installed, or sees no device.
    """
    try:
        import cupy
    except ImportError as error:
        raise ImportError(f'backend="cupy" needs CuPy, which is not installed: {INSTALL}') from error
    if not cupy.cuda.is_available():
        raise ImportError(
            f'backend="cupy" found CuPy {cupy.__version__}, but no CUDA device that it can use. With a device and its '
            f'driver in place {INSTALL} is all it needs; backend="numba" runs on the CPU.'
        )
    return cupy


def is_available() -> bool:
    """Whether there is a device to use."""
    try:
        cupy()
    except ImportError:
        return False
    return True


def on_this_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function for other threads, each of which has a current device of its own."""
    number = cupy().cuda.Device().id

    def on_device(*args: Any) -> Any:
        with cupy().cuda.Device(number):
            return function(*args)

    return on_device


def fits_a_thread(n_kernels: int, n_features: int) -> bool:
    """Whether `fit` of ``_cuda.cu`` takes kernels of so many coordinates."""
    return n_kernels <= FUSED_KERNELS and n_kernels * n_features <= FUSED_COORDINATES


def send(array: Any) -> DeviceArray:
    """An array on the device, in C order; one that is there stays as it is."""
    return array if hasattr(array, "__cuda_array_interface__") else cupy().asarray(np.ascontiguousarray(array))


def free_memory() -> int:
    """Bytes of the device that nobody uses."""
    xp = cupy()
    xp.get_default_memory_pool().free_all_blocks()
    return int(xp.cuda.runtime.memGetInfo()[0])


@cache
def module(dtype: np.dtype[Any], n_kernels: int, n_features: int, competition: bool, loss: str) -> Any:
    """The compiled ``_cuda.cu`` for one case; CuPy keeps it on disk for the next process."""
    suffix = "f" if dtype == np.float32 else ""
    names = {"EXP": "exp" + suffix, "EXPM1": "expm1" + suffix, "LOG1P": "log1p" + suffix}
    case = {"REAL": "float" if suffix else "double", "M": n_kernels, "D": n_features, "COMPETITION": int(competition)}
    # A module for one feature has `advance_all`, too, which takes any number of them.
    fused = n_kernels <= FUSED_KERNELS and (n_features == 1 or fits_a_thread(n_kernels, n_features))
    case |= {"LOSS": LOSSES.index(loss), "FUSED": int(fused), "THREADS": THREADS, "BOX": BOX, **names}
    options = ("-std=c++17", *(f"-D{name}={value}" for name, value in case.items()))
    source = files("sparker").joinpath("_cuda.cu").read_text()
    return cupy().RawModule(code=source, options=options)


_on_device: "WeakKeyDictionary[Pool, dict[int, Rows | None]]" = WeakKeyDictionary()  # by number of the device
_moving = Lock()  # batches of toys on several threads move a pool once


@dataclass(frozen=True)
class Rows:
    """What is kept of a pool on the device.

    Attributes
    ----------
    rows : device array of shape (n, d)
        Less the origin of the pool.
    norms : device array of shape (n,)
        Their squared norms.
    columns : device array of shape (d, n)
        The rows as they are, one feature after the other; none with many features.
    boxes : device array of shape (n_boxes, 2, d)
        Smallest and largest value of each feature in every `BOX` rows.
    """

    rows: DeviceArray
    norms: DeviceArray
    columns: DeviceArray
    boxes: DeviceArray


def resident(pool: Pool) -> "Rows | None":
    """The pool on the device, moved there once; None where it did not fit when it was first asked for."""
    with _moving:
        kept, number = _on_device.setdefault(pool, {}), cupy().cuda.Device().id
        if number not in kept:
            size = 2 * pool.n_rows * pool.n_features * pool.dtype.itemsize
            kept[number] = _move(pool) if size <= RESIDENT * free_memory() else None
        return kept[number]


def _move(pool: Pool) -> Rows:
    rows = pool.rows(np.arange(pool.n_rows))
    (boxes,) = Pool([rows]).bounds(BOX)
    columns = rows.T if pool.n_features <= FUSED_COORDINATES else rows[:0].T
    moved = Rows(send(rows - pool.origin), send(pool.norms), send(columns), send(boxes))
    cupy().cuda.get_current_stream().synchronize()  # other threads may have other streams
    return moved


def row_blocks(pool: Pool) -> Iterator[tuple[DeviceArray, DeviceArray, int]]:
    """Blocks of rows less the origin, their squared norms, and where they begin: kept there, or sent one by one."""
    kept = resident(pool)
    for start in range(0, pool.n_rows, ROWS):
        stop = min(start + ROWS, pool.n_rows)
        if kept is not None:
            yield kept.rows[start:stop], kept.norms[start:stop], start
        else:
            rows = pool.rows(np.arange(start, stop)) - pool.origin
            yield send(rows), send(pool.norms[start:stop]), start


def value_and_gradient(pool: Pool, weights: Any, kernels: Any, competition: bool, loss: str) -> Evaluation:
    """`sparker._kernels.value_and_gradient` of every problem, by matrix products on the device."""
    n_problems, m, _ = kernels.centers.shape
    toys, places = np.unique(kernels.toys, return_inverse=True)
    sums, center_sums = pass_over_rows(
        pool,
        [send(part[toys]) for part in weights],
        send(places.astype(np.int32)),
        send(kernels.amplitudes.astype(np.float64)),
        send(kernels.centers.astype(np.float64)),
        send(kernels.widths.astype(np.float64)),
        competition,
        loss,
    )
    found, of_centers, widths = cupy().asnumpy(sums), cupy().asnumpy(center_sums), kernels.widths
    lower = np.tril_indices(m)
    hessian = np.empty((n_problems, m, m))
    hessian[:, lower[0], lower[1]] = hessian[:, lower[1], lower[0]] = found[:, 1 + m : -m]
    gradient = of_centers / widths[:, None, None] ** 2
    return Evaluation(found[:, 0], found[:, 1 : 1 + m], hessian, gradient, found[:, -m:] / widths[:, None] ** 4)


def pass_over_rows(
    pool: Pool,
    weights: Any,
    toys: DeviceArray,
    amplitudes: DeviceArray,
    centers: DeviceArray,
    widths: DeviceArray,
    competition: bool,
    loss: str,
) -> tuple[DeviceArray, DeviceArray]:
    """Sums over the rows, (P, n_sums), and those for the centres, (P, M, d), which lack the factor 1 / width^2.

    Arguments are those of `sparker._kernels.batch_value_and_gradient` on the device; kernels are float64. Problems are
    cut into groups of as many centres as a product takes, the last one padded with its last problem.
    """
    xp, (n_problems, m, d) = cupy(), centers.shape
    if m > MOST_KERNELS:
        raise ValueError(f'backend="cupy" takes up to {MOST_KERNELS} kernels, found n_kernels={m}.')
    size = COLUMNS // m
    n_groups = -(-n_problems // size)
    at = send(np.minimum(np.arange(n_groups * size), n_problems - 1))
    moved = (centers - send(pool.origin.astype(np.float64))).astype(pool.dtype)
    of_groups = (
        part[at].reshape(n_groups, size, *part.shape[1:])
        for part in (toys, amplitudes.astype(pool.dtype), moved, widths)
    )
    function = module(pool.dtype, m, 1, competition, loss).get_function("terms")
    groups = [_Group(function, pool.n_rows, weights, *group) for group in zip(*of_groups, strict=True)]
    for rows, norms, start in row_blocks(pool):
        for group in groups:
            group.add(rows, norms, start)
    sums = xp.concatenate([group.sums for group in groups])[:n_problems]
    return sums, xp.concatenate([group.center_sums.reshape(size, m, d) for group in groups])[:n_problems]


class _Group:
    """Running sums over blocks of rows for problems that share their products."""

    def __init__(
        self,
        function: Any,
        n_pool: int,
        weights: Any,
        toys: DeviceArray,
        amplitudes: DeviceArray,
        centers: DeviceArray,
        widths: DeviceArray,
    ) -> None:
        xp, (_, m, d) = cupy(), centers.shape
        self.function = function
        self.given = *weights, np.int64(n_pool)
        self.of_problem = toys, amplitudes, widths
        self.centers = centers.reshape(-1, d)
        self.center_norms = xp.sum(self.centers * self.centers, axis=1)
        self.sums = xp.zeros((len(amplitudes), 1 + 2 * m + m * (m + 1) // 2))
        self.center_sums = xp.zeros(self.centers.shape)

    def add(self, rows: DeviceArray, norms: DeviceArray, start: int) -> None:
        """Add a block of rows that begins at `start`."""
        xp, n = cupy(), len(rows)
        n_problems, n_chunks = len(self.sums), -(-n // BOX)
        products = xp.matmul(self.centers, rows.T)
        sums = xp.empty((n_problems, n_chunks, self.sums.shape[1]))
        arguments = (
            products,
            norms,
            self.center_norms,
            np.int64(n),
            *self.given,
            np.int64(start),
            *self.of_problem,
            sums,
        )
        self.function((n_problems, n_chunks), (THREADS,), arguments)
        self.sums += xp.sum(sums, axis=1)
        self.center_sums += xp.matmul(products, rows) - xp.sum(products, axis=1, keepdims=True) * self.centers
