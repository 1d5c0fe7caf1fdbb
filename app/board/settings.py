"""Settings from environment variables (and a `.env` file in development).

In production the app refuses to start on anything unsafe. Every problem is reported at once, by the
variable's name and never by its value.
"""

import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, NoReturn, TypeVar

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from board.weakness import PLACEHOLDERS, weakness

PROJECT = Path(__file__).resolve().parent.parent
DRIVER = "postgresql+psycopg"
DEVELOPMENT_KEY = "development-only-key-which-production-refuses"
PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}

# gunicorn does not start a worker again that leaves with this status ("worker failed to boot").
EXIT_UNUSABLE = 3

Kind = TypeVar("Kind", bound="DatabaseSettings")


class Rate(NamedTuple):
    """So many events in so many seconds."""

    events: int
    seconds: int


class SettingsProblem(Exception):
    """The settings cannot be used; ``problems`` has one sentence for each reason."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        noun = "problem" if len(problems) == 1 else "problems"
        lines = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(f"board cannot start, {len(problems)} {noun} in its settings:\n{lines}")


class DatabaseSettings(BaseSettings):
    """The database's part: all that migrations need."""

    model_config = SettingsConfigDict(
        env_file=PROJECT / ".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
    )

    # First, because the other validators ask which environment this is.
    environment: Literal["development", "test", "production"] = "development"
    database_url: SecretStr = SecretStr("")

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        raw = value.get_secret_value()
        if not raw:
            raise ValueError(f"is missing; set it to {DRIVER}://USER:PASSWORD@HOST:5432/NAME")
        try:
            url = make_url(raw)
        except (ArgumentError, ValueError):
            raise ValueError(f"is not a URL; write {DRIVER}://USER:PASSWORD@HOST:5432/NAME") from None
        if url.drivername not in {"postgres", "postgresql", DRIVER}:
            raise ValueError(
                f"has the unknown scheme {url.drivername!r}; write {DRIVER}://… or postgresql://…"
            )
        if not url.database:
            raise ValueError("names no database; it goes behind the last slash")
        if _production(info) and str(url.password or "").lower() in {*PLACEHOLDERS, "postgres", "test"}:
            raise ValueError("has a placeholder as its password; use the role's real one")
        return value

    @property
    def production(self) -> bool:
        return self.environment == "production"

    @property
    def db_url(self) -> URL:
        """The database for SQLAlchemy, with the driver this app uses."""
        return make_url(self.database_url.get_secret_value()).set(drivername=DRIVER)

    @property
    def db_dsn(self) -> str:
        """The same for psycopg itself."""
        return self.db_url.set(drivername="postgresql").render_as_string(hide_password=False)


class Settings(DatabaseSettings):
    """Everything that can be configured. Field names in capitals are the environment variables."""

    debug: bool = False
    title: str = Field(default="Board", max_length=60, alias="BOARD_TITLE")
    secret_key: SecretStr = SecretStr(DEVELOPMENT_KEY)
    metrics_token: SecretStr = SecretStr("")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    attachments_dir: Path = Path("attachments")
    max_attachment_mb: float = Field(default=5, gt=0, le=1024)
    rate_limit_writes: str = "30/minute"
    retention_days: int = Field(default=365, ge=0)
    db_pool_size: int = Field(default=5, ge=1, le=100)
    web_concurrency: int = Field(default=1, ge=1, le=256)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["json", "text"] = "json"
    log_sql: bool = False
    berth_release: str = ""

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("debug")
    @classmethod
    def _no_debug(cls, value: bool, info: ValidationInfo) -> bool:
        if value and _production(info):
            raise ValueError("is on; debug output shows internals to visitors. Unset it or set it to false")
        return value

    @field_validator("secret_key")
    @classmethod
    def _strong(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        raw = value.get_secret_value()
        if _production(info) and (reason := "is missing" if raw == DEVELOPMENT_KEY else weakness(raw)):
            raise ValueError(
                f"{reason}. Make one: python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"
            )
        return value

    @field_validator("metrics_token")
    @classmethod
    def _strong_if_set(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        raw = value.get_secret_value()
        if raw and _production(info) and (reason := weakness(raw)):
            raise ValueError(f"{reason}. Use a random one, or unset it to hide /metrics from the proxy")
        return value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Accept `https://a.example, https://b.example` as well as a JSON-like list."""
        if isinstance(value, str):
            return tuple(part.strip(" \"'[]") for part in value.split(",") if part.strip(" \"'[]"))
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if _production(info) and any("*" in origin for origin in value):
            raise ValueError("has a wildcard, which lets any site read the API; list the origins one by one")
        for origin in value:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s*]+", origin):
                raise ValueError("must hold origins like https://app.example.org (scheme and host, no path)")
        return value

    @field_validator("rate_limit_writes")
    @classmethod
    def _rate(cls, value: str) -> str:
        parse_rate(value)
        return value

    @property
    def attachments(self) -> Path:
        """Absolute folder of the attachments; a relative setting starts at the project."""
        return PROJECT / self.attachments_dir

    @property
    def max_attachment(self) -> int:
        """Bytes an attachment may have."""
        return int(self.max_attachment_mb * 1024 * 1024)

    @property
    def write_rate(self) -> Rate | None:
        return parse_rate(self.rate_limit_writes)


def parse_rate(text: str) -> Rate | None:
    """Read `30/minute`; `off` gives None."""
    if text.strip().lower() in {"off", "none", "0"}:
        return None
    match = re.fullmatch(r"\s*([1-9][0-9]{0,6})\s*/\s*(second|minute|hour|day)s?\s*", text.lower())
    if not match:
        raise ValueError("must be like 30/minute (second, minute, hour or day), or off")
    return Rate(int(match[1]), PERIODS[match[2]])


def _production(info: ValidationInfo) -> bool:
    # An environment that did not validate is missing here: then the strict rules apply.
    environment: str = info.data.get("environment", "production")
    return environment == "production"


def _sentences(error: ValidationError) -> list[str]:
    """One line per problem; pydantic's own message without the value it was given."""
    lines = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        name = str(item["loc"][0]).upper() if item["loc"] else "settings"
        message = item["msg"].removeprefix("Value error, ")
        lines.append(f"{name} {message[0].lower() + message[1:]}")
    return lines


def read_settings(kind: type[Kind]) -> Kind:
    """Read and check the settings; raises SettingsProblem."""
    try:
        return kind()
    except ValidationError as error:
        raise SettingsProblem(_sentences(error)) from None


def load_settings(kind: type[Kind]) -> Kind:
    """Read the settings, or end the process with a message on stderr."""
    try:
        return read_settings(kind)
    except SettingsProblem as problem:
        refuse(str(problem))


@lru_cache
def get_settings() -> Settings:
    """The settings of this process."""
    return load_settings(Settings)


def refuse(message: str) -> NoReturn:
    """Leave with a readable message instead of a traceback."""
    print(message, file=sys.stderr, flush=True)
    raise SystemExit(EXIT_UNUSABLE)
