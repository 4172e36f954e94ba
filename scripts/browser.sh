#!/usr/bin/env bash
# Installs Chromium and its driver from Debian's packages, for the tests that open a dossier in a browser; without them
# those tests skip. Does nothing where they are there already, and fails in one sentence where it cannot install them.
set -euo pipefail
if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then
    exit 0
fi
if ! command -v apt-get >/dev/null || [[ $(id -u) != 0 ]]; then
    echo "browser: install the packages chromium and chromium-driver (as root: apt-get install chromium chromium-driver)" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null 2>&1 || {
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null
}
