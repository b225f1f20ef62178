"""Networks as stacks of stages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from hfseg.plots.style import INK, LINES, style

ENCODER, HEAD = LINES[0][0], LINES[1][0]


@dataclass
class Stage:
    """A part of a network, in the order of its forward pass.

    Attributes:
        part: encoder or head.
        name: what it is made of.
        shape: (channels, height, width) of its output.
        parameters: number of its weights.
        to_head: its output is read by the head.
    """

    part: str
    name: str
    shape: tuple[int, int, int]
    parameters: int
    to_head: bool = False


def plot_architectures(networks: Mapping[str, Sequence[Stage]]) -> Figure:
    """Each network as a column of boxes with output shape and parameters; a line marks what the head reads.

    Args:
        networks: name -> stages.
    """
    rows = max(len(stages) for stages in networks.values())
    with style():
        figure = Figure(figsize=(4.6 * len(networks), 0.62 * rows + 1.1), layout="constrained", dpi=100)
        for axis, (name, stages) in zip(figure.subplots(1, len(networks), squeeze=False)[0], networks.items()):
            total = sum(stage.parameters for stage in stages)
            axis.set_title(f"{name}: {_millions(total)} parameters", loc="left")
            axis.set(xlim=(-0.1, 4.7), ylim=(rows - 0.1, -0.1))
            axis.set_axis_off()
            first_head = next((i for i, stage in enumerate(stages) if stage.part == "head"), len(stages))
            for i, stage in enumerate(stages):
                color = ENCODER if stage.part == "encoder" else HEAD
                axis.add_patch(Rectangle((0, i), 4.0, 0.76, facecolor=color, alpha=0.16, linewidth=0))
                axis.add_patch(Rectangle((0, i), 0.07, 0.76, facecolor=color, linewidth=0))
                shape = " x ".join(str(side) for side in stage.shape)
                axis.text(0.16, i + 0.25, stage.name, va="center", fontsize=8.5, weight="bold")
                axis.text(0.16, i + 0.55, f"{stage.part}, output {shape}", va="center", fontsize=7.5)
                axis.text(3.92, i + 0.25, _millions(stage.parameters), va="center", ha="right", fontsize=8)
                if 0 < i <= first_head:  # the parts of a head need not follow one another
                    arrow = FancyArrowPatch(
                        (2, i - 0.24), (2, i), arrowstyle="-|>", mutation_scale=6, color=INK, lw=0.6
                    )
                    axis.add_patch(arrow)
                if stage.to_head and first_head < len(stages) and i < first_head - 1:
                    axis.plot([4.0, 4.3], [i + 0.38] * 2, color=HEAD, lw=1.4)
                    axis.plot([4.3, 4.3], [i + 0.38, first_head + 0.38], color=HEAD, lw=1.4)
                    axis.annotate(
                        "",
                        (4.0, first_head + 0.38),
                        (4.3, first_head + 0.38),
                        arrowprops={"arrowstyle": "-|>", "color": HEAD, "lw": 1.4, "shrinkA": 0, "shrinkB": 0},
                    )
    return figure


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M" if count >= 1e4 else f"{count:,}"
