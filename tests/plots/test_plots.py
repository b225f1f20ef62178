import numpy as np
import pytest

from hfseg.labels import OKABE_ITO, Labels
from hfseg.plots import Curve, color_mask, plot_curves, plot_errors, plot_log, plot_scores
from hfseg.plots.curves import PANELS
from hfseg.plots.pictures import RIGHT, UNKNOWN, WRONG, shrink
from hfseg.plots.style import LINES
from hfseg.roc import RocCurve

LABELS = Labels(["background", "boundary", "foreground"])


def log(shift: float) -> list[dict[str, float]]:
    return [{"epoch": e, "loss": 1.0 / e + shift, "train_mean_iou": 0.1 * e} for e in (1, 2, 3)] + [
        {"epoch": e, "eval_loss": 1.1 / e, "eval_mean_iou": 0.1 * e + shift} for e in (2, 3)
    ]


def test_several_seeds_become_mean_and_band() -> None:
    curve = Curve.from_logs([log(0.0), log(0.1)], "eval_mean_iou")
    assert curve.epochs.tolist() == [2, 3] and curve.values.shape == (2, 2)
    figure = plot_curves({"run": {p: Curve.from_logs([log(0.0), log(0.1)], key) for p, key in PANELS.items()}})
    axis = figure.axes[3]
    np.testing.assert_allclose(axis.lines[0].get_ydata(), [0.25, 0.35])
    assert len(axis.collections) == 1 and axis.get_ylim()[1] >= 0.4, "the band is inside"


def test_a_log_without_validation_is_drawn() -> None:
    assert len(plot_log([{"epoch": 1, "loss": 1.0, "train_mean_iou": 0.1}]).axes[0].lines) == 1


def test_errors_are_black_and_ignored_pixels_grey() -> None:
    mask = np.array([[0, 1], [2, 255]], np.uint8)
    figure = plot_errors([np.zeros((2, 2, 3), np.uint8)], [mask], [np.array([[0, 2], [2, 0]])], ["a"], LABELS)
    shown = [axis.images[0].get_array() for axis in figure.axes[:4]]
    assert shown[3].tolist() == [[list(RIGHT), list(WRONG)], [list(RIGHT), list(UNKNOWN)]]
    np.testing.assert_array_equal(shown[1], color_mask(mask, LABELS))


def test_classes_have_their_colours_in_the_roc_curves() -> None:
    curves = [RocCurve([0.0, 1.0], [0.0, 1.0], 0.5), RocCurve([], [], None), RocCurve([0.0, 1.0], [0.5, 1.0], 0.75)]
    figure = plot_scores(np.diag([5, 0, 7]), curves, LABELS)
    drawn = [line.get_color() for line in figure.axes[2].lines if len(line.get_xdata()) == 2][:2]
    assert drawn == ["#{:02x}{:02x}{:02x}".format(*LABELS.palette[i]) for i in (0, 2)]
    assert [t.get_text() for t in figure.axes[1].texts][:3] == ["100.0 %", "0.0 %", "0.0 %"]


def test_lines_of_runs_differ_in_more_than_colour() -> None:
    assert len({str(dashes) for _, dashes in LINES}) == len(LINES) == len({color for color, _ in LINES})
    usual = {"#{:02x}{:02x}{:02x}".format(*color) for color in OKABE_ITO[:5]}
    assert not usual & {color for color, _ in LINES[:3]}, "runs do not look like the classes"


@pytest.mark.parametrize("shape", [(1000, 20), (20, 1000, 3), (5, 5)])
def test_shrunk_pictures_keep_their_proportions(shape: tuple[int, ...]) -> None:
    small = shrink(np.zeros(shape, np.uint8))
    assert max(small.shape[:2]) <= 160 and small.ndim == len(shape) and min(small.shape[:2]) >= 1


@pytest.mark.parametrize("name", ["a", "segformer_finetune_half_lr", "a_long_name_that_someone_gave_" * 3])
def test_a_legend_of_long_names_stays_within_the_figure(name: str) -> None:
    curve = Curve(np.array([1.0, 2.0]), np.array([[0.1, 0.2]] * 3))
    figure = plot_curves({f"{name}{i}"[:80]: dict.fromkeys(PANELS, curve) for i in range(4)})
    figure.canvas.draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width
