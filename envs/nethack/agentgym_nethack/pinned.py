"""NetHack's library with the clock taken out: always day, the moon at its first quarter, never Friday the 13th.

NetHack asks the clock when a game begins and while it is played (undead at night, luck at full moon), so the same seeds would give another
game tomorrow. The four functions that ask are overwritten by ``return constant`` in a copy of the library.
"""

from __future__ import annotations

import hashlib
import os
import platform
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

from elftools.elf.elffile import ELFFile
from nle.nethack.nethack import DLPATH

from agentgym.errors import CapabilityError
from agentgym.sandbox import state_folder

CONSTANT = {"night": 0, "midnight": 0, "friday_13th": 0, "phase_of_the_moon": 2}
CODE: dict[str, Callable[[int], bytes]] = {
    "x86_64": lambda k: struct.pack("<BIB", 0xB8, k, 0xC3),  # mov eax, k; ret
    "aarch64": lambda k: struct.pack("<II", 0x52800000 | k << 5, 0xD65F03C0),  # mov w0, k; ret
}


@cache
def library() -> str:
    """The path of the copy, made on first use.

    Raises:
        CapabilityError: this kind of processor, or this build of the engine, is not known.
    """
    machine = platform.machine()
    if machine not in CODE:
        raise CapabilityError(f"the clock of NetHack can be pinned on {', '.join(CODE)}, not on {machine}")
    original = Path(DLPATH).read_bytes()
    target = state_folder() / "nethack" / f"{hashlib.sha256(original + repr(CONSTANT).encode()).hexdigest()[:16]}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}")
        partial.write_bytes(_pinned(original, CODE[machine]))
        partial.replace(target)
    return str(target)


def _pinned(original: bytes, code: Callable[[int], bytes]) -> bytes:
    data = bytearray(original)
    with open(DLPATH, "rb") as file:  # noqa: PTH123  # as ELFFile wants it
        elf = ELFFile(file)
        symbols = elf.get_section_by_name(".dynsym")
        for name, value in CONSTANT.items():
            found = symbols.get_symbol_by_name(name) if symbols is not None else None
            if not found or found[0]["st_size"] < len(code(value)):
                raise CapabilityError(f"this build of NetHack has no function {name} that could be pinned")
            at = next(iter(elf.address_offsets(found[0]["st_value"])))
            data[at : at + len(code(value))] = code(value)
    return bytes(data)
