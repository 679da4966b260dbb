# SPDX-License-Identifier: Apache-2.0
"""Serial frames in Python, and whether C++ agrees byte for byte and decision for decision."""

from __future__ import annotations

import random
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tflm_zo.errors import ZoError
from tflm_zo.serial.framing import OVERHEAD, Decoder, Frame, Rejection, encode

REPOSITORY = Path(__file__).parent.parent

# The same frames are in tests/cpp/test_framing.cc.
GOLDEN = [
    (Frame(1, 0, b""), "00 03 01 01 01 01 01 01 01 05 43 d4 ff 0f 00"),
    (Frame(2, 0x0100, b"\0\0\0"), "00 03 01 02 03 01 03 01 01 01 01 01 05 12 a4 be 53 00"),
    (
        Frame(0x7F, 0xBEEF, b"one\0two"),
        "00 06 01 7f ef be 07 01 01 04 6f 6e 65 08 74 77 6f d6 93 87 1f 00",
    ),
]
GOLDEN_TOTAL = 112466
GOLDEN_CRC = 0x6E9370AD


def xorshift(seed: int) -> Iterator[int]:
    """Twin of tests/cpp/xorshift.h."""
    state = seed
    while True:
        state ^= (state << 13) & 0xFFFFFFFF
        state ^= state >> 17
        state ^= (state << 5) & 0xFFFFFFFF
        yield state


def cobs_by_definition(content: bytes) -> bytes:
    """COBS as a byte-by-byte state machine, unlike the implementation."""
    out = bytearray([0])
    code_at = 0
    for index, byte in enumerate(content):
        if byte:
            out.append(byte)
        length = len(out) - code_at
        if byte == 0 or length == 255:
            out[code_at] = length
            if byte == 0 or index != len(content) - 1:
                code_at = len(out)
                out.append(0)
            else:
                return bytes(out)
    out[code_at] = len(out) - code_at
    return bytes(out)


def random_frame(source: random.Random, max_size: int) -> Frame:
    size = source.randrange(max_size + 1)
    kind = source.randrange(4)
    if kind == 0:
        payload = source.randbytes(size)
    elif kind == 1:
        payload = bytes(size)
    elif kind == 2:
        payload = bytes(source.randrange(1, 256) for _ in range(size))
    else:
        payload = bytes(source.choices([0, 0xA5], [1, 199], k=size))
    return Frame(source.randrange(256), source.randrange(65536), payload)


def damaged(source: random.Random, line: bytes) -> bytes:
    out = bytearray(line)
    for _ in range(source.randrange(1, 4)):
        at = source.randrange(len(out))
        end = source.randrange(at + 1, len(out) + 1)
        kind = source.randrange(7)
        if kind == 0:
            out[at] ^= 1 << source.randrange(8)
        elif kind == 1:
            out[at] = source.randrange(256)
        elif kind == 2 and len(out) > 1:
            del out[at]
        elif kind == 3:
            out.insert(at, source.randrange(256))
        elif kind == 4:
            del out[at + 1 :]
        elif kind == 5:
            out[at:at] = out[at:end]
        else:
            out[at:end] = source.randbytes(end - at)
    return bytes(out)


@pytest.mark.parametrize(("frame", "line"), GOLDEN)
def test_golden_frames(frame: Frame, line: str) -> None:
    assert encode(frame).hex(" ") == line
    assert Decoder(64).feed(bytes.fromhex(line)) == [frame]


def test_sends_what_cpp_sends() -> None:
    source = xorshift(0x5EED)
    line = bytearray()
    for _ in range(300):
        frame_type = next(source) & 0xFF
        sequence = next(source) & 0xFFFF
        size = next(source) % 701
        kind = next(source) % 4
        payload = bytearray()
        for _ in range(size):
            word = next(source)
            if kind == 0:
                payload.append(word >> 8 & 0xFF)
            elif kind == 1:
                payload.append(0)
            elif kind == 2:
                payload.append(1 + (word >> 8) % 255)
            else:
                payload.append(0 if (word >> 8) % 200 == 0 else 0xA5)
        line += encode(Frame(frame_type, sequence, bytes(payload)))
    assert (len(line), zlib.crc32(line)) == (GOLDEN_TOTAL, GOLDEN_CRC)


@pytest.mark.parametrize("seed", range(4))
def test_stuffing_is_cobs(seed: int) -> None:
    source = random.Random(seed)
    for _ in range(300):
        frame = random_frame(source, 1200)
        line = encode(frame)
        content = bytes([1, frame.type]) + frame.sequence.to_bytes(2, "little")
        content += len(frame.payload).to_bytes(4, "little") + frame.payload
        content += zlib.crc32(content).to_bytes(4, "little")
        assert line == b"\0" + cobs_by_definition(content) + b"\0"


@pytest.mark.parametrize("piece", [1, 2, 7, 64, 100_000])
def test_pieces_of_a_line(piece: int) -> None:
    source = random.Random(piece)
    frames = [random_frame(source, 600) for _ in range(50)]
    line = b"".join(map(encode, frames))
    decoder = Decoder(600)
    received = []
    for start in range(0, len(line), piece):
        received += decoder.feed(line[start : start + piece])
    assert received == frames
    assert not decoder.rejected


def test_damaged_frames_are_dropped_and_cost_no_other() -> None:
    source = random.Random(5)
    decoder = Decoder(2000)
    for _ in range(10_000):
        first, second = random_frame(source, 60), random_frame(source, 60)
        received = decoder.feed(damaged(source, encode(first)) + encode(second))
        assert received[-1] == second
        assert all(frame == first for frame in received[:-1])
    assert decoder.rejected[Rejection.CHECKSUM] > 2000
    assert decoder.rejected[Rejection.MALFORMED] > 1000


def test_every_single_byte_error_is_seen() -> None:
    line = encode(Frame(3, 4, bytes(range(30))))
    for at in range(len(line)):
        for value in set(range(256)) - {line[at]}:
            changed = bytearray(line)
            changed[at] = value
            assert Decoder(64).feed(bytes(changed) + b"\0") == []


def test_memory_is_bounded() -> None:
    decoder = Decoder(100)
    for _ in range(100):
        assert decoder.feed(b"\x55" * 10_000) == []
    assert len(decoder._pending) < 100 + 2 * OVERHEAD
    assert decoder.feed(encode(Frame(1, 2, b"ok"))) == [Frame(1, 2, b"ok")]
    assert decoder.rejected == {Rejection.TOO_LONG: 1}


def test_limit_of_the_payload() -> None:
    fits, longer = Frame(1, 1, b"\x01" * 100), Frame(1, 1, b"\x01" * 101)
    decoder = Decoder(100)
    assert decoder.events(encode(fits) + encode(longer)) == [fits, Rejection.TOO_LONG]


@pytest.mark.parametrize("frame", [Frame(256, 0), Frame(-1, 0), Frame(0, 65536), Frame(0, -1)])
def test_header_fields_out_of_range(frame: Frame) -> None:
    with pytest.raises(ZoError, match="outside"):
        encode(frame)


@pytest.fixture(scope="module")
def frame_pipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ implementation as a program; see tests/cpp/frame_pipe.cc."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler: install g++")
    program = tmp_path_factory.mktemp("frame_pipe") / "frame_pipe"
    app = REPOSITORY / "micro_app" / "src"
    sources = [
        REPOSITORY / "tests" / "cpp" / "frame_pipe.cc",
        app / "app" / "framing.cc",
        app / "app" / "crc32.cc",
    ]
    flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{app}"]
    subprocess.run([compiler, *flags, *map(str, sources), "-o", str(program)], check=True)
    return program


def described(event: Frame | Rejection) -> str:
    if isinstance(event, Rejection):
        return event.value
    return f"frame {event.type} {event.sequence} {event.payload.hex()}"


@pytest.mark.parametrize("max_payload", [24, 60, 254, 700])
def test_cpp_decides_as_python_does(frame_pipe: Path, max_payload: int) -> None:
    source = random.Random(max_payload)
    line = bytearray()
    for _ in range(5000):
        encoded = encode(random_frame(source, 80 if source.randrange(8) else 800))
        if source.randrange(20) == 0:
            # Intact, but of another version, or with a wrong payload size in its header.
            content = bytearray(source.randbytes(OVERHEAD + source.randrange(20)))
            content[0] = source.randrange(4)
            content += zlib.crc32(content).to_bytes(4, "little")
            encoded = b"\0" + cobs_by_definition(bytes(content)) + b"\0"
        line += damaged(source, encoded) if source.randrange(2) else encoded
    line += b"\0"
    decoder = Decoder(max_payload)
    expected = [described(event) for event in decoder.events(bytes(line))]
    command = [str(frame_pipe), "decode", str(max_payload + OVERHEAD)]
    output = subprocess.run(command, input=bytes(line), stdout=subprocess.PIPE, check=True).stdout
    assert output.decode().splitlines() == expected
    assert set(decoder.rejected) == set(Rejection)


def test_cpp_encodes_as_python_does(frame_pipe: Path) -> None:
    source = random.Random(11)
    frames = [random_frame(source, 1500) for _ in range(2000)]
    requests = "".join(described(frame) + "\n" for frame in frames)
    command = [str(frame_pipe), "encode"]
    output = subprocess.run(command, input=requests.encode(), stdout=subprocess.PIPE, check=True).stdout
    assert output == b"".join(map(encode, frames))
