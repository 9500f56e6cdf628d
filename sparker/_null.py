"""The null distribution as a thing to keep: saved, loaded, merged, extended, and refused where it does not fit."""

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SCHEMA = 8
ARRAYS = ("values", "converged", "failed", "seeds", "numbers")

CURES = {  # what to do where an item differs
    "rows": "The toys were drawn from other rows, or rows that were scaled otherwise: toys of a permutation serve one "
    'pair of samples, those of calibration="split" any data beside one reference.',
    "seed": "Pass the seed that was found as random_state to go on with these toys.",
}

MAX_FAILED, FEW = 0.05, 20  # share of the toys, or of as many where there are fewer


class ToyFailure(ValueError):
    """More toys failed than a p-value can bear."""


class ToyMismatch(ValueError):
    """Toys are those of another calibration; ``differences`` has what was found and what is needed, by item."""

    differences: dict[str, tuple[Any, Any]]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class NullDistribution:
    """The statistic of toys drawn under the null, as vectors over scales.

    ``test.calibrate()`` makes one; `save` and `load` keep it, and ``null_distribution=`` gives it to another test.

    Attributes
    ----------
    values : ndarray of shape (n_toys, n_entries)
        Statistic of each toy. A failed toy is +inf in each entry.
    converged, failed : ndarray of bool of shape (n_toys,)
        Whether the fit of the toy converged, and whether it failed. A failed toy counts as reaching every observed
        statistic, which is conservative. One that did not converge keeps its value, as the observed fit would.
    seeds, numbers : ndarray of int of shape (n_toys,)
        A toy is a function of ``SeedSequence(seed, spawn_key=(number,))``.
    calibration : str
        How toys were drawn.
    failures : tuple of str
        What went wrong with each failed toy, with its number and seed.
    origin : dict
        What the toys were drawn from, item by item: digest and number of rows, sizes, expected count, the statistic
        and its parameters, version. A test that needs others is refused.
    stopping : int or None
        Exceedances at which the simulation was to stop. The number of such toys depends on the observed statistic:
        they serve no other test.

    See Also
    --------
    SparKerTest.calibrate : Makes one.

    Examples
    --------
    >>> import numpy as np
    >>> from sparker import NullDistribution, SparKerTest
    >>> rng = np.random.default_rng(0)
    >>> reference = rng.normal(size=(300, 1))
    >>> test = SparKerTest(calibration="split", n_toys=99, random_state=0).fit(reference, rng.normal(size=(60, 1)))
    >>> test.calibrate().save("bank.npz")
    >>> bank = NullDistribution.load("bank.npz")
    >>> bank
    NullDistribution(99 toys, 35 entries, split)
    >>> batch = rng.normal(1, 1, size=(60, 1))
    >>> SparKerTest(calibration="split", null_distribution=bank).fit(reference, batch).p_value()
    0.01
    """

    values: Array
    converged: npt.NDArray[np.bool_]
    failed: npt.NDArray[np.bool_]
    seeds: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]
    calibration: str
    failures: tuple[str, ...] = ()
    origin: dict[str, Any] = field(default_factory=dict)
    stopping: int | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        n_toys, n_entries = self.values.shape
        return f"NullDistribution({n_toys} toys, {n_entries} entries, {self.calibration})"

    @property
    def not_converged(self) -> tuple[str, ...]:
        """Number and seed of each toy whose fit did not converge.

        Returns
        -------
        names : tuple of str
            Failed toys are not among them.
        """
        at = np.flatnonzero(~self.converged & ~self.failed)
        return tuple(f"toy {self.numbers[i]} (seed {self.seeds[i]})" for i in at)

    def save(self, path: Any) -> None:
        """Write the toys to a file: whole, or not at all.

        Parameters
        ----------
        path : str or path-like
            File to write, NumPy's ``.npz`` with a header in JSON; nothing in it is pickled.
        """
        names = ("calibration", "failures", "origin", "stopping")
        header = {"schema": SCHEMA, **{name: getattr(self, name) for name in names}}
        path = Path(path)
        part = path.with_name(path.name + ".part")
        with part.open("wb") as file:
            np.savez(file, header=np.array(json.dumps(header)), **{name: getattr(self, name) for name in ARRAYS})
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)

    @classmethod
    def load(cls, path: Any) -> Self:
        """Read the toys from a file that `save` or ``calibrate(path)`` has written.

        Parameters
        ----------
        path : str or path-like
            File to read.

        Returns
        -------
        null_distribution : NullDistribution
            The toys.

        Raises
        ------
        ValueError
            If the file holds no null distribution, or one of another schema.
        """
        try:
            with Path(path).open("rb") as stream:
                if not zipfile.is_zipfile(stream):  # NumPy would take it for a pickle, and say so
                    raise ValueError("it is no .npz file")
                stream.seek(0)
                with np.load(stream, allow_pickle=False) as file:
                    header = json.loads(str(file["header"]))
                    arrays = {name: file[name] for name in ARRAYS}
                schema, failures = header.pop("schema"), tuple(header.pop("failures"))
        except OSError:
            raise
        except Exception as error:  # zip, NumPy and JSON each have their own for a file that is none of theirs
            raise ValueError(
                f"{path} holds no null distribution: {error if isinstance(error, ValueError) else repr(error)}"
            ) from error
        if schema != SCHEMA:
            raise ValueError(f"{path} has another schema than {SCHEMA}: calibrate anew.")
        if len({len(array) for array in arrays.values()}) > 1 or set(header) != {"calibration", "origin", "stopping"}:
            raise ValueError(f"{path} holds other items, or arrays of different lengths: calibrate anew.")
        values, n_failed = arrays["values"], np.count_nonzero(arrays["failed"])
        if values.ndim != 2 or values.dtype != np.float64 or not len(values) or np.isnan(values).any():
            raise ValueError(f"{path} holds values that are no statistics of toys: calibrate anew.")
        if n_failed != len(failures):
            raise ValueError(f"{path} holds {n_failed} failed toys and {len(failures)} messages: calibrate anew.")
        return cls(**arrays, **header, failures=failures)

    def merge(self, *others: "NullDistribution") -> "NullDistribution":
        """Join toys of the same calibration that were simulated apart.

        Parameters
        ----------
        *others : NullDistribution
            Other toys: of other numbers, see ``calibrate(first=...)``, or of other seeds where the calibration is no
            permutation, whose toys share what was learned from the pool with the seed.

        Returns
        -------
        null_distribution : NullDistribution
            All toys, by seed and number: the same whatever was merged first.

        Raises
        ------
        ValueError
            If an item of their origin differs, if a toy is in two of them, or if one was stopped early.
        """
        parts = (self, *others)
        for part in parts:
            part.refuse_if_stopping("merged")
            part.check(self.origin, "the others")
        joined: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS}
        order = np.lexsort((joined["numbers"], joined["seeds"]))
        joined = {name: array[order] for name, array in joined.items()}
        again = (np.diff(joined["numbers"]) == 0) & (np.diff(joined["seeds"]) == 0)
        if again.any():
            number, seed = (joined[name][:-1][again][0] for name in ("numbers", "seeds"))
            raise ValueError(
                f"Toy {number} (seed {seed}) is in two of the null distributions, and {again.sum() - 1} more are: "
                "jobs need other toys, calibrate(first=...)."
            )
        messages = [message for part in parts for message in _at_toys(part)]
        failures = tuple(message for message in (messages[i] for i in order) if message is not None)
        return replace(self, **joined, failures=failures)

    def extend(self, test: Any, n_toys: int) -> "NullDistribution":
        """More toys of the same calibration, after those that are there.

        Parameters
        ----------
        test : fitted test
            Test on the samples that the toys were drawn from, with the same parameters; it simulates.
        n_toys : int
            How many more.

        Returns
        -------
        null_distribution : NullDistribution
            All toys, old and new; those of a permutation are as if they had been simulated at once.

        Raises
        ------
        ValueError
            If the test is another one, which the error says item by item, or if these toys were stopped early.
        """
        if n_toys < 1:
            raise ValueError(f"n_toys is {n_toys}: needed is a number >= 1.")
        return self.merge(test._simulate_more(self, n_toys))

    def check(self, needed: Mapping[str, Any], what: str = "this test") -> None:
        """Raise one error that says in which items the toys are not those that are needed.

        Parameters
        ----------
        needed : mapping
            Items of ``origin`` by name.
        what : str, default="this test"
            What the toys do not fit where an item differs.

        Raises
        ------
        ToyMismatch
            A ValueError, if any differs.
        """
        names = [*self.origin, *(name for name in needed if name not in self.origin)]
        names.sort(key=lambda name: name != "calibration")  # of which others follow
        missing = "nothing"
        differences = {
            name: (found, wanted)
            for name in names
            if (found := self.origin.get(name, missing)) != (wanted := needed.get(name, missing))
        }
        if differences:
            items = "; ".join(
                f"{name}: found {found!r}, needed {wanted!r}" for name, (found, wanted) in differences.items()
            )
            cures = " ".join(cure for item, cure in CURES.items() if item in differences)
            error = ToyMismatch(f"The null distribution does not fit {what}. {items}. {cures}".rstrip())
            error.differences = differences
            raise error

    def check_failures(self) -> None:
        """Raise an error if more toys failed than a p-value can bear.

        Raises
        ------
        ValueError
            If more than 5 % of the toys failed, and more than one.
        """
        if self.failed.sum() > MAX_FAILED * max(len(self), FEW):
            seeds = ", ".join(map(str, np.unique(self.seeds)))
            raise ToyFailure(
                f"{self.failed.sum()} of {len(self)} toys failed, at most {MAX_FAILED:.0%} may (seed {seeds}). "
                f"First {self.failures[0]}"
            )

    def refuse_if_stopping(self, what: str) -> None:
        """Raise an error if the number of toys depends on what was observed.

        Parameters
        ----------
        what : str
            What cannot be done with such toys.

        Raises
        ------
        ValueError
            If the toys were simulated with early stopping.
        """
        if self.stopping is not None:
            raise ValueError(
                f"Toys of stopping={self.stopping} cannot be {what}: how many there are depends on what was observed."
            )


def run_of(null: NullDistribution) -> dict[str, Any]:
    """Where toys come from, and which of the toys from there they are, but for their number."""
    at_once = np.ptp(null.seeds) == 0 and np.all(np.diff(null.numbers) == 1)
    first: int | str = int(null.numbers[0])
    if not at_once:
        which = np.stack([null.seeds, null.numbers]).astype("<i8")
        first = f"merged toys {hashlib.blake2b(which.tobytes(), digest_size=8).hexdigest()}"
    return {**null.origin, "seed": int(null.seeds[0]), "first": first, "stopping": null.stopping}


def load_run(path: Any, needed: Mapping[str, Any]) -> NullDistribution:
    """Toys in a file, which must be those of a run, be they fewer or more; see `run_of`."""
    found = NullDistribution.load(path)
    replace(found, origin=run_of(found)).check(needed)
    return found


def _at_toys(null: NullDistribution) -> list[str | None]:
    """Message of each toy; None where it did not fail."""
    messages = iter(null.failures)
    return [next(messages) if failed else None for failed in null.failed]


def plain(value: Any) -> Any:
    """The value as JSON would give it back; a function is its name, with what a ``functools.partial`` gives it."""

    def convert(other: Any) -> Any:
        if isinstance(other, np.generic):
            return other.item()
        if isinstance(other, np.ndarray):
            return [str(other.dtype), *other.shape, hashlib.blake2b(np.ascontiguousarray(other).data).hexdigest()]
        if isinstance(other, partial):
            return [other.func, *other.args, sorted(other.keywords.items())]
        return f"{getattr(other, '__module__', '')}.{getattr(other, '__qualname__', type(other).__qualname__)}"

    return json.loads(json.dumps(value, default=convert))
