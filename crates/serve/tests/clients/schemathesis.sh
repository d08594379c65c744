#!/bin/sh
# Requests made from the OpenAPI description, good ones and bad ones, against a running server: none
# may be a server error, and every answer must be as described.
#
#   pip install -r crates/serve/tests/clients/requirements.txt
#   flametune serve                                   # in another terminal
#   sh crates/serve/tests/clients/schemathesis.sh [URL]
url=${1:-http://127.0.0.1:8000}
exec schemathesis run "$url/openapi.json" \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
    --max-examples "${EXAMPLES:-60}" --seed 1
