"""The decoder against damaged messages: it refuses one, or it has read every byte of it.

A decoder that reads every byte can be run backwards: what it accepts must encode to the very bytes that it
was given. DATASYNC_FUZZ_INPUTS and DATASYNC_FUZZ_SEED make a longer or another run; a failure names both the
seed and the input.
"""

from __future__ import annotations

import os
import random
import time
import tracemalloc
from collections import Counter
from dataclasses import dataclass

import pytest
from pgoutput_encoder import CORPUS, Encoder, is_binary, messages, protocol_of

from prefect_datasync.engine.changes import Relation
from prefect_datasync.engine.errors import ProtocolError
from prefect_datasync.engine.postgres.changes.pgoutput import Decoder
from prefect_datasync.engine.postgres.changes.tuples import matcher
from prefect_datasync.engine.postgres.changes.unfinished import StreamControl

INPUTS = int(os.environ.get("DATASYNC_FUZZ_INPUTS", "40000"))
SEED = int(os.environ.get("DATASYNC_FUZZ_SEED", "20240229"))
PER_KIND = 12  # messages of one kind that are taken from one file: most of the corpus is one insert
SLOWEST_S = 0.02
EXCEPTION_BYTES = 4096  # an error and its traceback are larger than the smallest messages


@dataclass(frozen=True, slots=True)
class Original:
    """A recorded message, and what a decoder has to have read before it."""

    message: bytes
    before: tuple[bytes, ...]
    binary: bool
    protocol: int

    def decoder(self, quick: bool = False) -> Decoder:
        """*quick*: one that has learned the pattern of every relation."""
        read = Decoder(self.binary, self.protocol)
        for message in self.before:
            decoded = read.decode(message)
            if quick and self.binary and isinstance(decoded, Relation):
                read.quick[decoded.relid] = matcher(len(decoded.columns))
        return read


def originals() -> list[Original]:
    found: list[Original] = []
    for file in CORPUS:
        binary, protocol = is_binary(file), protocol_of(file)
        read, taken = Decoder(binary, protocol), Counter[int]()
        relations: dict[int, bytes] = {}
        segment: tuple[bytes, ...] = ()
        for message in messages(file):
            if taken[message[0]] < PER_KIND:
                taken[message[0]] += 1
                before = (*relations.values(), *segment)
                found.append(Original(message, before, binary, protocol))
            decoded = read.decode(message)
            if isinstance(decoded, Relation):
                relations[decoded.relid] = Encoder(binary).encode(decoded)
            elif isinstance(decoded, StreamControl) and decoded.kind in "SE":
                segment = (message,) if decoded.kind == "S" else ()
    return found


def flip(rng: random.Random, message: bytes, other: bytes) -> bytes:
    at = rng.randrange(len(message))
    value = message[at] ^ 1 << rng.randrange(8) if rng.random() < 0.5 else rng.randrange(256)
    return message[:at] + bytes([value]) + message[at + 1 :]


def cut(rng: random.Random, message: bytes, other: bytes) -> bytes:
    at = rng.randrange(len(message))
    end = len(message) if rng.random() < 0.5 else at + rng.randrange(1, 6)
    return message[:at] + message[end:]


def insert(rng: random.Random, message: bytes, other: bytes) -> bytes:
    at = rng.randrange(len(message) + 1)
    new = rng.randbytes(rng.randrange(1, 6))
    if rng.random() < 0.3:
        new = rng.choice((b"n", b"u", b"\0", b"\0\0\0\0", b"\xff\xff\xff\xff", b"b\0\0\0\0"))
    return message[:at] + new + message[at:]


def duplicate(rng: random.Random, message: bytes, other: bytes) -> bytes:
    at = rng.randrange(len(message))
    end = rng.randrange(at, len(message)) + 1
    return message[:end] + message[at:end] * rng.randrange(1, 4) + message[end:]


def splice(rng: random.Random, message: bytes, other: bytes) -> bytes:
    return message[: rng.randrange(1, len(message) + 1)] + other[rng.randrange(len(other)) :]


def count(rng: random.Random, message: bytes, other: bytes) -> bytes:
    """Another value in one of the places that often hold counts and lengths."""
    at = rng.randrange(max(1, len(message) - 4))
    size = rng.choice((2, 4))
    value = rng.choice((0, 1, 2, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF))
    return message[:at] + (value & (1 << 8 * size) - 1).to_bytes(size) + message[at + size :]


DAMAGES = (flip, cut, insert, duplicate, splice, count)


def damaged(rng: random.Random, pool: list[Original]) -> tuple[Original, bytes]:
    original = rng.choice(pool)
    message = original.message
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        message = rng.choice(DAMAGES)(rng, message, rng.choice(pool).message) or b"\0"
    return original, message


@pytest.mark.parametrize("quick", [False, True], ids=["by the loop", "by patterns"])
def test_a_damaged_message_is_refused_or_read_to_its_last_byte(quick):
    rng, pool = random.Random(SEED), originals()
    refused = accepted = 0
    for _ in range(INPUTS):
        original, message = damaged(rng, pool)
        read = original.decoder(quick)
        started = time.thread_time()
        try:
            decoded = read.decode(message)
        except ProtocolError:
            decoded = None
        except Exception as error:
            raise AssertionError(f"{message!r} after {original}, seed {SEED}") from error
        took = time.thread_time() - started
        assert took < SLOWEST_S, f"{took:.3f} s for {message!r} after {original}, seed {SEED}"
        if decoded is None:
            refused += 1
            continue
        accepted += 1
        write = Encoder(original.binary)
        for earlier in original.before:
            write.encode(Decoder(original.binary, original.protocol).decode(earlier))
        again = write.encode(decoded, int.from_bytes(message[1:5]))
        assert again == message, f"{decoded} after {original}, seed {SEED}"
    # damage inside a value is a message of its own; were it all, or were there none, nothing was tested
    assert refused > INPUTS / 4
    assert accepted > INPUTS / 20


def test_a_damaged_message_takes_no_more_than_four_times_its_size():
    rng, pool = random.Random(SEED + 1), originals()
    for _ in range(INPUTS // 60):
        original, message = damaged(rng, pool)
        read = original.decoder()
        tracemalloc.start()
        try:
            read.decode(message)
        except ProtocolError:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        allowed = 4 * len(message) + EXCEPTION_BYTES
        assert peak <= allowed, f"{peak} bytes for {message!r} after {original}, seed {SEED}"
