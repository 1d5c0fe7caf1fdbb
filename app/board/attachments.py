"""Files on disk. A file's name there is its id: nothing a visitor writes ever becomes a path."""

import codecs
import hashlib
import logging
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import anyio

from board.text import clean_name

log = logging.getLogger(__name__)

CHUNK = 64 * 1024
NAME_LENGTH = 120
EXTENSIONS = {
    "image/png": (".png",),
    "image/jpeg": (".jpg", ".jpeg"),
    "image/gif": (".gif",),
    "image/webp": (".webp",),
    "application/pdf": (".pdf",),
    "text/plain": (".txt", ".md", ".log", ".csv"),
}
INLINE = ("image/png", "image/jpeg", "image/gif", "image/webp")
ACCEPT = ",".join(extension for extensions in EXTENSIONS.values() for extension in extensions)
_STORED = re.compile(r"[0-9a-f]{32}")


class Refused(Exception):
    """The upload is not accepted; says why and with which HTTP status."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Readable(Protocol):
    """What is needed of an upload."""

    async def read(self, size: int = -1, /) -> bytes: ...


@dataclass(frozen=True)
class Stored:
    """A complete file in the folder, described by what is in it rather than by what was claimed."""

    id: uuid.UUID
    name: str
    content_type: str
    size: int
    sha256: str


class Folder:
    """The attachments folder; files are spread over 256 subfolders."""

    def __init__(self, root: Path, limit: int) -> None:
        self.root = root
        self.limit = limit

    def path(self, id: uuid.UUID) -> Path:
        return self.root / id.hex[:2] / id.hex

    def problem(self) -> str:
        """Make the folder where it is missing; one sentence when it cannot be written to, else ""."""
        try:
            self.root.mkdir(mode=0o750, parents=True, exist_ok=True)
        except OSError as error:
            return f"ATTACHMENTS_DIR {self.root} cannot be made: {error.strerror}"
        if not os.access(self.root, os.W_OK | os.X_OK):
            return f"ATTACHMENTS_DIR {self.root} is not writable for this user"
        return ""

    async def store(self, upload: Readable, name: str) -> Stored:
        """Copy the upload chunk by chunk; the file appears only when it is complete and allowed."""
        file_id = uuid.uuid4()
        final = self.path(file_id)
        partial = final.with_suffix(".part")
        await anyio.to_thread.run_sync(lambda: final.parent.mkdir(0o750, exist_ok=True))
        try:
            async with await anyio.open_file(partial, "xb") as file:
                content_type, size, digest = await self._copy(upload, file)
            await anyio.to_thread.run_sync(partial.replace, final)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return Stored(file_id, safe_name(name, content_type), content_type, size, digest)

    async def _copy(self, upload: Readable, file: anyio.AsyncFile[bytes]) -> tuple[str, int, str]:
        digest, size, content_type = hashlib.sha256(), 0, ""
        decoder = codecs.getincrementaldecoder("utf-8")()
        while chunk := await upload.read(CHUNK):
            size += len(chunk)
            if size > self.limit:
                raise Refused(413, f"A file may have at most {readable_size(self.limit)}.")
            content_type = content_type or sniff(chunk)
            if content_type == "text/plain":
                _check_text(decoder, chunk)
            digest.update(chunk)
            await file.write(chunk)
        if not size:
            raise Refused(422, "The file is empty.")
        if content_type == "text/plain":
            _check_text(decoder, b"", final=True)
        return content_type, size, digest.hexdigest()

    def remove(self, id: uuid.UUID) -> None:
        """Remove a file; what cannot be removed now is an orphan for the nightly job."""
        try:
            self.path(id).unlink(missing_ok=True)
        except OSError as error:
            log.warning("attachment not removed", extra={"attachment": str(id), "error": str(error)})

    def files(self) -> Iterator[tuple[uuid.UUID | None, Path]]:
        """Every file this class has made, with its id (None for an unfinished one). Skips foreign files."""
        for path in self.root.glob("[0-9a-f][0-9a-f]/*"):
            if _STORED.fullmatch(path.name):
                yield uuid.UUID(hex=path.name), path
            elif path.suffix == ".part" and _STORED.fullmatch(path.stem):
                yield None, path


def sniff(head: bytes) -> str:
    """Tell the type from the first bytes; what is not on the list is refused."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    if head.startswith(b"%PDF-"):
        return "application/pdf"
    # Anything else has to prove, to its last byte, that it is text (see _check_text).
    return "text/plain"


def _check_text(decoder: codecs.IncrementalDecoder, chunk: bytes, final: bool = False) -> None:
    try:
        decoded = decoder.decode(chunk, final)
    except UnicodeDecodeError:
        decoded = "\0"
    if re.search(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]", decoded):
        raise Refused(415, "Only PNG, JPEG, GIF and WebP images, PDF and plain text (UTF-8) are accepted.")


def safe_name(name: str, content_type: str) -> str:
    """A name to show and to download as: no folders, nothing invisible, an ending that fits the content."""
    base = re.split(r"[/\\]", name)[-1]
    base = re.sub(r'[<>:"|?*;]', "_", clean_name(base)).lstrip(". ").rstrip(". ")
    stem, dot, ending = base.rpartition(".")
    if not dot or len(ending) > 10:
        stem, ending = base, ""
    allowed = EXTENSIONS[content_type]
    suffix = f".{ending}" if ending else ""
    if suffix.lower() not in allowed:
        suffix += allowed[0]
    return (stem or "file")[: NAME_LENGTH - len(suffix)] + suffix


def readable_size(size: int) -> str:
    """1536 → "1.5 kB" (units of 1024)."""
    if size < 1024:
        return f"{size} bytes"
    value = size / 1024
    return f"{value:.1f} kB" if value < 1000 else f"{value / 1024:.1f} MB"
