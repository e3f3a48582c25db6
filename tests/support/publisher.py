"""A server on the loopback that publishes weight files, and misbehaves as servers and connections do."""

import hashlib
import http.server
import threading
from dataclasses import dataclass, field


@dataclass
class Publisher:
    """files: path -> content. statuses: path -> the status that is answered instead. redirects: path -> path.
    cuts: path -> numbers of bytes after which the next answers break off. ranges: whether ``Range`` is honoured.
    requests: what was asked for: (method, path, Range)."""

    files: dict[str, bytes] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    ranges: bool = True
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    address: str = ""

    def __enter__(self):
        publisher = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                publisher._answer(self, with_body=True)

            def do_HEAD(self):
                publisher._answer(self, with_body=False)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *_: None  # a client that went away
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(0.01), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, handler, with_body: bool) -> None:
        path = handler.path
        self.requests.append((handler.command, path, handler.headers.get("Range")))
        content = self.files.get(path, b"")
        status = self.statuses.get(path, 302 if path in self.redirects else 200 if path in self.files else 404)
        begin = 0
        if status == 200 and self.ranges and (wanted := handler.headers.get("Range")):
            begin, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
        body = content[begin:] if status in (200, 206) else b""
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        handler.send_header("X-Repo-Commit", "1" * 40)  # as the Hugging Face hub does
        handler.send_header("Accept-Ranges", "bytes")
        if status == 206:
            handler.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        if status == 302:
            handler.send_header("Location", self.address + self.redirects[path])
        handler.end_headers()
        if with_body:
            cut = self.cuts[path].pop(0) if self.cuts.get(path) else len(body)
            handler.wfile.write(body[:cut])
            handler.wfile.flush()
            if cut < len(body):
                handler.close_connection = True
                handler.connection.shutdown(2)
