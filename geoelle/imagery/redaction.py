"""Taking signatures out of what is shown: messages, and what libraries log."""

from __future__ import annotations

import logging
import re


def without_signature(text: str) -> str:
    """A message without the query strings and passwords of addresses, which may hold tokens.

    Transports also name an address without its host (`url: /B04.tif?sig=...`), so any query is taken out.
    """
    text = re.sub(r"(?<=[^\s'\"])\?[^\s'\"?=]+=[^\s'\"]*", "", text)
    return re.sub(r"(?<=://)[^/@\s'\"]+@", "", text)


class RedactingFilter(logging.Filter):
    """Lets every record pass, without the signatures in its text."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        clean = without_signature(text)
        if clean != text:
            record.msg, record.args = clean, None
        return True
