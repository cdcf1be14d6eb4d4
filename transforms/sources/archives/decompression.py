"""The bytes of a file, decompressed while they are read, and cut into chunks of whole lines.

A compressed file is any number of gzip members or zstd frames, one after another; zeros may pad it. What can
be decompressed of a damaged file comes out before the error.
"""

import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from typing import BinaryIO, Protocol

import zstandard

from transforms.sources.archives.long_lines import LongLine, compute_longest_line

READ_BYTES = 1 << 20
"""How much of a plain file is read at a time."""

COMPRESSED_BYTES = 1 << 10
"""How much of a compressed file is decompressed at a time: three bytes of zstd can stand for 128 KiB, so this
for 44 MB."""

LONGEST_WINDOW = 1 << 27
"""The largest zstd window that is accepted, in bytes: that of `zstd --long=27`, beyond which zstd itself asks
before it reads."""

MOST_LINES = 1 << 16
"""A chunk of more lines is cut though it is small: each line has a cost of its own."""
PAYLOAD_BYTES = 1 << 20
"""How long a payload may be by default."""
_PIECE_BYTES = 1 << 18
_BLANK = b" \t\r\n"


_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class DamagedError(Exception):
    """A file cannot be read any further; `str()` says why. What was read of it before is good."""


class Member(Protocol):
    """A gzip member or a zstd frame that is being decompressed."""

    @property
    def eof(self) -> bool:
        """Whether it is complete."""

    @property
    def unused_data(self) -> bytes:
        """What was given to it beyond its end."""

    def decompress(self, data: bytes, /) -> bytes:
        """What its next bytes hold."""


def read_plain(file: BinaryIO) -> Iterator[bytes]:
    """The file's bytes, a piece at a time."""
    while piece := file.read(READ_BYTES):
        yield piece


def gunzip(file: BinaryIO) -> Iterator[bytes]:
    """The decompressed bytes of a gzip file, a piece at a time.

    Raises:
        DamagedError: it is no gzip, cut short, corrupt or followed by something else.
    """
    return _decompress(file, "gzip", partial(zlib.decompressobj, wbits=31))


def unzstd(file: BinaryIO) -> Iterator[bytes]:
    """The decompressed bytes of a zstd file, a piece at a time.

    Raises:
        DamagedError: it is no zstd, cut short, corrupt or followed by something else.
    """
    return _decompress(file, "zstd", zstandard.ZstdDecompressor(max_window_size=LONGEST_WINDOW).decompressobj)


def _decompress(file: BinaryIO, name: str, start: Callable[[], Member]) -> Iterator[bytes]:
    rest = file.read(COMPRESSED_BYTES)
    while rest:
        member = start()
        begin = file.tell() - len(rest)
        produced = 0
        try:
            while rest and not member.eof:
                piece = member.decompress(rest)
                yield piece
                produced += len(piece)
                rest = member.unused_data if member.eof else file.read(COMPRESSED_BYTES)
        except (zlib.error, zstandard.ZstdError) as error:
            if "too much memory" in str(error):
                raise DamagedError(
                    "its zstd window is longer than 128 MiB; compress it with `zstd --long=27` at most"
                ) from error
            if "memory" in str(error):
                raise MemoryError(str(error)) from error
            fault = yield from _salvage(file, start(), begin, file.tell() - len(rest), produced)
            what = f"no {name} from byte {begin} on" if fault < begin + 5 else f"corrupt at byte {fault}"
            raise DamagedError(f"{what} ({error})") from error
        if not member.eof:
            raise DamagedError(f"cut short (its {name} data ends too early)")
        rest = _skip_padding(file, rest)


def _salvage(
    file: BinaryIO, member: Member, begin: int, good: int, produced: int
) -> Generator[bytes, None, int]:
    """What a member that began at `begin` still gives after its first `produced` bytes, and where in the file
    it fails.

    It is decompressed once more: to byte `good` without a fault, from there on byte by byte.
    """
    file.seek(begin)
    seen = 0
    try:
        while piece := file.read(min(COMPRESSED_BYTES, max(good - file.tell(), 1))):
            octets = member.decompress(piece)
            yield octets[max(produced - seen, 0) :]
            seen += len(octets)
    except (zlib.error, zstandard.ZstdError):
        pass
    return file.tell() - 1


def _skip_padding(file: BinaryIO, rest: bytes) -> bytes:
    """What follows the zeros that `rest` and the file go on with."""
    rest = rest.lstrip(b"\0")
    while not rest and (piece := file.read(COMPRESSED_BYTES)):
        rest = piece.lstrip(b"\0")
    return rest


def cut_chunks(
    pieces: Iterable[bytes], chunk_bytes: int, payload_bytes: int = PAYLOAD_BYTES
) -> Iterator[tuple[int, bytes | LongLine]]:
    """The pieces as chunks of whole lines, of about `chunk_bytes`, or MOST_LINES; each with the number of its
    first line, from 1.

    A line that is too long to hold a payload of `payload_bytes` comes alone, as a LongLine. Long runs of
    blank lines are left out; a last newline is added. An error of the pieces comes after the whole lines
    before it; the line that it cuts off is dropped.
    """
    pieces = _limit_size(pieces, min(chunk_bytes, _PIECE_BYTES, compute_longest_line(payload_bytes)))
    texts = _cut_whole_lines(pieces, payload_bytes)
    held: list[bytes] = []
    number, size, lines = 1, 0, 0
    fault: Exception | None = None
    text: bytes | LongLine | None = b""
    while text is not None:
        try:
            text = next(texts, None)
        except (DamagedError, OSError) as error:
            text, fault = None, error
        apart = not isinstance(text, bytes) or not text.lstrip(_BLANK)
        if held and (apart or size >= chunk_bytes or lines >= MOST_LINES):
            yield number, b"".join(held)
            held, number, size, lines = [], number + lines, 0, 0
        if isinstance(text, LongLine):
            if not text.is_blank:
                yield number, text
            number += 1
        elif text and apart:
            number += text.count(b"\n")
        elif text:
            held.append(text)
            size += len(text)
            lines += text.count(b"\n")
    if fault:
        raise fault


def _cut_whole_lines(pieces: Iterable[bytes], payload_bytes: int) -> Iterator[bytes | LongLine]:
    """The pieces, none longer than the longest line, as texts of whole lines, with a newline at the end of
    the last one too.

    A line that is too long to hold a payload of `payload_bytes` is a LongLine.
    """
    begun: list[bytes] = []
    size = 0
    usual = longest = compute_longest_line(payload_bytes)
    long: LongLine | None = None
    for piece in pieces:
        end = piece.find(b"\n")
        rest = piece if end < 0 else piece[:end]
        if long:
            long.add(rest)
        elif size + len(rest) > longest:
            first = b"".join([*begun, rest])
            longest = compute_longest_line(payload_bytes, first)
            if len(first) > longest:
                long, begun, size = LongLine(first), [], 0
        if long:
            if end < 0:
                continue
            yield long
            long, longest, piece = None, usual, piece[end + 1 :]
        if last := piece.rfind(b"\n") + 1:
            yield b"".join([*begun, piece[:last]])
            begun, size, longest = [], 0, usual
        begun.append(piece[last:])
        size += len(piece) - last
    if long:
        yield long
    elif size:
        yield b"".join([*begun, b"\n"])


def drop_mark(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces without a UTF-8 byte order mark before all of them."""
    begin: bytes | None = b""
    for piece in pieces:
        if begin is not None:
            begin += piece
            if begin != _BYTE_ORDER_MARK and _BYTE_ORDER_MARK.startswith(begin):
                continue
            piece, begin = begin.removeprefix(_BYTE_ORDER_MARK), None
        yield piece
    if begin:
        yield begin


def _limit_size(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    for piece in pieces:
        for start in range(0, len(piece), size):
            yield piece[start : start + size]
