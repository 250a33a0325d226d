"""Text in plots."""

NAME_LENGTH = 40  # characters of a class name


def shorten(text: str, length: int = NAME_LENGTH) -> str:
    """The text on one line, with at most `length` characters. The end of a longer text is replaced by " ..."."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 4].rstrip() + " ..."
