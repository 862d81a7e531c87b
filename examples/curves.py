"""Draws a run's curves, as a picture and in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

__all__ = ["draw_picture", "draw_terminal"]

Series: TypeAlias = Sequence[tuple[int, float]]

PANELS = ("loss", "accuracy")
COLOURS = {"train": "#5b8def", "val": "#e0731d"}
SMOOTHED_OVER = 43  # steps of an epoch of examples/digits.py


def draw_picture(series: Mapping[str, Series], title: str, file: Path) -> None:
    """Loss and accuracy as a PNG: every training step faint, its running mean and the validation on top."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(PANELS), figsize=(10, 3.6), dpi=110, layout="constrained")
    for axis, panel in zip(axes, PANELS, strict=True):
        steps, values = zip(*series[f"train/{panel}"], strict=True)
        axis.plot(steps, values, color=COLOURS["train"], alpha=0.2, linewidth=0.8)
        axis.plot(steps, running_mean(values), color=COLOURS["train"], linewidth=1.6, label=f"train/{panel}")
        steps, values = zip(*series[f"val/{panel}"], strict=True)
        axis.plot(steps, values, color=COLOURS["val"], linewidth=1.6, marker="o", markersize=3, label=f"val/{panel}")
        axis.set_xlabel("step")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    axes[0].set_yscale("log")
    figure.suptitle(title, fontsize=11)
    figure.savefig(file)
    plt.close(figure)


def draw_terminal(series: Mapping[str, Series], width: int, colour: bool) -> str:
    """The same as text, for a terminal of that width."""
    import plotext

    figure = plotext.figure
    figure.clear()
    figure.subplots(1, len(PANELS))
    for column, panel in enumerate(PANELS, start=1):
        plot = figure.subplot(1, column)
        plot.plot_size(min(width, 120) // len(PANELS) - 1, 15)
        plot.title(f"{panel}: training ▞, validation ●")
        plot.label("step")
        last = series[f"train/{panel}"][-1][0]
        plot.ruler("x").ticks([last * quarter // 4 for quarter in range(5)])
        steps, values = zip(*series[f"train/{panel}"], strict=True)
        plot.draw(plot.signal(list(steps), running_mean(values)))
        steps, values = zip(*series[f"val/{panel}"], strict=True)
        plot.draw(plot.signal(list(steps), list(values), marker="●"))
    return str(figure.build().string(colorless=not colour))


def running_mean(values: Sequence[float]) -> list[float]:
    """Mean of the last epoch's steps at each step."""
    means = []
    for end in range(1, len(values) + 1):
        last = values[max(0, end - SMOOTHED_OVER) : end]
        means.append(sum(last) / len(last))
    return means
