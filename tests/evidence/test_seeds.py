"""Seeds stay what they were: every published number hangs on them."""

from __future__ import annotations

import torch

from nnunet_ima.evidence.seeds import generator


def test_numbers_depend_on_the_words_alone() -> None:
    first, again = (torch.rand(3, generator=generator(0, "case", "pgd@5")) for _ in range(2))
    assert torch.equal(first, again)
    others = [generator(*place) for place in ((1, "case", "pgd@5"), (0, "other", "pgd@5"), (0, "case", "pgd@2"))]
    assert not any(torch.equal(first, torch.rand(3, generator=other)) for other in others)


def test_seeds_are_those_of_former_releases() -> None:
    assert generator(0, "case_1", "pgd@5").initial_seed() == 42674912387227902
    assert generator(3, "pgd-100@0.5").initial_seed() == 39770599765193846
