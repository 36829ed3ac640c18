"""Commands that end with an error, as people see it."""

from __future__ import annotations

from commands import Answer, command


def refused(code: int, text: str, *arguments: object) -> Answer:
    """A command that ends with this exit code, prints no result, and whose last line is an error with this text."""
    answer = command(*arguments)
    assert answer.code == code, (arguments, answer)
    assert answer.out == ""
    assert text in answer.error, arguments
    assert not any(ord(character) < 32 for character in answer.error)
    return answer
