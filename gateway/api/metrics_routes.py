"""`/metrics`, for Prometheus. It sends an API key as `Authorization: Bearer`, which other routes do not take."""

from __future__ import annotations

from flask import Response
from flask.views import MethodView
from prometheus_client import CONTENT_TYPE_LATEST

from gateway.api.blueprint import Blueprint
from gateway.wiring import services


def blueprint() -> Blueprint:
    here = Blueprint("metrics", __name__, description="Figures for Prometheus")

    @here.route("/metrics")
    class Metrics(MethodView):
        @here.response(200, content_type="text/plain", description="Prometheus' text format")
        def get(self) -> Response:
            """Jobs, attempts, times, sizes, costs and encoders."""
            return Response(services().metrics.text(), content_type=CONTENT_TYPE_LATEST)

    return here
