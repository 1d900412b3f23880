"""What data sets made of image files share: root checks, hashing, reading."""

from __future__ import annotations

import codecs
import io
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gate_cache.core.errors import DataError
from gate_cache.core.fingerprint import file_sha256
from gate_cache.core.preprocessing import WHITE, Color
from gate_cache.datasets.common.base import Sample, ids_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_SYSTEM = ("Thumbs.db", "desktop.ini")
"""Files that systems leave in folders of images."""


class ImageFiles:
    """Base of data sets whose samples are files below a root.

    Parameters
    ----------
    name : what messages and stores call the data set
    root : folder; checked when the samples are listed
    """

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.root = root
        self._stamps: npt.NDArray[np.int64] | None = None

    def samples(self) -> Sequence[Sample]:
        """All samples, in a fixed order."""
        raise NotImplementedError

    def path(self, sample_id: str) -> Path:
        return self.root / sample_id

    def sha256(self, sample_id: str) -> str:
        with readable(self.path(sample_id)):
            return file_sha256(self.path(sample_id))

    def stamps(self) -> npt.NDArray[np.int64]:
        """(N, 4): size, inode, modification and change time of each sample's file; changes when
        anything does."""
        if self._stamps is None:
            import numpy as np

            root, plain = str(self.root), type(self).path is ImageFiles.path
            stats = (os.stat(f"{root}/{i}" if plain else self.path(i)) for i in ids_of(self))
            flat = (n for i in stats for n in (i.st_size, i.st_ino, i.st_mtime_ns, i.st_ctime_ns))
            self._stamps = np.fromiter(flat, np.int64).reshape(-1, 4)
        return self._stamps

    def sources(self, sample_id: str) -> tuple[Path, ...]:
        """Every file that decides a sample: the image, and what is known of it."""
        return (self.path(sample_id),)

    def size(self, sample_id: str) -> tuple[int, int]:
        """(height, width) in pixels, from the file's header."""
        from gate_cache.datasets.common.images import size_of

        return size_of(self.path(sample_id))

    def image(self, sample_id: str,
              background: Color | None = WHITE) -> npt.NDArray[np.uint8]:
        """The image as (height, width, 3) RGB; see `images.read_rgb` for the background."""
        from gate_cache.datasets.common.images import read_rgb

        return read_rgb(self.path(sample_id), background)

    def holds_several(self, sample_id: str) -> bool:
        """Whether the file has further pictures behind the first, which alone is read."""
        from gate_cache.datasets.common.images import holds_several

        return holds_several(self.path(sample_id))


def need_folder(root: Path, what: str, expected: str) -> None:
    """Raise `DataError` with the way out unless `root` is a folder."""
    if not root.is_dir():
        raise DataError(f"{root}: {what} not found; {expected}")


@contextmanager
def readable(path: Path, missing: str = "") -> Iterator[None]:
    """Turn what the system refuses into a `DataError`; `missing` says it where nothing is there."""
    try:
        yield
    except OSError as error:
        gone = missing and isinstance(error, FileNotFoundError)
        raise DataError(f"{path}: {missing if gone else f'cannot be read: {error.strerror}'}"
                        ) from None


def read_text(path: Path, expected: str) -> str:
    """The text of a file in UTF-8, or in UTF-16 with its byte order mark; marks are dropped.

    Raises
    ------
    DataError
        Missing or not UTF-8; `expected` is the way out.
    """
    with readable(path, f"not found; {expected}"):
        data = path.read_bytes()
    wide = data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    try:
        return io.StringIO(data.decode("utf-16" if wide else "utf-8-sig"), newline=None).read()
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text; {expected}") from None


def read_mat(path: Path, variable: str, expected: str) -> npt.NDArray[np.float64]:
    """A variable of a Matlab file as numbers."""
    import numpy as np
    from scipy.io import loadmat

    try:
        return np.asarray(loadmat(path)[variable], dtype=np.float64)
    except Exception as error:  # a damaged file makes loadmat raise almost anything
        raise DataError(f"{path}: no key points can be read ({error}); {expected}") from None


def passed_over(root: Path, used: Collection[str]) -> dict[str, int]:
    """How many files below a folder are not `used`, by suffix; hidden ones are not counted.

    Parameters
    ----------
    used : paths below the root, with ``/`` between parts
    """
    counts: Counter[str] = Counter()
    for folder, folders, names in os.walk(root):
        folders[:] = [f for f in folders if not f.startswith((".", "__MACOSX"))]
        below = Path(folder).relative_to(root)
        counts.update(os.path.splitext(n)[1].lower() or n for n in names
                      if not n.startswith(".") and n not in _SYSTEM
                      and (below / n).as_posix() not in used)
    return dict(sorted(counts.items()))


def walk(root: Path, extensions: frozenset[str], others: Counter[str] | None = None) -> list[str]:
    """Relative paths (``/`` between parts) of all files with these extensions, sorted.

    Hidden files and folders are skipped; links to folders are followed, loops are not.

    Parameters
    ----------
    others : counts the other files by suffix, as `passed_over` does

    Raises
    ------
    DataError
        A folder that cannot be read, or a name that is not UTF-8.
    """
    files: list[str] = []
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_refuse):
        folders[:] = sorted(f for f in folders if not f.startswith(".")
                            and not _loops(os.path.join(folder, f), root))
        below = Path(folder).relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        for name in names:
            if name[0] == ".":
                continue
            dot = name.rfind(".")
            suffix = name[dot:].lower() if dot > 0 else ""
            if suffix in extensions:
                files.append(prefix + name)
            elif others is not None and name not in _SYSTEM and "__MACOSX" not in prefix:
                others[suffix or name] += 1
    files.sort()
    try:
        "".join(files).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{root}: the file name {_not_utf8(files)!r} is not UTF-8; rename it"
                        ) from error
    return files


def _not_utf8(names: list[str]) -> str:
    return next(n for n in names if n != n.encode(errors="ignore").decode())


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: folder cannot be read: {error.strerror}")


def _loops(path: str, root: Path) -> bool:
    """Whether a linked folder is one of the folders on the way to it."""
    if not os.path.islink(path):
        return False
    way = [p for p in Path(path).parents if p == root or root in p.parents]
    return os.path.realpath(path) in {os.path.realpath(p) for p in way}
