#!/usr/bin/env bash
# The tests against other people's TLS and SDKs; none may skip.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup
AMOP_INTEROP_REQUIRED=1 cargo test --test interop
