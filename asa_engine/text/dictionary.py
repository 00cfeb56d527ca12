"""The CMU Pronouncing Dictionary, packed: 126,000 words and how they sound.

The file holds blocks of words in order, each block deflated by itself, so that a lookup inflates
a few kilobytes and nothing else. All numbers are little-endian.

    magic                8 bytes, "ASADICT1"
    blocks               uint32, B
    index size           uint32, bytes of the index, deflated
    index                for each block: uint32 its deflated size, then its first word and "\\n"
    blocks               B deflated blocks

A block is its words, then their phones. A word is one byte, how many letters it shares with the
word before, its further letters, and "\\n"; an empty one ends the list. The phones of a word are
one byte each, an index into `SYMBOLS` plus `_FIRST`, with "," between pronunciations and "\\n"
behind the last.
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Final

from asa_engine.errors import BundleError
from asa_engine.text.package_data import inflate, read_package_data
from asa_engine.text.phones import PHONES, VOWELS

__all__ = ["DICTIONARY_NAME", "SYMBOLS", "Dictionary", "Pronunciation", "dictionary", "pack"]

Pronunciation = tuple[str, ...]

SYMBOLS: Final = tuple(
    phone + stress for phone in PHONES for stress in ("012" if phone in VOWELS else ("",))
)
"""ARPAbet as the dictionary has it: vowels with their stress."""
_MAGIC = b"ASADICT1"
_HEADER = struct.Struct("<8sII")
_FIRST = 128
_WORDS_PER_BLOCK = 512
_MOST_BYTES = 2**20
DICTIONARY_NAME: Final = "dictionary.bin"


class Dictionary:
    """Pronunciations by word.

    Args:
        packed: A packed dictionary.

    Raises:
        BundleError: It is damaged.
    """

    def __init__(self, packed: bytes) -> None:
        try:
            magic, blocks, size = _HEADER.unpack_from(packed)
            at = _HEADER.size
            index = inflate(packed[at : at + size], _MOST_BYTES)
            if magic != _MAGIC:
                raise ValueError("not a packed dictionary")
            self._firsts: list[bytes] = []
            self._blocks: list[bytes] = []
            at += size
            position = 0
            for _ in range(blocks):
                (length,) = struct.unpack_from("<I", index, position)
                end = index.index(b"\n", position + 4)
                self._firsts.append(index[position + 4 : end])
                self._blocks.append(packed[at : at + length])
                at += length
                position = end + 1
        except (struct.error, zlib.error, ValueError) as error:
            raise _damaged(error) from None
        self._open = cache(self._read)

    def get(self, word: str) -> tuple[Pronunciation, ...]:
        """Return a word's pronunciations, the dictionary's first one first; none if unknown.

        Args:
            word: Small letters and apostrophes.
        """
        key = word.encode("ascii", "ignore")
        block = bisect_right(self._firsts, key) - 1
        if block < 0 or not key.isascii():
            return ()
        return tuple(map(_phones, self._open(block).get(key, ())))

    def __contains__(self, word: str) -> bool:
        return bool(self.get(word))

    def words(self) -> list[str]:
        """Return every word, in order."""
        return [word.decode() for block in range(len(self._blocks)) for word in self._open(block)]

    def _read(self, block: int) -> dict[bytes, list[bytes]]:
        try:
            return dict(_entries(inflate(self._blocks[block], _MOST_BYTES)))
        except (zlib.error, ValueError, IndexError) as error:
            raise _damaged(error) from None


def pack(entries: Mapping[str, Sequence[Pronunciation]]) -> bytes:
    """Return a packed dictionary.

    Args:
        entries: Word, in small letters and apostrophes, to its pronunciations.
    """
    codes = {symbol: _FIRST + index for index, symbol in enumerate(SYMBOLS)}
    words = sorted(entries, key=str.encode)
    index, blocks = bytearray(), []
    for start in range(0, len(words), _WORDS_PER_BLOCK):
        chunk = words[start : start + _WORDS_PER_BLOCK]
        letters, phones = bytearray(), bytearray()
        before = b""
        for word in chunk:
            key = word.encode()
            shared = next(
                (n for n in range(min(len(key), len(before), 9)) if key[n] != before[n]),
                min(len(key), len(before), 9),
            )
            letters += bytes([shared]) + key[shared:] + b"\n"
            phones += b",".join(bytes(codes[p] for p in said) for said in entries[word]) + b"\n"
            before = key
        block = zlib.compress(bytes(letters + b"\n" + phones), 9)
        blocks.append(block)
        index += struct.pack("<I", len(block)) + chunk[0].encode() + b"\n"
    packed_index = zlib.compress(bytes(index), 9)
    header = _HEADER.pack(_MAGIC, len(blocks), len(packed_index))
    return b"".join((header, packed_index, *blocks))


@cache
def dictionary() -> Dictionary:
    """Return the dictionary that the package carries.

    Raises:
        BundleError: The file is damaged.
    """
    return Dictionary(read_package_data(DICTIONARY_NAME))


@cache
def _phones(coded: bytes) -> Pronunciation:
    return tuple(SYMBOLS[code - _FIRST] for code in coded)


def _entries(block: bytes) -> Iterator[tuple[bytes, list[bytes]]]:
    letters, _, phones = block.partition(b"\n\n")
    spoken = phones.splitlines()
    word = b""
    for line, said in zip(letters.split(b"\n"), spoken, strict=True):
        word = word[: line[0]] + line[1:]
        yield word, said.split(b",")


def _damaged(error: Exception) -> BundleError:
    return BundleError(
        f"the pronouncing dictionary is damaged: {error}", hint="install the package again"
    )
