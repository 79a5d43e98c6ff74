"""Jane Austen's novels (public domain) out of Debian's package r-cran-janeaustenr:

apt-get download r-cran-janeaustenr && dpkg -x r-cran-janeaustenr_*.deb austen
"""

import struct
import zlib
from pathlib import Path

BOOKS = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
HELD_OUT = "Persuasion"


def books(folder: str | Path) -> dict[str, str]:
    """Title -> text, of the unpacked package. The file holds a compressed R object for each: a vector of lines."""
    data, at, found = (Path(folder) / BOOKS).read_bytes(), 0, {}
    while at < len(data):
        unpack = zlib.decompressobj()
        lines = _lines(unpack.decompress(data[at + 4 :]))  # after the object's size
        at = len(data) - len(unpack.unused_data)
        found[next(line for line in lines if line).title()] = _joined(lines)
    return found


def _lines(raw: bytes) -> list[str]:
    """R's serialisation in its XDR form: a header, then a vector of strings, each with flags and a length."""
    at = 14 if raw[5] < 3 else 18 + struct.unpack(">I", raw[14:18])[0]
    (count,) = struct.unpack(">I", raw[at + 4 : at + 8])
    at += 8
    lines = []
    for _ in range(count):
        (length,) = struct.unpack(">i", raw[at + 4 : at + 8])
        lines.append(raw[at + 8 : at + 8 + max(length, 0)].decode())
        at += 8 + max(length, 0)
    return lines


def _joined(lines: list[str]) -> str:
    """Paragraphs: lines between empty ones."""
    paragraphs = "\n".join(line.strip() for line in lines).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip())
