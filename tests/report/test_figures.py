from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import image as mpl_image
from matplotlib import rc_context

from nnunet_ima.report.noise_grid import draw_noise_grid
from nnunet_ima.report.progress import plot_progress
from nnunet_ima.training.epoch_log import SERIES


def test_progress_is_drawn_with_gaps_in_the_robust_dice(tmp_path: Path) -> None:
    log = {key: [0.1, 0.2, 0.3] for key in (*SERIES, "mean_fg_dice")}
    log["ima_robust_dice"] = [None, 0.4, None]
    file = tmp_path / "ima_progress.png"
    plot_progress(log, [1.0, 2.0, 2.5], largest=3.0, robust_eps=1.5, file=file)
    drawn = mpl_image.imread(file)
    assert drawn.shape[:2] == (800, 1100)
    assert drawn.std() > 0.05


def test_noise_grid_shows_models_by_noise_levels(tmp_path: Path) -> None:
    label = np.zeros((20, 16), dtype=np.int64)
    label[5:12, 4:10] = 1
    label[8:12, 4:10] = 2
    rng = np.random.default_rng(0)
    panels = {
        name: [(f"ε = {eps}", rng.normal(size=label.shape), np.roll(label, eps, 0)) for eps in (0, 1, 2)]
        for name in ("plain", "IMA")
    }
    panels["IMA"][2] = ("ε = 2", rng.normal(size=label.shape), np.zeros_like(label))  # nothing predicted
    file = tmp_path / "grid.png"
    draw_noise_grid(label, panels, file, "title")
    assert mpl_image.imread(file).std() > 0.05


def test_styles_of_other_plots_leave_ours_alone(tmp_path: Path) -> None:
    log = {key: [0.1, 0.2] for key in (*SERIES, "mean_fg_dice")}
    for name, size in (("usual.png", 10.0), ("disturbed.png", 40.0)):
        with rc_context({"font.size": size, "axes.titlesize": 3 * size}):
            plot_progress(log, [1.0, 2.0], largest=3.0, robust_eps=1.5, file=tmp_path / name)
    assert np.array_equal(mpl_image.imread(tmp_path / "usual.png"), mpl_image.imread(tmp_path / "disturbed.png"))
