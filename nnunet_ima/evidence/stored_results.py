"""What readers rely on in a stored result, as types by key: a file that lacks it is damaged, see `Store.get`."""

from __future__ import annotations

NUMBER = int | float

SCORE = {"dice": NUMBER, "dice_per_class": dict, "overlap": dict, "hd95_mm": NUMBER | None}
COMPONENT = SCORE | {"noise": dict, "trace": dict, "passes": dict, "seconds": NUMBER}
PRESET = SCORE | {
    **{"model": str, "case": str, "attack": str, "eps": NUMBER, "units": dict, "noise": dict, "passes": dict},
    **{"clean_dice": NUMBER, "clean_dice_per_class": dict, "random_dice": NUMBER, "stored_dice": NUMBER | None},
    **{"worst_component": str, "components": dict, "seconds": NUMBER},
}
WHITE_NOISE = {"dice": NUMBER, "kinds": dict}
MARGIN = {
    **{"model": str, "case": str, "eps": NUMBER | None, "largest_tried": NUMBER, "units": dict | None},
    **{"dice": NUMBER, "threshold": NUMBER},
}
PROBE = {
    **{"eps": NUMBER, "dice": NUMBER, "dice_twice_the_steps": NUMBER, "dice_black_box": NUMBER, "queries": int},
    **{
        "dice_other_scales": NUMBER,
        "dice_huge": NUMBER,
        "eps_huge": NUMBER,
        "dice_full_precision": NUMBER | None,
        "repeat_difference": NUMBER,
    },
}
