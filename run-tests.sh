#!/usr/bin/env bash
# Install what the tests need and run them: lint, types, unit, contract, system and browser tests.
#
# As root on Linux everything runs, in two parts: what takes minutes, and rarer cases, are in the slow one. The package
# is installed (not editable) into /opt/nblauncher/testing, where students' processes can import it even when the
# checkout is in /root. Elsewhere the tests run that need no root.

set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# The functions that find a Python, copy the source and run pip.
. "$here/install.sh"

usage() {
    cat <<'USAGE'
Usage: ./run-tests.sh [all|check|slow|system|browser] [PYTEST-ARGUMENTS...]
       ./run-tests.sh tests/unit/... [PYTEST-ARGUMENTS...]

  all      everything but the slow tests; the default, about ten minutes
  check    ruff, mypy and the tests that need no root, in seconds
  slow     the tests marked slow: machines that boot, an emulated kernel, a cluster, whatever takes minutes, and more
           cases of what `all` tries once; CI runs it after `all`
  system   the system tests of `all`: real accounts named nbt..., real notebook servers
  browser  the browser tests, with Chromium

  tests/unit/test_x.py::name    this test of the checkout as it is, in seconds: no root, nothing is installed, no lint

Run it as root for all of them. It installs python3 and venv, and with apt also chromium-headless-shell, certutil,
rsync, cron, at, nginx, e2fsprogs, zsh, fish, libatomic1, Pango and Noto fonts, where they are missing. The test tools go into
/opt/nblauncher/testing (without root: ~/.cache/nblauncher-testing). For slow it also installs chromium, debootstrap,
systemd-container, qemu-system-x86, munge and Slurm, whose daemons the tests start themselves.
USAGE
}

run_tests() {
    local stage=all status=0 workers=4 bytecode="" tools="" lint="" is_new=false
    case ${1:-} in
        -h | --help) usage; return 0 ;;
        all | check | slow | system | browser) stage=$1; shift ;;
        tests/unit/* | tests/contract/*) stage=one ;;
    esac
    case $stage in
        all) selection=(tests/unit tests/contract tests/system tests/browser -m "not slow") ;;
        check) selection=(tests/unit tests/contract -m "not system and not browser and not slow") ;;
        slow) # fewer at a time: some wait for a moment and must not be late
            selection=(tests/unit tests/contract tests/system tests/browser -m slow)
            workers=3
            ;;
        system) selection=(tests/contract tests/system -m "system and not slow") ;; # a contract runs on the real thing as well
        browser) selection=(tests/browser -m "not slow") ;;
        one) selection=(-n 0 -m "not system and not browser") ;;
    esac
    if command -v getent >/dev/null && ! getent ahosts localhost >/dev/null; then
        fail 4 'the tests need the name localhost: add "127.0.0.1 localhost" to /etc/hosts'
    fi
    if can_make_accounts; then
        use_roots_path
        testing=$prefix/testing
        ensure_python
        install_tools "$stage" & # beside the environment: each waits for its downloads
        tools=$!
    else
        testing=${XDG_CACHE_HOME:-$HOME/.cache}/nblauncher-testing
        refuse_or_say_what_is_left_out "$stage"
    fi
    prepare_environment # the first time, with the checkout
    [ -z "$tools" ] || wait "$tools"
    cd "$here"
    if [ "$stage" = one ]; then
        PYTHONDONTWRITEBYTECODE=1 "$environment/bin/python" -m pytest -o cache_dir="$testing/cache/pytest" \
            --basetemp="$scratch/t" "${selection[@]}" "$@" || status=1
        return $status
    fi
    $is_new || install_checkout
    ! can_make_accounts || chmod -R a+rX,go-w "$environment"
    if [ "$stage" = all ] || [ "$stage" = check ]; then
        bytecode=$testing/cache/bytecode
        lint >"$scratch/lint" 2>&1 & # beside the tests, most of which wait most of the time
        lint=$!
        compile_tests || printf '\n*** The tests cannot be collected: see below. ***\n\n'
    fi
    # Not `python -m pytest`: that would import nblauncher from the checkout, which students may not be able to read.
    # Several at a time: tests/conftest.py says which may run beside each other. `-n 0` for one at a time.
    # A folder of our own for tmp_path: pytest's cleaning up does not survive a test that makes 3,000 levels.
    PYTHONDONTWRITEBYTECODE=1 HYPOTHESIS_STORAGE_DIRECTORY=$testing/cache/hypothesis \
        NBT_BYTECODE=$bytecode "$environment/bin/pytest" -o cache_dir="$testing/cache/pytest" --basetemp="$scratch/t" \
        -n "$workers" --max-worker-restart 0 "${selection[@]}" "$@" || status=$?
    if [ -n "$lint" ]; then
        wait "$lint" || { [ "$status" != 0 ] || status=1; printf '\n*** ruff or mypy failed: ***\n\n'; }
        cat -- "$scratch/lint"
    fi
    return $status
}

can_make_accounts() { [ "$(uname -s)" = Linux ] && [ "$(id -u)" = 0 ]; }

refuse_or_say_what_is_left_out() {
    case $1 in
        system | browser) fail 4 "the $1 tests make accounts: run them as root on Linux" ;;
        all) selection=(tests/unit tests/contract -m "not system and not browser and not slow") ;;
        slow) selection=(tests/unit tests/contract -m "slow and not system and not browser") ;;
    esac
    [ "$1" = check ] || [ "$1" = one ] || cat <<'LOUD'

***********************************************************************************************
*** NOT root on Linux: the system and browser tests, which make real accounts, are LEFT OUT. ***
***********************************************************************************************

LOUD
}

install_tools() {
    local tool wanted missing=()
    [ "$1" != check ] && [ "$1" != one ] || return 0
    check_accounts
    make_accounts # `./install.sh --uninstall` removes them
    command -v apt-get >/dev/null || return 0
    wanted=(libnss3-tools:certutil rsync cron:crontab at nginx-light:nginx e2fsprogs:mkfs.ext4)
    wanted+=(zsh fish) # 8 MB
    if [ "$1" = slow ]; then
        wanted+=(chromium debootstrap systemd-container:systemd-nspawn)
        wanted+=(munge:munged slurmctld slurmd slurm-client:squeue)
        [ "$(uname -m)" != x86_64 ] || wanted+=(qemu-system-x86:qemu-system-x86_64)
    elif ! command -v chromium >/dev/null || apt-cache show chromium-headless-shell >/dev/null 2>&1; then
        wanted+=(chromium-headless-shell)
    fi
    for tool in "${wanted[@]}"; do
        command -v "${tool#*:}" >/dev/null || missing+=("${tool%:*}")
    done
    has_library libatomic.so.1 || missing+=(libatomic1) # for Playwright's node
    has_library libpangoft2-1.0.so.0 || missing+=(libpangoft2-1.0-0) # for WeasyPrint
    [ -d /usr/share/fonts/truetype/noto ] || missing+=(fonts-noto-core fonts-noto-color-emoji)
    [ -d /usr/share/fonts/opentype/noto ] || missing+=(fonts-noto-cjk)
    # Not every distribution has the shell.
    if [ "${#missing[@]}" -gt 0 ] && ! apt_install "${missing[@]}" &&
        ! apt_install "${missing[@]/chromium-headless-shell/chromium}"; then
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
        set -- -c "$scratch/source/constraints.txt" "setuptools>=70.1" "$scratch/source[test]"
        install_with_uv "$@" || install_packages "$environment" --quiet "$@"
        touch "$environment/complete"
        is_new=true
    fi
}

install_with_uv() { # install_with_uv REQUIREMENTS...: in seconds; uv is told what pip is configured for
    local setting values value words=() uv
    uv=$(command -v uv) || {
        uv=$environment/bin/uv
        "$environment/bin/python" -I -m pip install --quiet --no-input --disable-pip-version-check uv || return 1
    }
    while read -r setting values; do
        for value in $values; do
            case $setting in
                index-url) words+=(--default-index "$value") ;;
                extra-index-url) words+=(--index "$value") ;;
                find-links) words+=(--find-links "$value") ;;
            esac
        done
    done < <("$environment/bin/python" -I -m pip config list | sed -n "s/^.*\.\([a-z-]*\)='\(.*\)'$/\1 \2/p")
    "$uv" pip install --quiet --no-config --cache-dir "$scratch/uv" --index-strategy unsafe-best-match \
        --python "$environment/bin/python" "${words[@]}" "$@" &&
        "$environment/bin/python" -I -m compileall -q -j 0 -x '/tests?/' "$environment/lib"
}

install_checkout() { # into the environment
    copy_source "$scratch/source"
    "$environment/bin/python" -I -m pip install --quiet --no-input --disable-pip-version-check --no-compile \
        --no-deps --no-build-isolation --force-reinstall "$scratch/source"
    "$environment/bin/python" -I -m compileall -q -j 0 "$environment"/lib/python*/site-packages/nblauncher
}

compile_tests() { # once, for all workers: most of collecting is rewriting the assertions
    env -u PYTHONDONTWRITEBYTECODE NBT_BYTECODE="$bytecode" HYPOTHESIS_STORAGE_DIRECTORY="$testing/cache/hypothesis" \
        "$environment/bin/pytest" -p no:cacheprovider --collect-only -q "${selection[@]}" >/dev/null 2>&1
}

lint() {
    local status=0
    renice -n 10 -p "$BASHPID" >/dev/null
    export RUFF_CACHE_DIR=$testing/cache/ruff MYPY_CACHE_DIR=$testing/cache/mypy
    "$environment/bin/ruff" check . || status=1
    "$environment/bin/ruff" format --check . || status=1
    "$environment/bin/mypy" || status=1
    return $status
}

run_tests "$@"
