"""Markdown tables of results."""

from collections.abc import Sequence


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns and a line break at its end. Every row has one cell per column."""
    cells = [[_escape(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [markdown_row([cell.ljust(width) for cell, width in zip(row, widths, strict=True)]) for row in cells]
    lines.insert(1, markdown_row(["-" * width for width in widths]))
    return "".join(f"{line}\n" for line in lines)


def markdown_row(cells: Sequence[str]) -> str:
    """One line of a Markdown table. The cells are already escaped."""
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    """The text of one cell: without line breaks, and with escapes for the characters that end a cell."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
