#!/usr/bin/env bash
# Installs Chromium from Debian's packages, unless it is installed: bash tests/serving/install_browser.sh
set -euo pipefail
bash "$(dirname "${BASH_SOURCE[0]}")/../install_packages.sh" "chromium chromedriver" chromium chromium-driver
