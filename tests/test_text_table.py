from lc_jax.text_table import table

ROWS = [["method", "n", "text"], ["LC RL", "1,000", "x"], ["a", "7", ""]]


def test_numbers_are_to_the_right_and_the_first_column_to_the_left():
    assert table(ROWS).splitlines() == ["method      n  text", "LC RL   1,000     x", "a           7"]


def test_each_column_has_its_own_side_and_the_last_side_is_that_of_all_further_ones():
    assert table(ROWS, align="rl").splitlines() == ["method  n      text", " LC RL  1,000  x", "     a  7"]
    assert table(ROWS, align="l").splitlines() == table(ROWS, align="lll").splitlines()


def test_markdown_has_bars_and_a_rule_that_says_the_sides():
    lines = ["| method |     n | text |", "|--------|------:|-----:|", "| LC RL  | 1,000 |    x |"]
    assert table(ROWS, markdown=True).splitlines()[:3] == lines
    assert table([["a"]], markdown=True).splitlines() == ["| a   |", "|-----|"]


def test_a_name_with_bars_and_line_breaks_stays_one_cell_of_markdown():
    text = table([["method", "x"], ["a|b\nc", "1"]], markdown=True)
    assert text.splitlines()[-1] == "| a\\|b c |   1 |"
