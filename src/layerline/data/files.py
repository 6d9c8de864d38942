"""Reading files that others wrote.

Problem: a file may be missing, unreadable, cut off, packed with gzip or not, and its header may promise more than there
is. Each of these raises another exception somewhere deep in the standard library.

Solution: one way to open (gzip is seen by its first two bytes, not by the name), one way to read (never allocates more
than the file really holds, whatever its header says), and one way to fail: `DataError` with the file, the cause and
what to do next.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from layerline.errors import DataError

_CHUNK = 1 << 20


def damaged(source: object, cause: str) -> DataError:
    """The error for a file with wrong content."""
    return DataError(f"{source}: {cause}", hint="delete the file and fetch it again")


@contextmanager
def reading(source: object) -> Iterator[None]:
    """Turns what reading or unpacking a file may raise into a `DataError` that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{source}: there is no such file", hint="check the path, or fetch the file") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise damaged(source, f"the gzip data is damaged ({error})") from error
    except EOFError as error:
        raise damaged(source, "the file is cut off: its gzip data ends too early") from error
    except OSError as error:
        cause = error.strerror or str(error)
        raise DataError(f"{source}: cannot be read ({cause})", hint="check the file's permissions and disk") from error


@contextmanager
def open_plain_or_gzip(path: Path) -> Iterator[IO[bytes]]:
    """A stream of the file's content, unpacked if it is gzip."""
    with reading(path), path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if packed:
            with gzip.GzipFile(fileobj=raw, mode="rb") as stream:
                yield cast(IO[bytes], stream)
        else:
            yield raw


def read_at_most(stream: IO[bytes], count: int) -> bytearray:
    """`count` bytes, or as many as there are. Memory grows with what is read, not with `count`."""
    content = bytearray()
    while len(content) < count:
        chunk = stream.read(min(_CHUNK, count - len(content)))
        if not chunk:
            break
        content += chunk
    return content
