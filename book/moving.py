"""Draw the landing page's moving picture: `python book/moving.py`, run by `make notebooks`.

Particles in a trap whose end is pulled to and fro, and below them the free energy on which their
mean slides: simulated, and by the exact theory. It plays once, for less than five seconds, and
stops; a still stands beside it for readers who asked their system for less motion, and for paper.
"""

from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from ibvonns.protocols import pulled_length
from ibvonns.systems.trap import Trap, paper_times
from ibvonns_book.plots import COLOURS, use_style

TARGET = Path(__file__).resolve().parent / "_static"
FRAMES = 50  # over the three units of time of the protocol
MILLISECONDS = 96  # for each: 4.8 s in all
STILL = 38  # the frame that is shown where nothing may move
SHOWN = 300  # particles that are drawn


def spring(left: float, right: float) -> tuple[np.ndarray, np.ndarray]:
    """A zigzag between two places."""
    x = np.linspace(left, right, 20)
    y = np.where(np.arange(20) % 2, 0.12, -0.12)
    y[[0, 1, -2, -1]] = 0
    return x, y


def frames() -> list[Image.Image]:
    """The pictures in their order; the same ones at each call."""
    trap, times = Trap(temperature=0.1), paper_times()  # ten times as warm: a cloud to be seen
    length = pulled_length("oscillating", torch.tensor([0.5], dtype=torch.float64), times)
    rng = torch.Generator().manual_seed(0)
    ensemble = trap.simulate(length, times, 4000, rng)
    cloud, mean = ensemble.realisations[0, :, :SHOWN].numpy(), ensemble.mean()[0].numpy()
    height = np.random.default_rng(0).normal(0, 0.3, SHOWN)
    place = torch.linspace(-1.6, 3.4, 301, dtype=torch.float64)

    use_style()
    plt.rcParams.update({"font.size": 17, "axes.labelsize": 17})
    fig, (above, below) = plt.subplots(2, 1, figsize=(6.4, 4.8), dpi=100, sharex=True)
    drawn = []
    for now in np.linspace(0, len(times) - 1, FRAMES).round().astype(int):
        end, middle = float(length[0, now]), float(mean[now])
        rest = trap.free_energy(length[0, now], length[0, now] / 2)
        energy = (trap.free_energy(length[0, now], place) - rest) / trap.temperature
        at = float(trap.free_energy(length[0, now], torch.tensor(middle)) - rest) / trap.temperature
        for ax in (above, below):
            ax.clear()
            ax.grid(False)
            ax.set_yticks([])
            ax.axvline(middle, color=COLOURS["vermilion"], ls="--", lw=2)
        for ends in ((0.0, middle), (middle, end)):
            above.plot(*spring(*ends), "-", color="0.45", lw=1.5)
        above.plot(cloud[now], height, "o", ms=4, color=COLOURS["blue"], alpha=0.45, mew=0)
        above.plot([0, end], [0, 0], "ks", ms=11)
        above.set(xlim=(-1.6, 3.4), ylim=(-1.3, 1.3), ylabel="particles")
        above.text(end, 0.45, "pulled", ha="center")
        below.plot(place, energy, "-", color="k", lw=2.5)
        below.plot(middle, at, "o", ms=14, color=COLOURS["vermilion"])
        below.set(ylim=(-1, 16), ylabel="free energy", xlabel="position")
        data = BytesIO()
        fig.savefig(data, format="png", dpi=100)
        drawn.append(Image.open(data).convert("RGB"))
    plt.close(fig)
    return drawn


def write(target: Path = TARGET) -> None:
    """Write the moving picture and the still."""
    first, *others = pictures = frames()
    target.mkdir(exist_ok=True)
    first.save(
        target / "moving.webp",
        save_all=True,
        append_images=others,
        duration=MILLISECONDS,
        loop=1,  # once
        quality=45,
        method=6,
        minimize_size=True,
    )
    pictures[STILL].save(target / "still.webp", quality=80, method=6)


if __name__ == "__main__":
    write()
