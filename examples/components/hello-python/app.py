"""An HTTP service in Python, built with componentize-py (see docs/guests.md)."""

from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports import environment
from wit_world.imports.types import (
    Fields,
    IncomingRequest,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        path = request.path_with_query() or "/"
        name = dict(environment.get_environment()).get("HOSTNAME", "somewhere")
        body, status = f"Hello from Python ({name})\n".encode(), 200
        if path == "/echo":
            body = read(request)
        elif path not in ("/", "/health"):
            body, status = b"nothing here\n", 404

        response = OutgoingResponse(Fields.from_list([("content-type", b"text/plain")]))
        response.set_status_code(status)
        outgoing = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        with outgoing.write() as stream:
            for start in range(0, len(body), 4096):
                stream.blocking_write_and_flush(body[start : start + 4096])
        OutgoingBody.finish(outgoing, None)


def read(request: IncomingRequest) -> bytes:
    parts = []
    with request.consume() as incoming, incoming.stream() as stream:
        while True:
            try:
                parts.append(stream.blocking_read(64 * 1024))
            except Exception:  # The stream's end comes as an error.
                return b"".join(parts)
