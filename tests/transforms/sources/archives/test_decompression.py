"""Decompressing while reading, whatever state the file is in, and cutting into chunks of whole lines."""

import gzip
import io
from collections.abc import Callable, Iterator
from random import Random

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from transforms.sources.archives.decompression import (
    COMPRESSED_BYTES,
    MOST_LINES,
    DamagedError,
    cut_chunks,
    gunzip,
    read_plain,
    unzstd,
)

RANDOM = Random(1)
TEXT = b"".join(b"%d\n" % RANDOM.getrandbits(64) for _ in range(20_000))


def zstd(text: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(text)


def noise(size: int) -> bytes:
    """Lines that do not compress."""
    return Random(2).randbytes(size).hex().encode() + b"\n"


Codec = tuple[Callable[[bytes], bytes], Callable[[io.BytesIO], Iterator[bytes]], str]
CODECS: list[Codec] = [(gzip.compress, gunzip, "gzip"), (zstd, unzstd, "zstd")]
every_codec = pytest.mark.parametrize(("pack", "unpack", "name"), CODECS, ids=["gzip", "zstd"])


def read(pieces: Iterator[bytes]) -> tuple[bytes, str]:
    """All that comes out, and the reason why no more does."""
    text = bytearray()
    try:
        for piece in pieces:
            text += piece
    except DamagedError as error:
        return bytes(text), str(error)
    return bytes(text), ""


@every_codec
def test_members_in_a_row_are_one_text(pack: Callable, unpack: Callable, name: str) -> None:
    large = noise(COMPRESSED_BYTES)
    packed = pack(b"a\n") + pack(b"") + pack(large) + pack(b"b\n")
    assert read(unpack(io.BytesIO(packed))) == (b"a\n" + large + b"b\n", "")


@every_codec
def test_zeros_may_pad_the_end_and_lie_between_members(pack: Callable, unpack: Callable, name: str) -> None:
    packed = pack(b"a\n") + bytes(3 * COMPRESSED_BYTES) + pack(b"b\n") + b"\0"
    assert read(unpack(io.BytesIO(packed))) == (b"a\nb\n", "")


@every_codec
def test_an_empty_file_is_an_empty_text(pack: Callable, unpack: Callable, name: str) -> None:
    assert read(unpack(io.BytesIO(b""))) == (b"", "")


@every_codec
def test_a_file_that_is_cut_short_gives_what_it_has(pack: Callable, unpack: Callable, name: str) -> None:
    packed = pack(b"first\n") + pack(TEXT)
    for size in (len(packed) - 1, len(packed) * 9 // 10):
        text, reason = read(unpack(io.BytesIO(packed[:size])))
        assert (b"first\n" + TEXT).startswith(text)
        assert len(text) > size
        assert reason == f"cut short (its {name} data ends too early)"


@every_codec
def test_a_wrong_checksum_is_found_after_all_of_the_text(pack: Callable, unpack: Callable, name: str) -> None:
    packed = bytearray(pack(TEXT))
    packed[-1 if name == "zstd" else -5] ^= 1
    text, reason = read(unpack(io.BytesIO(packed)))
    assert text == TEXT
    assert reason.startswith("corrupt at byte ")


@every_codec
def test_a_corrupt_byte_costs_what_comes_after_it(pack: Callable, unpack: Callable, name: str) -> None:
    packed = bytearray(pack(b"first\n") + pack(TEXT))
    packed[len(packed) * 9 // 10 :] = b"\xff" * (len(packed) - len(packed) * 9 // 10)
    text, reason = read(unpack(io.BytesIO(packed)))
    assert text.startswith(b"first\n" + TEXT[: len(TEXT) // 2])
    assert reason


@every_codec
def test_what_follows_the_last_member_is_reported(pack: Callable, unpack: Callable, name: str) -> None:
    packed = pack(b"a\n")
    text, reason = read(unpack(io.BytesIO(packed + b"\0garbage")))
    assert text == b"a\n"
    assert reason.startswith(f"no {name} from byte {len(packed) + 1} on")


@every_codec
def test_another_format_is_reported(pack: Callable, unpack: Callable, name: str) -> None:
    text, reason = read(unpack(io.BytesIO(b'{"task_id":"t"}\n')))
    assert text == b""
    assert reason.startswith(f"no {name} from byte 0 on")


def test_a_skippable_zstd_frame_is_skipped() -> None:
    frame = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"note"
    assert read(unzstd(io.BytesIO(frame + zstd(b"a\n") + frame))) == (b"a\n", "")


def test_a_plain_file_is_its_bytes() -> None:
    assert read(read_plain(io.BytesIO(TEXT * 9))) == (TEXT * 9, "")


@given(st.lists(st.sampled_from([b"", b"a", b"\n", b"bcd", b" \n\r\n", b"e\nf"])), st.integers(1, 9))
def test_chunks_are_whole_lines_with_their_numbers_and_without_some_blank_ones(
    pieces: list[bytes], chunk_bytes: int
) -> None:
    lines = (text := b"".join(pieces)).split(b"\n")
    cut = [(number, chunk) for number, chunk in cut_chunks(pieces, chunk_bytes) if isinstance(chunk, bytes)]
    assert all(chunk.endswith(b"\n") for _, chunk in cut)
    found = {number + i: line for number, chunk in cut for i, line in enumerate(chunk.split(b"\n")[:-1])}
    assert {number: line for number, line in found.items() if line.strip()} == {
        i: x for i, x in enumerate(lines, 1) if x.strip()
    }
    assert found.items() <= dict(enumerate(lines, 1)).items()
    longest = max(map(len, text.split(b"\n"))) + 1
    assert all(len(chunk) < 2 * chunk_bytes + longest for _, chunk in cut)


def test_a_line_longer_than_a_chunk_is_not_cut() -> None:
    line = b"x" * 5_000_000 + b"\n"
    pieces = [b"a\n", *(line[i : i + 1000] for i in range(0, len(line), 1000)), b"b\n"]
    assert list(cut_chunks(pieces, 1000)) == [(1, b"a\n" + line), (3, b"b\n")]


def test_gigabytes_of_blank_lines_are_passed_over_and_counted() -> None:
    assert list(cut_chunks([b"a\n", *[b"\n" * (1 << 20)] * 8, b"\r\n \t\nb"], 16 << 20)) == [
        (1, b"a\n"),
        ((8 << 20) + 4, b"b\n"),
    ]


def test_an_error_comes_after_the_whole_lines_before_it() -> None:
    def pieces() -> Iterator[bytes]:
        yield b"a\nb\nc"
        raise DamagedError("torn")

    cut = cut_chunks(pieces(), 100)
    assert next(cut) == (1, b"a\nb\n")
    with pytest.raises(DamagedError, match="torn"):
        next(cut)


def test_a_few_bytes_that_stand_for_gigabytes_come_in_pieces() -> None:
    def longest(text: bytes, unpack: Callable) -> int:
        return max(map(len, unpack(io.BytesIO(text))))

    bomb = zstandard.ZstdCompressor().compressobj()
    packed = b"".join(bomb.compress(bytes(1 << 20)) for _ in range(500)) + bomb.flush()
    assert len(packed) < 100_000
    assert longest(packed, unzstd) < 64 << 20
    assert longest(gzip.compress(bytes(100 << 20)), gunzip) < 64 << 20


def test_a_chunk_has_a_limited_number_of_lines() -> None:
    found = [text for _, text in cut_chunks([b"a\n" * (1 << 19)] * 8, 16 << 20) if isinstance(text, bytes)]
    assert sum(map(len, found)) == 8 << 20
    assert max(text.count(b"\n") for text in found) <= MOST_LINES + (1 << 17)


def test_a_zstd_window_beyond_128_mib_is_refused_with_the_fix() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, write_content_size=False)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    text, why = read(unzstd(io.BytesIO(stream.compress(b"a") + stream.flush())))
    assert text == b""
    assert "--long=27" in why
