#!/usr/bin/env bash
# Builds the load generator into $1 (default: a temporary directory) and prints its path.
set -euo pipefail
out=$(realpath "${1:-$(mktemp -d)}")
cd "$(dirname "$0")"
GO111MODULE=off GOPATH=/usr/share/gocode go build -buildvcs=false -o "$out/registryload" .
echo "$out/registryload"
