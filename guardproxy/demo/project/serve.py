"""Serve the site: `python -m guardproxy.demo.project.serve THREADS`, on a free port.

Django's WSGI application behind a fixed number of threads that live as long as the process,
which is how gunicorn's gthread worker treats it. Says on stdout where it listens.
"""

import os
import socket
import socketserver
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from django.core.wsgi import get_wsgi_application


class QuietRequest(WSGIRequestHandler):
    """One request, without a line on stderr for each."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


class ThreadedServer(socketserver.ThreadingMixIn, WSGIServer):
    """Hands each HTTP connection to one of a fixed set of threads."""

    request_queue_size = 128

    def __init__(self, threads: int) -> None:
        super().__init__(("127.0.0.1", 0), QuietRequest)
        self._threads = ThreadPoolExecutor(threads)

    def server_bind(self) -> None:
        # The inherited one asks the resolver for our name, which can take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.socket.getsockname()[1]
        self.setup_environ()

    def process_request(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any
    ) -> None:
        self._threads.submit(self.process_request_thread, request, client_address)


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "guardproxy.demo.project.settings")
    server = ThreadedServer(threads=int(sys.argv[1]))
    server.set_app(get_wsgi_application())
    sys.stdout.write(f"listening on 127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
