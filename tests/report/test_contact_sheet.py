from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import image as mpl_image

from nnunet_ima.datasets.ct_phantom import ct_phantom_case
from nnunet_ima.report.contact_sheet import draw_contact_sheet
from nnunet_ima.shift import Scan, disturbances_for


def test_a_sheet_has_a_row_for_every_disturbance(tmp_path: Path) -> None:
    image, label = ct_phantom_case(np.random.default_rng(0), (20, 20, 10), (16, 16, 16))
    scan = Scan(np.ascontiguousarray(image.transpose(0, 3, 2, 1)), label.T, np.diag([16.0, 16, 16, 1]), "CT")
    file = tmp_path / "sheet.png"
    draw_contact_sheet(scan, file, "a phantom")
    drawn = mpl_image.imread(file)
    assert drawn.shape[0] > 60 * len(disturbances_for(scan))
    assert drawn.std() > 0.05
