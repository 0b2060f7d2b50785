"""A server on this machine for the tests of downloads."""

import http.server
import threading
import time


class FileServer(http.server.ThreadingHTTPServer):
    """Serves `files`, bytes by path; other paths are 404.

    Attributes:
      asked: the paths asked for so far.
      withheld: bytes that each answer promises and does not send.
      delay: seconds before each answer.
      pause: seconds after each byte, if there is one.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/"
        self.files, self.asked, self.withheld = {}, [], 0
        self.delay = self.pause = 0.0

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def handle_error(self, *_):
        """Print nothing: some clients leave before the answer."""

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FileServer

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = self.path.removeprefix("/")
        self.server.asked.append(path)
        body = self.server.files.get(path)
        time.sleep(self.server.delay)
        self.send_response(404 if body is None else 200)
        size = len(body or b"") + self.server.withheld
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if not self.server.pause:
            self.wfile.write(body or b"")
        for i in range(30 if self.server.pause else 0):
            self.wfile.write(body[i : i + 1])
            time.sleep(self.server.pause)
