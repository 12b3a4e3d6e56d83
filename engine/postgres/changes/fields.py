"""Reads the fields of a protocol message one after the other.

Past the end, or on a value that cannot be, it raises what `pgoutput.Decoder.decode` turns into
ProtocolError. For the rare messages only: rows are read without it.
"""

from __future__ import annotations

MAX_NAME_BYTES = 256  # NAMEDATALEN is 64 bytes; the server's encoding may take fewer than ours


class Fields:
    """The fields of *data* from *at* on."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise IndexError
        value, self._at = self._data[self._at : end], end
        return value

    def byte(self) -> int:
        return self.take(1)[0]

    def flag(self) -> bool:
        value = self.byte()
        if value > 1:
            raise IndexError
        return bool(value)

    def one_of(self, letters: str) -> str:
        letter = chr(self.byte())
        if letter not in letters:
            raise IndexError
        return letter

    def count(self, limit: int) -> int:
        value = int.from_bytes(self.take(2))
        if value > limit:
            raise IndexError
        return value

    def u32(self) -> int:
        return int.from_bytes(self.take(4))

    def i32(self) -> int:
        return int.from_bytes(self.take(4), signed=True)

    def u64(self) -> int:
        return int.from_bytes(self.take(8))

    def i64(self) -> int:
        return int.from_bytes(self.take(8), signed=True)

    def text(self, limit: int = MAX_NAME_BYTES) -> str:
        end = self._data.find(b"\0", self._at, self._at + limit + 1)
        if end < 0:
            raise IndexError
        value = self._data[self._at : end].decode()
        self._at = end + 1
        return value

    def left(self) -> int:
        return len(self._data) - self._at

    def end(self) -> None:
        if self._at != len(self._data):
            raise IndexError
