"""`python -m bench.gateway.bare PORT THREADS`: a bare route that takes and returns JSON, served like the gateway."""

from __future__ import annotations

import sys

from flask import Flask, Response, jsonify, request

from common.http_server import Server


def make_app() -> Flask:
    app = Flask(__name__, static_folder=None)

    @app.post("/video/img2vid")
    def img2vid() -> Response:
        response = jsonify({"status": "queued", **request.get_json()})
        response.status_code = 202
        return response

    return app


if __name__ == "__main__":
    port, threads = sys.argv[1:]
    Server(make_app, bind=f"127.0.0.1:{port}", threads=int(threads), graceful_timeout=10, keepalive=5).run()
