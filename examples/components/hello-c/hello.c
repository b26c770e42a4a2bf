// An HTTP service in C: GREETING from its Pod's environment, /health, and a 404 for the rest.
//
// Everything named wasi_… or http_service_… is declared in http_service.h, which wit-bindgen
// generates from the world in ../../../wit. Names ending in _own_…_t are handles that whoever
// holds them must pass on or drop, children before parents.

#include "http_service.h"
#include <string.h>

static http_service_string_t text(const char *characters) {
    return (http_service_string_t){(uint8_t *)characters, strlen(characters)};
}

static bool equal(http_service_string_t a, http_service_string_t b) {
    return a.len == b.len && memcmp(a.ptr, b.ptr, a.len) == 0;
}

static http_service_string_t greeting(void) {
    http_service_list_tuple2_string_string_t environment;
    wasi_cli_environment_get_environment(&environment);
    for (size_t n = 0; n < environment.len; n++)
        if (equal(environment.ptr[n].f0, text("GREETING"))) return environment.ptr[n].f1;
    return text("Hello from C");
}

static void send(wasi_io_streams_borrow_output_stream_t stream, http_service_string_t part) {
    wasi_io_streams_stream_error_t gone; // The client: no error of ours.
    while (part.len > 0) {
        // WASI takes at most 4096 bytes in one blocking write.
        http_service_list_u8_t piece = {part.ptr, part.len < 4096 ? part.len : 4096};
        if (!wasi_io_streams_method_output_stream_blocking_write_and_flush(stream, &piece, &gone))
            return;
        part.ptr += piece.len;
        part.len -= piece.len;
    }
}

void exports_wasi_http_incoming_handler_handle(
    exports_wasi_http_incoming_handler_own_incoming_request_t request,
    exports_wasi_http_incoming_handler_own_response_outparam_t out) {
    http_service_string_t path = text("/");
    wasi_http_types_method_incoming_request_path_with_query(
        wasi_http_types_borrow_incoming_request(request), &path);
    const uint8_t *query = memchr(path.ptr, '?', path.len);
    if (query) path.len = query - path.ptr;

    uint16_t status = 200;
    http_service_string_t body;
    if (equal(path, text("/"))) {
        body = greeting();
    } else if (equal(path, text("/health"))) {
        body = text("ok");
    } else {
        status = 404;
        body = text("no such path");
    }

    wasi_http_types_own_outgoing_response_t response =
        wasi_http_types_constructor_outgoing_response(wasi_http_types_constructor_fields());
    wasi_http_types_borrow_outgoing_response_t borrowed =
        wasi_http_types_borrow_outgoing_response(response);
    wasi_http_types_method_outgoing_response_set_status_code(borrowed, status);
    wasi_http_types_own_outgoing_body_t outgoing;
    wasi_http_types_method_outgoing_response_body(borrowed, &outgoing);
    wasi_http_types_result_own_outgoing_response_error_code_t ok = {.val.ok = response};
    wasi_http_types_static_response_outparam_set(out, &ok);

    wasi_http_types_own_output_stream_t stream;
    wasi_http_types_method_outgoing_body_write(
        wasi_http_types_borrow_outgoing_body(outgoing), &stream);
    send(wasi_io_streams_borrow_output_stream(stream), body);
    send(wasi_io_streams_borrow_output_stream(stream), text("\n"));
    wasi_io_streams_output_stream_drop_own(stream);

    wasi_http_types_error_code_t error;
    wasi_http_types_static_outgoing_body_finish(outgoing, NULL, &error);
    wasi_http_types_incoming_request_drop_own(request);
}
