"""What differs in development, and who else may use the API from a browser."""

from pathlib import Path

import httpx

from tests.conftest import Database
from tests.server import environment, serve


def test_development(database: Database, tmp_path: Path) -> None:
    more = {"ENVIRONMENT": "development", "SECRET_KEY": "", "CORS_ORIGINS": "https://a.example"}
    # Too many connections for the server: a warning here, a refusal in production.
    more["DB_POOL_SIZE"] = "100"
    with serve(environment(database.url, tmp_path, **more), tmp_path / "log", workers=1) as server:
        assert "production would refuse to start: 1 web workers" in server.log.read_text()

        docs = server.get("/docs")
        assert docs.status_code == 200
        assert "content-security-policy" not in docs.headers
        assert set(server.get("/openapi.json").json()["paths"]) == {
            "/api/posts", "/api/posts/{post_id}", "/api/posts/{post_id}/attachments", "/api/digests",
            "/version",
        }  # fmt: skip

        def allowed(origin: str) -> str | None:
            headers = {"origin": origin, "access-control-request-method": "POST"}
            answer = httpx.options(f"{server.url}/api/posts", headers=headers)
            origin_allowed: str | None = answer.headers.get("access-control-allow-origin")
            return origin_allowed

        assert allowed("https://a.example") == "https://a.example"
        assert allowed("https://b.example") is None
