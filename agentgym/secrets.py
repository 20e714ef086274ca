"""Secrets never touch disk: what looks like one, or is the value of an environment variable named like one, is masked before writing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import cached_property

NAMED = re.compile(r"(key|token|secret|passw|credential|auth|cookie|private)", re.IGNORECASE)
PATTERNS = (
    rb"sk-[A-Za-z0-9_-]{20,}", rb"hf_[A-Za-z0-9]{20,}", rb"gh[pousr]_[A-Za-z0-9]{30,}", rb"github_pat_[A-Za-z0-9_]{40,}", rb"glpat-[A-Za-z0-9_-]{18,}",
    rb"AKIA[0-9A-Z]{16}", rb"AIza[0-9A-Za-z_-]{35}", rb"xox[abprs]-[A-Za-z0-9-]{10,}", rb"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----[A-Za-z0-9+/=\\rn\s]*-----END [A-Z ]*PRIVATE KEY-----",
)  # fmt: skip
HINTS = (b"sk-", b"hf_", b"gh", b"glpat-", b"AKIA", b"AIza", b"xox", b"eyJ", b"PRIVATE KEY")
SHORTEST = 8


class Redactor:
    """Masks secrets in bytes, leaving every length as it is, so that offsets and binary files stay whole.

    ``environment``: values of at least 8 characters of variables whose name says key, token, secret, password and the like.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        given = os.environ if environment is None else environment
        values = {v for k, v in given.items() if NAMED.search(k) and len(v) >= SHORTEST and not v.startswith("/")}
        self.values = sorted((form for v in values for form in _forms(v)), key=len, reverse=True)

    @cached_property
    def _pattern(self) -> re.Pattern[bytes]:
        return re.compile(b"|".join(b"(?:%s)" % p for p in PATTERNS))

    def __call__(self, data: bytes) -> bytes:
        """The data with each secret replaced by as many asterisks."""
        for value in self.values:
            if value in data:
                data = data.replace(value, b"*" * len(value))
        if any(hint in data for hint in HINTS):
            data = self._pattern.sub(lambda found: b"*" * len(found[0]), data)
        return data


def _forms(value: str) -> Iterable[bytes]:
    """A value as it is, and as JSON writes it."""
    raw = value.encode("utf-8", "surrogateescape")
    return {raw, json.dumps(value, ensure_ascii=False)[1:-1].encode("utf-8", "surrogateescape")}
