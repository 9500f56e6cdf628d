"""
Collisions: a resonance in pairs of muons
=========================================

Pairs of muons from proton collisions: a smooth background from simulation, and in the data a narrow resonance that
nobody expects. The mass of a pair is one of three features, and nothing tells the test that it is the one that matters.
"""

import matplotlib.pyplot as plt
import numpy as np

from sparker import SparKerTest


# %%
# A toy of what a generator gives: the mass falls steeply, the pair has a transverse momentum and a rapidity. The
# logarithms of mass and momentum are features whose scale means the same everywhere.
def background(n, rng):
    """Pairs from known processes."""
    mass = 60 * (1 + rng.pareto(3.0, size=n))
    momentum = rng.gamma(2.0, 0.15 * np.sqrt(60 * mass))
    rapidity = rng.normal(0, 1.1, size=n)
    return np.column_stack([np.log(mass / 60), np.log(momentum / 60), rapidity / 2])


def resonance(n, rng):
    """Pairs from something new."""
    mass = rng.normal(320, 8, size=n)
    momentum = rng.gamma(4.0, 20, size=n)
    rapidity = rng.normal(0, 0.6, size=n)
    return np.column_stack([np.log(mass / 60), np.log(momentum / 60), rapidity / 2])


rng = np.random.default_rng(0)
simulated = background(8000, rng)
observed = np.concatenate([background(rng.poisson(2000), rng), resonance(25, rng)])

# %%
# The luminosity tells that 2000 pairs are expected: the number of events is part of the test.
test = SparKerTest(expected_count=2000, n_toys=199, random_state=0, n_jobs=-1).fit(simulated, observed)
result = test.result()
print(f"p = {result.pvalue:.3g}")
for kernel in test.kernel_table():
    mass, momentum = 60 * np.exp(kernel.center[:2])
    print(
        f"m = {mass:4.0f} GeV, pT = {momentum:3.0f} GeV: score {kernel.score:5.1f}, excess {kernel.excess:5.1f} events"
    )

# %%
# The excess in the mass, and the events that the fit takes for more likely new than expected.
figure, ax = plt.subplots(layout="constrained")
bins = np.geomspace(60, 900, 50)
masses = 60 * np.exp(observed[:, 0])
weight = np.full(len(simulated), 2000 / len(simulated))
ax.hist(60 * np.exp(simulated[:, 0]), bins, weights=weight, color="#cccccc", label="simulation")
counts, _ = np.histogram(masses, bins)
ax.errorbar(np.sqrt(bins[1:] * bins[:-1]), counts, np.sqrt(counts), fmt="k.", label="data")
ax.hist(masses[test.score_samples(observed) > np.log(2)], bins, color="#d55e00", alpha=0.6, label="$f > \\log 2$")
ax.set(xscale="log", yscale="log", ylim=(0.3, None), xlabel="mass of the pair (GeV)", ylabel="events")
ax.legend()
plt.show()
