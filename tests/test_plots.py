"""The figures: what is drawn is what was given, and bad input is refused in one sentence."""

import base64
import io
from collections.abc import Iterator

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.image as image
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

from ibvonns_book import plots


@pytest.fixture
def ax() -> Iterator[Axes]:
    """Axes in the book's style."""
    with mpl.rc_context():
        plots.use_style()
        yield plt.subplots()[1]
    plt.close("all")


ACCESS = ("get_color", "get_linestyle")
TIMES = torch.linspace(0, 1, 11, dtype=torch.float64)
CURVES = torch.stack([TIMES, TIMES**2])


def test_histories_draw_truth_thinned_and_prediction_whole(ax: Axes) -> None:
    plots.histories(ax, TIMES, CURVES, CURVES + 1, ("a", ""), every=5)
    drawn = [np.asarray(line.get_ydata()) for line in ax.lines]
    assert [len(line) for line in drawn] == [3, 11, 3, 11]
    assert np.array_equal(drawn[3], CURVES[1] + 1)
    assert ax.get_legend_handles_labels()[1] == ["a"]
    colours, styles = ([getattr(line, name)() for line in ax.lines] for name in ACCESS)
    assert colours[0] == colours[1] != colours[2]
    assert styles[1] != styles[3]


def test_shades_grow_darker() -> None:
    light = [sum(shade[:3]) for shade in plots.shades(10)]
    assert light == sorted(light, reverse=True)
    assert len(plots.shades(1)) == 1


def test_styles_differ_without_colour(ax: Axes) -> None:
    plots.use_style()
    styles = mpl.rcParams["axes.prop_cycle"].by_key()["linestyle"]
    assert len({str(style) for style in styles}) == len(styles)


def test_parity_draws_the_line_of_agreement(ax: Axes) -> None:
    plots.parity(ax, CURVES, CURVES.numpy() + 1)
    points, line = ax.lines
    assert np.array_equal(points.get_xdata(), CURVES.flatten())
    assert np.array_equal(line.get_xdata(), line.get_ydata())
    assert np.asarray(line.get_xdata()).tolist() == [0, 2]


def test_histogram_has_unit_area_and_leaves_out_what_is_beyond(ax: Axes) -> None:
    samples = torch.tensor([0.1, 0.2, 0.9, 5.0], dtype=torch.float64)
    plots.density_with_histogram(ax, samples, TIMES, torch.ones(11), bins=2)
    heights, edges, _ = ax.patches[0].get_data()  # type: ignore[attr-defined]
    assert list(heights * np.diff(edges)) == [0.5, 0.25]


def test_convergence_line_has_the_order(ax: Axes) -> None:
    plots.log_convergence(ax, [0.1, 0.2, 0.4], [1.0, 2.0, 4.0], 2)
    plots.log_convergence(ax, [0.1, 0.2, 0.4], [1.0, 2.0, 4.0], 1)
    assert np.asarray(ax.lines[1].get_ydata()).tolist() == pytest.approx([1, 4, 16])
    assert np.asarray(ax.lines[3].get_ydata()).tolist() == pytest.approx([1, 2, 4])
    assert ax.lines[0].get_marker() != ax.lines[2].get_marker()


def test_ladder_draws_what_is_left_of_the_axis_at_its_end(ax: Axes) -> None:
    ax.set(xscale="log", xlim=(0.1, 10))
    ours_of = torch.tensor([[1, 0.5, 3], [0.2, 0.05, 0.3]])
    plots.ladder(ax, ["a", "b"], [0.01, 2.0], ours_of, [0.3, 0.01])
    ours, goal = ax.lines
    assert np.asarray(ours.get_xdata()).tolist() == pytest.approx([1, 0.2])
    assert np.asarray(goal.get_xdata()).tolist() == pytest.approx([0.1, 2.0])
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([0.2, 0.0])  # type: ignore[attr-defined]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first on top


def test_slider_shows_each_frame_with_its_words() -> None:
    frames = [plt.figure(figsize=(6.4, 3.6)) for _ in range(3)]
    slider = plots.slider_figure(frames, ["t = 0", "t = 1", "t < 2"], 'A "density".')
    content = slider.content
    assert content["labels"] == ["t = 0", "t = 1", "t < 2"]
    assert content["description"] == 'A "density".' and content["width"] == 640
    assert len(content["sources"]) == 3
    data = content["sources"][0].removeprefix("data:image/png;base64,")
    assert image.imread(io.BytesIO(base64.b64decode(data))).shape[:2] == (540, 960)
    assert not plt.get_fignums()
    assert repr(slider) == '<Frames: A "density".>'  # no address: nbval compares it


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda ax: plots.histories(ax, TIMES), "must not both be None"),
        (lambda ax: plots.histories(ax, TIMES, CURVES[:, 1:]), "truth must have shape"),
        (lambda ax: plots.histories(ax, TIMES, CURVES, CURVES[:1]), "have 2 and 1"),
        (lambda ax: plots.histories(ax, TIMES, CURVES, labels=["a"]), "labels must number 2"),
        (lambda ax: plots.histories(ax, TIMES, CURVES, every=0), "every must be"),
        (lambda ax: plots.histories(ax, TIMES, CURVES / 0), "truth must be finite"),
        (lambda ax: plots.parity(ax, CURVES, CURVES[0]), "prediction must have shape"),
        (lambda ax: plots.parity(ax, [], []), "must be a whole number of at least 1"),
        (lambda ax: plots.density_with_histogram(ax, CURVES, TIMES, TIMES), "realisations must"),
        (lambda ax: plots.density_with_histogram(ax, TIMES, TIMES, TIMES[1:]), "density must"),
        (lambda ax: plots.log_convergence(ax, [0.1, 0.2], [0.0, 1.0], 1), "smallest of errors"),
        (lambda ax: plots.log_convergence(ax, [0.1, 0.2], [1.0, 1.0], -1), "order must be"),
        (lambda ax: plots.slider_figure([], [], ""), "number of frames must be"),
        (lambda ax: plots.slider_figure([ax.figure], [], ""), "labels must number 1"),
        (lambda ax: plots.shades(0), "number must be"),
        (lambda ax: plots.ladder(ax, [], [], [], []), "number of names must be"),
        (lambda ax: plots.ladder(ax, ["a"], [1.0, 2.0], torch.ones(1, 3), [1]), "published must have"),
        (lambda ax: plots.ladder(ax, ["a"], [1.0], torch.ones(1, 2), [1]), "ours must have"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call: object, sentence: str, ax: Axes) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=sentence):
        call(ax)
