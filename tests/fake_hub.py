"""A Hugging Face hub of one process: the part of its HTTP interface that pushing and pulling a model needs, kept in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c" * 40


class FakeHub:
    """``files[repository]`` is what was committed; ``asked`` every request's method and path; ``agents`` who asked."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.private: dict[str, bool] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.asked.append(f"{self.command} {self.path}")
                self._reply(*hub.read(self.path.partition("?")[0]))

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_POST(self) -> None:
                hub.asked.append(f"POST {self.path}")
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Transfer-Encoding") == "chunked":
                    content = b"".join(iter(self._chunk, b""))
                if not self.headers.get("Authorization"):
                    self._reply(401, b'{"error": "no token"}', {})
                else:
                    self._reply(*hub.write(self.path.partition("?")[0], content))

            def _chunk(self) -> bytes:
                size = int(self.rfile.readline(), 16)
                content = self.rfile.read(size)
                self.rfile.readline()
                return content

            def _reply(self, status: int, content: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def read(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        """What a GET of ``path`` gives: status, content, headers."""
        if path.startswith("/api/models/"):
            name = "/".join(path.removeprefix("/api/models/").split("/")[:2])
            if name not in self.files:
                return 404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"}
            tree = [
                {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}  # noqa: S324
                for file, content in self.files[name].items()
            ]
            if "/tree/" in path:
                return 200, json.dumps(tree).encode(), {}
            found = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in self.files[name]]}
            return 200, json.dumps(found).encode(), {}
        user, model, _, _, *rest = path.strip("/").split("/")
        content = self.files.get(f"{user}/{model}", {}).get("/".join(rest))
        if content is None:
            return 404, b"", {"X-Error-Code": "EntryNotFound"}
        etag = hashlib.sha256(content).hexdigest()
        return 200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}

    def write(self, path: str, content: bytes) -> tuple[int, bytes, dict[str, str]]:
        """What a POST of ``content`` to ``path`` gives."""
        if path == "/api/repos/create":
            wanted = json.loads(content)
            name = f"{wanted.get('organization') or 'ada'}/{wanted['name']}"
            self.files.setdefault(name, {})
            self.private[name] = wanted.get("visibility") == "private" or bool(wanted.get("private"))
            return 200, json.dumps({"url": f"{self.url}/{name}"}).encode(), {}
        if path == "/api/validate-yaml":
            return 200, b'{"errors": [], "warnings": []}', {}
        name = "/".join(path.removeprefix("/api/models/").split("/")[:2])
        if "/preupload/" in path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(content)["files"]
            ]
            return 200, json.dumps({"files": files}).encode(), {}
        if "/commit/" in path:
            for line in content.splitlines():
                record = json.loads(line)
                if record["key"] == "file":
                    self.files[name][record["value"]["path"]] = base64.b64decode(record["value"]["content"])
            done = {"commitUrl": f"{self.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
            return 200, json.dumps(done).encode(), {}
        return 404, b"", {}
