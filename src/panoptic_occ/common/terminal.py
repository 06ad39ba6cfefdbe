"""Text that may hold names from files, made fit for a terminal."""

from __future__ import annotations

import logging

_CONTROLS = (*range(9), *range(11, 32), *range(0x7F, 0xA0))
_DIRECTIONS, _SURROGATES = (*range(0x202A, 0x202F), *range(0x2066, 0x206A)), range(0xD800, 0xE000)
_ESCAPED = {code: repr(chr(code))[1:-1] for code in (*_CONTROLS, *_DIRECTIONS, *_SURROGATES)}


def printable(text: str) -> str:
    """``text`` whose control characters, other than tab and newline, are shown as escapes such as ``\\x1b``.

    Else a name in a file could move the cursor, rename the window or hide a part of the message.  Codes that turn the
    direction of writing and halves of surrogates (bytes of a name that is not UTF-8) count too.
    """
    return text.translate(_ESCAPED)


class PrintableFormatter(logging.Formatter):
    """Log lines of printable characters."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of ``record``."""
        return printable(super().format(record))
