"""A server on this machine that answers W&B's client as far as saving a workspace asks it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "abcdefabcdefabcdef0123456789fedcbafedcba"
VIEWER = {
    "id": "1",
    "entity": "team",
    "username": "me",
    "email": "me@example.org",
    "flags": "{}",
    "admin": False,
}


class WandbServer:
    """What was asked of it.

    Attributes:
        url: its address.
        saved: variables of every view that was to be saved.
        refused: project to messages that its views are refused with.
    """

    def __init__(self) -> None:
        self.saved: list[dict[str, Any]] = []
        self.refused: dict[str, str] = {}
        self.url = ""

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The answer to one GraphQL document."""
        viewer = VIEWER | {"teams": {"edges": []}, "apiKeys": {"edges": []}}
        if "upsertView" not in query:
            return {"data": {"viewer": viewer, "serverInfo": {"cliVersionInfo": {}}}}
        if variables["projectName"] in self.refused:
            return {"data": None, "errors": [{"message": self.refused[variables["projectName"]]}]}
        self.saved.append(variables)
        view = {"id": f"view-{variables['displayName']}", "name": variables["name"]}
        return {"data": {"upsertView": {"view": view, "inserted": True}}}


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """Such a server, until the context ends."""
    server = WandbServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked: dict[str, Any] = json.loads(body) if self.path == "/graphql" else {"query": ""}
            content = json.dumps(server.answer(asked["query"], asked.get("variables") or {})).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *unused: Any) -> None:
            """The tests' output stays clean."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_port}"
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
