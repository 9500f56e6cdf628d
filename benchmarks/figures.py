"""Figures of the documentation from the committed tables.

Run: python benchmarks/figures.py; reads search.csv, power_judge.csv, power_ablation.csv with its summary, and
scaling.csv of benchmarks/tables, writes search.png, power.png, dimension.png, ablation.png and scaling.png to
doc/images. A table that is not there is said so, and its figures are left as they are.
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from common import TABLES, Table, most_pairs

IMAGES = Path(__file__).parent.parent / "doc" / "images"
COLORS = {
    "sparker": "#d55e00",
    "ideal": "#000000",
    "MMD": "#0072b2",
    "static kernels": "#009e73",
    "static kernels, 5 widths": "#56b4e9",
    "Mahalanobis": "#cc79a7",
    "classifier": "#999999",
    "energy distance": "#e69f00",
    "SparKer, arXiv:2511.03095": "#7f2704",
    "SparKer-NPLM, 2000 passes": "#fdae6b",
}


def read(name: str) -> list[dict[str, Any]]:
    rows = Table(TABLES / name, []).rows
    if not rows:
        print(f"{TABLES / name} is not there: its figures are left as they are")
    return rows


def save(figure: Any, name: str) -> None:
    figure.savefig(IMAGES / name, dpi=110)
    plt.close(figure)
    print(f"doc/images/{name}")


def search(rows: list[dict[str, Any]]) -> None:
    """Median Z over Z_id, a panel for each size of the reference, a group of bars for each signal."""
    sizes = sorted({int(row["rows"]) for row in rows})
    figure, axes = plt.subplots(1, len(sizes), figsize=(5.5 * len(sizes), 3.8), sharey=True, squeeze=False)
    signals = ["bulk", "tail", "extreme", "broad"]
    measured = [name for name in COLORS if any(row["system"] == name for row in rows)]
    for ax, size in zip(axes[0], sizes, strict=True):
        here = [row for row in rows if int(row["rows"]) == size]
        systems = [name for name in measured if any(row["system"] == name for row in here)]
        for k, system in enumerate(systems):
            of_system = {row["signal"]: row for row in here if row["system"] == system}
            x = np.arange(len(signals)) + (k - (len(systems) - 1) / 2) * 0.8 / len(measured)
            ratio = [float(of_system[s]["ratio"]) if s in of_system else np.nan for s in signals]
            error = [
                float(of_system[s]["error"]) / float(of_system[s]["z_ideal"]) if s in of_system else 0 for s in signals
            ]
            ax.bar(x, ratio, 0.72 / len(measured), yerr=error, color=COLORS[system], label=system, capsize=2)
        ax.set(xticks=range(len(signals)), xticklabels=signals, ylim=(0, 1.05), title=f"$N_R$ = {size:,}")
        ax.axhline(1, color="black", linewidth=1)
    axes[0, 0].set_ylabel("median $Z$ / $Z$ of the true likelihood ratio")
    handles, labels = max((ax.get_legend_handles_labels() for ax in axes[0]), key=lambda found: len(found[1]))
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    figure.legend(handles, labels, fontsize=8, loc="upper center", ncols=len(labels), frameon=False)
    save(figure, "search.png")


def power(rows: list[dict[str, Any]]) -> None:
    """Power at 5 % of every system in every cell that has rivals."""
    rivals = {(row["cell"], row["strength"]) for row in rows if row["system"] not in ("sparker", "ideal")}
    cells = [cell for cell in dict.fromkeys((row["cell"], row["strength"]) for row in rows) if cell in rivals]
    figure, ax = plt.subplots(figsize=(7.5, 0.24 * len(cells) + 1.6))
    for name, color in COLORS.items():
        found = {(row["cell"], row["strength"]): float(row["power_5"]) for row in rows if row["system"] == name}
        y = [k for k, cell in enumerate(cells) if cell in found]
        if y:
            marker, size = ("D", 42) if name == "sparker" else ("|", 90) if name == "ideal" else ("o", 20)
            ax.scatter([found[cells[k]] for k in y], y, size, color=color, marker=marker, label=name, zorder=3)
    ax.set(yticks=range(len(cells)), yticklabels=[f"{cell}, {float(s):g}" for cell, s in cells], xlim=(-0.02, 1.02))
    ax.set_xlabel("power at 5 %")
    ax.set_ylim(len(cells) - 0.3, -0.7)
    ax.grid(axis="y", linewidth=0.4)
    ax.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.4, 1), ncols=3, frameon=False)
    figure.tight_layout()
    save(figure, "power.png")


def dimension(rows: list[dict[str, Any]]) -> None:
    """Power against the number of features: a clump in all of them."""
    rows = [row for row in rows if row["cell"].startswith("clump d=")]
    figure, ax = plt.subplots(figsize=(8, 4))
    for name, color in COLORS.items():
        points = sorted(
            (int(row["cell"][8:]), float(row["power_5"]), float(row["error_5"]))
            for row in rows
            if row["system"] == name
        )
        if points:
            d, share, error = np.array(points).T
            ax.errorbar(d, share, error, color=color, marker="o", markersize=4, label=name, capsize=2)
    ax.set(xscale="log", xlabel="features $d$", ylabel="power at 5 %", ylim=(0, 1.05))
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.tight_layout()
    save(figure, "dimension.png")


def ablation(rows: list[dict[str, Any]], summary: list[dict[str, Any]]) -> None:
    """Power of each change less that of the defaults: a dot for each cell, their mean with two standard errors."""
    default = {(row["cell"], row["n_null"]): float(row["power_5"]) for row in rows if row["system"] == "sparker"}
    changes = [row for row in summary if row["system"] != "sparker"]
    figure, ax = plt.subplots(figsize=(8, 0.22 * len(changes) + 1.0))
    for k, change in enumerate(changes):
        here = [row for row in rows if (row["system"], row["n_null"]) == (change["system"], change["n_null"])]
        more = [float(row["power_5"]) - default[row["cell"], row["n_null"]] for row in here]
        ax.scatter(more, [k] * len(here), 8, color="0.7")
        ax.errorbar(
            -float(change["sparker_minus"]), k, xerr=2 * float(change["error"]), fmt="D", color=COLORS["sparker"], ms=4
        )
    ax.axvline(0, color="black", linewidth=1)
    ax.set(yticks=range(len(changes)), yticklabels=[change["system"] for change in changes])
    ax.set_xlabel("power at 5 %, less that of the defaults")
    ax.set_ylim(len(changes) - 0.4, -0.6)
    ax.grid(axis="y", linewidth=0.3)
    figure.tight_layout()
    save(figure, "ablation.png")


def scaling(rows: list[dict[str, Any]]) -> None:
    """Seconds against rows, features, kernels and toys, with a line of slope 1 through the last point."""
    labels = {"rows": "rows of the reference", "features": "features", "kernels": "kernels", "toys": "toys"}
    figure, axes = plt.subplots(1, len(labels), figsize=(13, 3.4))
    for ax, (varied, label) in zip(axes, labels.items(), strict=True):
        points = sorted((float(row["size"]), float(row["seconds"])) for row in rows if row["varied"] == varied)
        size, seconds = np.array(points).T
        ax.plot(size, seconds, "o-", color=COLORS["sparker"])
        ax.plot(size, seconds[-1] * size / size[-1], "--", color="grey", linewidth=1, label="slope 1")
        ax.set(xscale="log", yscale="log", xlabel=label, ylim=(0.4 * seconds.min(), 2.5 * seconds.max()))
    axes[0].set_ylabel("seconds")
    for ax in axes:
        ax.yaxis.set_minor_formatter(plt.NullFormatter())
    axes[0].legend(fontsize=8, loc="upper left")
    figure.tight_layout()
    save(figure, "scaling.png")


def main() -> None:
    if rows := read("scaling.csv"):
        scaling(rows)
    if rows := read("search.csv"):
        search(rows)
    if rows := most_pairs(read("power_judge.csv")):
        power(rows)
        dimension(rows)
    if (rows := read("power_ablation.csv")) and (summary := read("power_ablation_summary.csv")):
        ablation(rows, summary)


if __name__ == "__main__":
    main()
