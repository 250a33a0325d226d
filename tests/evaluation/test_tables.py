"""Markdown tables."""

from dist_jax.evaluation.tables import markdown_table


def test_columns_are_aligned():
    assert markdown_table(["run", "top1"], [["a", "95.4%"], ["long name", ""]]) == (
        "| run       | top1  |\n| --------- | ----- |\n| a         | 95.4% |\n| long name |       |\n"
    )


def test_a_cell_stays_in_its_column_and_row():
    assert markdown_table(["run"], [["a|b\\\nc"]]) == "| run      |\n| -------- |\n| a\\|b\\\\ c |\n"
