"""Text from elsewhere as a terminal may see it: what other processes say must not move its cursor, or ring its bell."""

from __future__ import annotations


def plain(text: str) -> str:
    """Return text with what is not printable as its escape sequence; line breaks and tabs stay."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in "\n\t" else repr(character)[1:-1] for character in text
    )
