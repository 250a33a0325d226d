"""Markdown tables of results."""

from collections.abc import Sequence


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns and a line break at its end. Every row has one cell per column."""
    cells = [[_escape(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return "".join(f"| {line} |\n" for line in lines)


def _escape(text: str) -> str:
    """The text of one cell: without line breaks, and with escapes for the characters that end a cell."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
