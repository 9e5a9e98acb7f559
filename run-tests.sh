#!/usr/bin/env bash
# Install what the tests need and run them: lint, types, unit, contract, system and browser tests.
#
# As root on Linux everything runs. The package is installed (not editable) into /opt/nblauncher/testing, where
# students' processes can import it even when the checkout is in /root. Elsewhere the tests run that need no root.

set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# The functions that find a Python, copy the source and run pip.
. "$here/install.sh"

usage() {
    cat <<'USAGE'
Usage: ./run-tests.sh [all|check|system|browser] [PYTEST-ARGUMENTS...]
       ./run-tests.sh tests/unit/... [PYTEST-ARGUMENTS...]

  all      everything; the default
  check    ruff, mypy and the tests that need no root, in seconds
  system   the system tests: real accounts named nbt..., real notebook servers
  browser  the browser tests, with Chromium

  tests/unit/test_x.py::name    this test of the checkout as it is, in seconds: no root, nothing is installed, no lint

Run it as root for all of them. It installs python3 and venv, and with apt also chromium, certutil, rsync, cron, at, nginx,
debootstrap, systemd-container and qemu-system-x86, where they are missing; the test tools go into /opt/nblauncher/testing (without root: ~/.cache/nblauncher-testing).
USAGE
}

run_tests() {
    local stage=all status=0
    case ${1:-} in
        -h | --help) usage; return 0 ;;
        all | check | system | browser) stage=$1; shift ;;
        tests/unit/* | tests/contract/*) stage=one ;;
    esac
    case $stage in
        all) selection=(tests/unit tests/contract tests/system tests/browser) ;;
        check) selection=(tests/unit tests/contract -m "not system and not browser") ;;
        system) selection=(tests/contract tests/system -m system) ;; # a contract runs on the real thing as well
        browser) selection=(tests/browser) ;;
        one) selection=(-n 0 -m "not system and not browser") ;;
    esac
    if can_make_accounts; then
        use_roots_path
        testing=$prefix/testing
        install_tools "$stage"
    else
        testing=${XDG_CACHE_HOME:-$HOME/.cache}/nblauncher-testing
        refuse_or_say_what_is_left_out "$stage"
    fi
    if command -v getent >/dev/null && ! getent ahosts localhost >/dev/null; then
        fail 4 'the tests need the name localhost: add "127.0.0.1 localhost" to /etc/hosts'
    fi
    prepare_environment
    cd "$here"
    if [ "$stage" = one ]; then
        PYTHONDONTWRITEBYTECODE=1 "$environment/bin/python" -m pytest -o cache_dir="$testing/cache/pytest" \
            --basetemp="$scratch/t" "${selection[@]}" "$@" || status=1
        return $status
    fi
    install_checkout
    if [ "$stage" = all ] || [ "$stage" = check ]; then
        lint || status=1
    fi
    [ "$status" = 0 ] || printf '\n*** ruff or mypy failed, see above; the tests follow. ***\n\n'
    # Not `python -m pytest`: that would import nblauncher from the checkout, which students may not be able to read.
    # Two at a time: tests/conftest.py says which may run beside each other. `-n 0` for one at a time.
    # A folder of our own for tmp_path: pytest's cleaning up does not survive a test that makes 3,000 levels.
    PYTHONDONTWRITEBYTECODE=1 HYPOTHESIS_STORAGE_DIRECTORY=$testing/cache/hypothesis \
        "$environment/bin/pytest" -o cache_dir="$testing/cache/pytest" --basetemp="$scratch/t" \
        -n 2 --no-loadscope-reorder "${selection[@]}" "$@" || status=1
    return $status
}

can_make_accounts() { [ "$(uname -s)" = Linux ] && [ "$(id -u)" = 0 ]; }

refuse_or_say_what_is_left_out() {
    case $1 in
        system | browser) fail 4 "the $1 tests make accounts: run them as root on Linux" ;;
        all) selection=(tests/unit tests/contract -m "not system and not browser") ;;
    esac
    [ "$1" = check ] || [ "$1" = one ] || cat <<'LOUD'

***********************************************************************************************
*** NOT root on Linux: the system and browser tests, which make real accounts, are LEFT OUT. ***
***********************************************************************************************

LOUD
}

install_tools() {
    local tool wanted missing=()
    ensure_python
    [ "$1" != check ] && [ "$1" != one ] || return 0
    check_accounts
    make_accounts # `./install.sh --uninstall` removes them
    command -v apt-get >/dev/null || return 0
    wanted=(chromium libnss3-tools:certutil rsync cron:crontab at nginx-light:nginx debootstrap systemd-container:systemd-nspawn)
    [ "$(uname -m)" != x86_64 ] || wanted+=(qemu-system-x86:qemu-system-x86_64)
    for tool in "${wanted[@]}"; do
        command -v "${tool#*:}" >/dev/null || missing+=("${tool%:*}")
    done
    if [ "${#missing[@]}" -gt 0 ] && ! apt_install "${missing[@]}"; then
        printf '\n*** apt could not install %s: the tests that need them are SKIPPED. ***\n\n' "${missing[*]}"
    fi
}

prepare_environment() { # an environment per set of versions, made once
    local python key
    python=$(usable_python || { can_make_accounts || command -v python3; })
    [ -n "$python" ] || fail 1 "there is no Python 3.10 or newer"
    scratch=$(mktemp -d /var/tmp/nbt.XXXXXX) # /tmp may be memory
    chmod 0755 "$scratch"
    trap 'rm -rf -- "$scratch"' EXIT
    key=$({ cat "$here"/{run-tests.sh,setup.py,constraints.txt}; "$python" -I -c 'import sys; print(sys.version_info[:2])'; } | cksum)
    environment=$testing/${key%% *}
    mkdir -p "$testing"
    if [ ! -e "$environment/complete" ]; then
        say "Installing the test tools into $environment (about a minute) ..."
        copy_source "$scratch/source"
        find "$testing" -mindepth 1 -maxdepth 1 ! -name cache -exec rm -rf {} +
        "$python" -I -m venv "$environment"
        install_packages "$environment" --quiet -c "$scratch/source/constraints.txt" "setuptools>=70.1" "$scratch/source[test]"
        touch "$environment/complete"
    fi
}

install_checkout() { # into the environment, anew each time
    [ -e "$scratch/source" ] || copy_source "$scratch/source"
    install_packages "$environment" --quiet --no-deps --no-build-isolation --force-reinstall "$scratch/source"
    ! can_make_accounts || chmod -R a+rX,go-w "$environment"
}

lint() {
    local status=0
    export RUFF_CACHE_DIR=$testing/cache/ruff MYPY_CACHE_DIR=$testing/cache/mypy
    "$environment/bin/ruff" check . || status=1
    "$environment/bin/ruff" format --check . || status=1
    "$environment/bin/mypy" || status=1
    return $status
}

run_tests "$@"
