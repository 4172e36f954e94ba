import pytest
import torch

from nnunet_ima.ima.margins import MarginTable


@pytest.fixture
def table() -> MarginTable:
    return MarginTable(["a", "b", "c", "d"], delta=2.0, eps_max=9.0)


def observe(table: MarginTable, *visits: tuple[str, bool, float]) -> None:
    cases, crossed, sizes = zip(*visits, strict=True)
    table.observe(cases, torch.tensor(crossed), torch.tensor(sizes))


def test_all_begin_at_delta(table: MarginTable) -> None:
    assert table.radius(["b", "a", "b"]).tolist() == [2.0, 2.0, 2.0]
    assert MarginTable(["a"], delta=5.0, eps_max=3.0).margins == {"a": 3.0}


def test_table_by_hand(table: MarginTable) -> None:
    table.cases.update(a=4.0, b=4.0, c=4.0, d=4.0)
    observe(table, ("a", False, 4.0), ("b", True, 3.0), ("c", False, 4.0), ("c", True, 2.0), ("c", True, 4.0))
    table.end_epoch()
    # a expands; b halves its error; c averages 6, 3 and 4; d was not visited
    assert table.margins == pytest.approx({"a": 6.0, "b": 3.5, "c": 13 / 3, "d": 4.0})
    table.end_epoch()  # the visits are forgotten
    assert table.margins["a"] == 6.0


def test_undamped_rule_takes_the_distance_but_never_grows_by_it() -> None:
    table = MarginTable(["a", "b"], delta=1.0, eps_max=9.0, damped=False)
    table.cases.update(a=4.0, b=4.0)
    observe(table, ("a", True, 3.0), ("b", True, 4.5))
    table.end_epoch()
    assert table.margins == {"a": 3.0, "b": 4.0}


def test_margins_stay_between_0_and_eps_max(table: MarginTable) -> None:
    table.cases.update(a=8.0)
    observe(table, ("a", False, 8.0))
    table.end_epoch()
    assert table.margins["a"] == 9.0


def test_merged_visits_of_two_ranks_give_equal_tables() -> None:
    ranks = [MarginTable(["a", "b"], delta=2.0, eps_max=9.0) for _ in range(2)]
    observe(ranks[0], ("a", False, 2.0))
    observe(ranks[1], ("a", True, 1.0), ("b", False, 2.0))
    merged = [visit for rank in ranks for visit in rank.visits]
    for rank in ranks:
        rank.end_epoch(merged)
    assert ranks[0].margins == ranks[1].margins == pytest.approx({"a": (4 + 1.5) / 2, "b": 4.0})


def test_state_survives_and_foreign_cases_are_refused(table: MarginTable) -> None:
    table.cases["a"] = 7.5
    other = MarginTable(["a", "b", "c", "d"], delta=2.0, eps_max=9.0)
    other.load_state_dict(table.state_dict())
    assert other.margins == table.margins
    with pytest.raises(ValueError, match="'e'"):
        MarginTable(["a", "b", "c", "e"], delta=2.0, eps_max=9.0).load_state_dict({"a": 1, "b": 1, "c": 1})


def test_a_slice_begins_with_the_margin_of_its_case_and_goes_its_own_way() -> None:
    table = MarginTable(["a", "b"], delta=2.0, eps_max=20.0)
    assert table.radius([("a", 3), "a", ("b", 0)]).tolist() == [2.0, 2.0, 2.0]
    observe(table, (("a", 3), False, 2.0), (("a", 4), True, 1.0))
    table.end_epoch()
    assert table.margins == {("a", 3): 4.0, ("a", 4): 1.5, "b": 2.0}
    assert table.margin(("a", 7)) == pytest.approx((4.0 + 1.5) / 2)  # not visited yet: the mean of its case
    observe(table, (("a", 7), False, 2.75))
    table.end_epoch()
    assert table.margins[("a", 7)] == pytest.approx(4.75)
    assert table.margins[("a", 3)] == 4.0
    assert table.margin(("b", 3)) == 2.0


def test_margins_of_cases_stored_by_an_earlier_release_are_where_slices_begin() -> None:
    table = MarginTable(["a", "b"], delta=2.0, eps_max=20.0)
    table.load_state_dict({"a": 7.0, "b": 5.0})
    assert table.radius([("a", 1), ("a", 2), ("b", 1)]).tolist() == [7.0, 7.0, 5.0]


def test_state_holds_cases_and_slices() -> None:
    table, other = (MarginTable(["a", "b"], delta=2.0, eps_max=20.0) for _ in range(2))
    observe(table, (("a", 1), False, 2.0))
    table.end_epoch()
    other.load_state_dict(table.state_dict())
    assert (other.cases, other.slices) == (table.cases, table.slices) == ({"a": 4.0, "b": 2.0}, {("a", 1): 4.0})
