"""What several routes need."""

from typing import Annotated

from fastapi import Depends, HTTPException, Path, Request

from board.attachments import Folder
from board.limits import RateLimiter
from board.metrics import RATE_LIMITED
from board.posts import MAX_ID
from board.security import Signer
from board.settings import Settings

PostId = Annotated[int, Path(ge=1, le=MAX_ID)]


def settings(request: Request) -> Settings:
    value: Settings = request.app.state.settings
    return value


def folder(request: Request) -> Folder:
    value: Folder = request.app.state.folder
    return value


def signer(request: Request) -> Signer:
    value: Signer = request.app.state.signer
    return value


async def may_write(request: Request) -> None:
    """Count a write of this client; 429 when it was too much. Its address is what the server believes."""
    limiter: RateLimiter = request.app.state.limiter
    wait = await limiter.take(request.client.host if request.client else "local")
    if wait:
        RATE_LIMITED.inc()
        unit = "second" if wait == 1 else "seconds"
        detail = f"That was a lot at once. Please try again in {wait} {unit}."
        raise HTTPException(429, detail, {"retry-after": str(wait)})


SettingsDep = Annotated[Settings, Depends(settings)]
FolderDep = Annotated[Folder, Depends(folder)]
SignerDep = Annotated[Signer, Depends(signer)]
MayWrite = Depends(may_write)
