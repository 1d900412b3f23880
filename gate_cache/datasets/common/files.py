"""What data sets made of image files share: checks, hashing, reading, which files are images."""

from __future__ import annotations

import codecs
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import repeat
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from gate_cache.core.errors import DataError, listed
from gate_cache.core.fingerprint import file_sha256
from gate_cache.core.preprocessing import WHITE, Color
from gate_cache.datasets.common.base import Sample, ids_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_STAMP = attrgetter("st_size", "st_ino", "st_mtime_ns", "st_ctime_ns")
NO_FILE = -2
"""Stamp of what cannot be looked at."""
_THREADS, _AT_ONCE = 8, 4096
"""That ask for files' stamps, and of how many: a disk behind a network answers them together."""
_SYSTEM = ("Thumbs.db", "desktop.ini")
"""Files that systems leave in folders of images."""
_NO_ID = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
"""Of names: control characters, and what Python has for bytes that are not UTF-8."""


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
        """(N, 4): size, inode, modification and change time of each sample's file, or `NO_FILE`;
        changes when anything does."""
        if self._stamps is None:
            import numpy as np

            ids, plain = ids_of(self), type(self).path is ImageFiles.path
            stamps = np.empty((len(ids), 4), np.int64)
            root = os.open(self.root, os.O_RDONLY)  # the way from there is shorter

            def look(start: int) -> None:  # of a million files, in C
                some = ids[start : start + _AT_ONCE]
                paths = some if plain else [self.path(i).absolute() for i in some]
                stat, of = partial(os.stat, dir_fd=root), np.dtype((np.int64, 4))
                try:
                    found = np.fromiter(map(_STAMP, map(stat, paths)), of, len(some))
                except OSError:  # of one, such as a link to nothing
                    found = np.array([_stamp(stat, path) for path in paths])
                stamps[start : start + _AT_ONCE] = found

            try:
                with ThreadPoolExecutor(_THREADS) as pool:
                    list(pool.map(look, range(0, len(ids), _AT_ONCE)))
            finally:
                os.close(root)
            self._stamps = stamps
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


def _stamp(stat: Callable[[str | Path], os.stat_result], path: str | Path) -> Sequence[int]:
    try:
        return _STAMP(stat(path))
    except OSError:
        return [NO_FILE] * 4


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

    A `DataError` with the way out, `expected`, where it is missing or not UTF-8.
    """
    with readable(path, f"not found; {expected}"):
        data = path.read_bytes()
    wide = data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    try:
        return io.StringIO(data.decode("utf-16" if wide else "utf-8-sig"), newline=None).read()
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text, so save it as UTF-8; {expected}") from None


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

    Those that are used are paths below the root, with ``/`` between parts.
    """
    counts = Counter(_suffix(n) or PurePosixPath(n).name for n in walk(root) if n not in used)
    return dict(sorted(counts.items()))


def walk(root: Path, extensions: frozenset[str] | None = None,
         others: Counter[str] | None = None) -> list[str]:
    """Relative paths (``/`` between parts) of all files with these extensions, or any, sorted.

    Hidden files and folders, and those of systems, are skipped; links to folders are followed,
    loops are not. `others` counts the other files by suffix. A `DataError` where a folder cannot
    be read, or a name is not UTF-8 or has control characters.
    """
    files: list[str] = []
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_refuse):
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__MACOSX"))
                            and not _loops(os.path.join(folder, f), root))
        below = Path(folder).relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        names = [name for name in names if name[0] != "." and name not in _SYSTEM]
        one = names[0][names[0].rfind("."):] if names else ""
        if extensions is not None and not (  # of a million names most folders have one suffix
                one.lower() in extensions and all(map(str.endswith, names, repeat(one)))):
            wanted = [n for n in names if n[n.rfind("."):].lower() in extensions]
            if others is not None:
                others.update(_suffix(n) or n for n in set(names) - set(wanted))
            names = wanted
        files += [prefix + name for name in names]
    files.sort()
    if not (text := "".join(files)).isprintable() and _NO_ID.search(text):
        name = next(filter(_NO_ID.search, files))
        raise DataError(f"{root}: the file name {name!r} is not UTF-8, or has a line break or"
                        " another control character; rename it")
    return files


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: folder cannot be read: {error.strerror}")


def _loops(path: str, root: Path) -> bool:
    """Whether a linked folder is one of the folders on the way to it."""
    if not os.path.islink(path):
        return False
    way = [p for p in Path(path).parents if p == root or root in p.parents]
    return os.path.realpath(path) in {os.path.realpath(p) for p in way}


ALWAYS = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp",
    ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".qoi"})
"""Suffixes of pictures that every Pillow reads."""
BUILT_IN = {".avif": "avif", ".avifs": "avif"} | dict.fromkeys(
    (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"), "jpg_2000")
"""Suffixes of those that a Pillow reads which was built so, with what it calls the format."""
UNREAD = frozenset({".heic", ".heif", ".hif", ".jxl", ".svg", *BUILT_IN})
"""Suffixes of pictures that no Pillow reads, or not every one."""


def pictures(root: Path, others: Counter[str] | None = None) -> list[str]:
    """As `walk`, all files that this machine's Pillow reads, by their suffix."""
    others = Counter[str]() if others is None else others
    names = walk(root, ALWAYS, others)
    if special := others.keys() & BUILT_IN.keys():
        from PIL import features  # which takes as long as a whole plan: only where it must be asked

        if readable := {suffix for suffix in special if features.check(BUILT_IN[suffix])}:
            others.clear()
            names = walk(root, ALWAYS | readable, others)
    return names


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def by_stem(root: Path) -> dict[str, Path]:
    """All pictures below a folder by their path without suffix, in which no two may be alike."""
    paths: dict[str, Path] = {}
    for name in pictures(root):
        twin = paths.setdefault(stem_of(name), root / name)
        if twin != root / name:
            raise DataError(f"{root}: {twin.relative_to(root).as_posix()} and {name} are both"
                            f" called '{stem_of(name)}'; remove one of them")
    return paths


def stem_of(name: str) -> str:
    """A path without its suffix, by which files that belong together are found."""
    return Path(name).with_suffix("").as_posix()


def passed_over_line(counts: Mapping[str, int]) -> str:
    """What `passed_over` counts as one line, pictures that Pillow does not read first."""
    order = sorted(counts, key=lambda suffix: (suffix not in UNREAD, -counts[suffix], suffix))
    names = [f"{counts[s]} {s}{' (Pillow cannot read them)' if s in UNREAD else ''}" for s in order]
    total = sum(counts.values())
    return f"{total} {'file' if total == 1 else 'files'} passed over: {listed(names, 8)}"
