"""A real S3 server on loopback, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SERVER = """
import sys, logging
from werkzeug.serving import make_server
from moto.server import DomainDispatcherApplication, create_backend_app
logging.getLogger("werkzeug").disabled = True
serve = DomainDispatcherApplication(create_backend_app)
def logged(environ, start):
    with open(sys.argv[1], "a") as log:
        log.write(f"{environ['REQUEST_METHOD']} {environ['RAW_URI']}\\n")
    return serve(environ, start)
app = logged if sys.argv[1:] else serve
server = make_server("127.0.0.1", 0, app, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def s3_server(log: Path | None = None) -> Iterator[dict[str, str]]:
    """The environment with which it is reached. Each request is a line of `log`: method and address."""
    command = [sys.executable, "-W", "ignore", "-c", _SERVER, *([str(log)] if log is not None else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            assert port.isdigit(), "moto did not start"
            yield {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": "testing-key", "AWS_SECRET_ACCESS_KEY": "testing-secret",
                "no_proxy": "127.0.0.1",
            }  # fmt: skip
        finally:
            server.kill()


def new_bucket() -> str:
    """The URL of an empty bucket on the server that the environment names."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    request = urllib.request.Request(f"{os.environ['AWS_ENDPOINT_URL']}/{name}", method="PUT")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200
    return f"s3://{name}"
