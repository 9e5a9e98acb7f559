#!/usr/bin/env bash
# Install, upgrade or uninstall nblauncher. Run as root from a checkout; `./install.sh --help` says more.
#
# Every release is a virtual environment of its own in /opt/nblauncher/releases/VERSION, made of the distribution's
# Python, root's, and readable by everyone, because the students run its interpreter. A release without the file
# `complete` is an unfinished one: it is never used and the next run deletes it. `current` is switched last, by one
# rename, so that an install that fails or is interrupted leaves everything as it was. A virtual environment cannot
# be moved (its scripts name it), therefore it is built where it stays.
#
# run-tests.sh sources this file for the functions that find a Python and copy the source.

set -euo pipefail
umask 022
unset CDPATH PYTHONHOME PYTHONPATH PYTHONUSERBASE PYTHONPYCACHEPREFIX PIP_TARGET PIP_PREFIX PIP_USER PIP_ROOT \
    PIP_REQUIRE_VIRTUALENV VIRTUAL_ENV

prefix=/opt/nblauncher
state=/var/lib/nblauncher
logs=/var/log/nblauncher
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
pdf=false # whether the release gets the extra `pdf`
sources=(nblauncher setup.py pyproject.toml constraints.txt LICENSE)

usage() {
    cat <<'USAGE'
Usage: ./install.sh                       install nblauncher, or upgrade it (a running class keeps its release)
       ./install.sh --pdf                 also what `nblauncher slips` makes PDFs with: WeasyPrint, and with apt Pango
                                          and a font; later upgrades keep it
       ./install.sh --uninstall           remove the program and its system accounts; homes, retrieved work, logs
                                          and /var/lib/nblauncher stay
       ./install.sh --uninstall --purge   also remove /var/lib/nblauncher and /var/log/nblauncher
       ./install.sh --help

Run it as root. It puts the program into /opt/nblauncher, links nblauncher and ipython_dir in /usr/local/bin, adds
the man page nblauncher(1), and shell completion where bash-completion, zsh or fish is installed, and makes the system
accounts nblauncher, nblauncher-kill and nblauncher-build. Where there is no usable Python 3.10 or newer it installs the distribution's
python3 and venv packages. Python packages come from PyPI, or from where pip's configuration and PIP_* variables say.
USAGE
}

main() {
    local uninstall=false purge=false argument
    for argument in "$@"; do
        case $argument in
            -h | --help) usage; return 0 ;;
            --uninstall) uninstall=true ;;
            --purge) purge=true ;;
            --pdf) pdf=true ;;
            *) usage >&2; fail 2 "unknown argument: $argument" ;;
        esac
    done
    if $purge && ! $uninstall; then
        fail 2 "--purge goes with --uninstall"
    fi
    if $pdf && $uninstall; then
        fail 2 "--pdf does not go with --uninstall"
    fi
    [ "$(uname -s)" = Linux ] || fail 4 "nblauncher makes accounts on Linux only, so far; nothing was changed"
    [ "$(id -u)" = 0 ] || fail 4 "install.sh must be run as root (sudo ./install.sh); nothing was changed"
    use_roots_path
    if $uninstall; then
        uninstall "$purge"
    else
        install_release
    fi
}

use_roots_path() { export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8; }

say() { printf '%s\n' "$*"; }
warn() { printf 'Warning: %s\n' "$*" >&2; }
fail() { # fail STATUS PROBLEM: one line, and out
    printf 'Error: %s\n' "$2" >&2
    exit "$1"
}

# ---- install -------------------------------------------------------------------------------------------------------

install_release() {
    local python version release previous
    check_before_anything
    only_one_at_a_time
    ensure_python 9>&- # a service that a package starts must not inherit the lock
    python=$(usable_python)
    if $pdf; then
        ensure_pango 9>&-
    elif [ -e "$prefix/current/with-pdf" ]; then
        pdf=true
    fi
    copy=$(mktemp -d "$prefix/build.XXXXXX")
    trap 'clean_up $?' EXIT
    trap 'exit 130' INT TERM HUP
    copy_source "$copy/source"
    version=$(free_or_sound "$(release_name "$copy/source" "$python")")
    release=$prefix/releases/$version
    [ -e "$release/complete" ] || build_release "$release" "$copy/source" "$python"
    make_accounts
    previous=$(readlink "$prefix/current" || true)
    link_into_place "releases/$version" "$prefix/current"
    if [ -n "$previous" ] && [ "$previous" != "releases/$version" ]; then
        link_into_place "$previous" "$prefix/previous"
    fi
    link_commands
    prune_releases
    say "nblauncher $version is installed in $prefix; the commands are in /usr/local/bin."
}

check_before_anything() {
    local file parent=$prefix
    [[ $here/ != $prefix/* ]] || fail 4 "the checkout must not be in $prefix: move it elsewhere; nothing was changed"
    while parent=$(dirname "$parent"); do
        [ ! -e "$parent" ] || is_roots_alone "$parent" ||
            fail 4 "$parent must belong to root and be writable by root alone; nothing was changed"
        [ "$parent" != / ] || break
    done
    if [ -e "$prefix" ] && { [ ! -d "$prefix" ] || ! is_roots_alone "$prefix"; }; then
        fail 4 "$prefix must be a folder that root alone can write to; nothing was changed"
    fi
    for file in "${sources[@]}"; do
        [ -e "$here/$file" ] || fail 1 "$here is not a complete checkout: $file is missing; nothing was changed"
    done
    for file in /usr/local/bin/nblauncher /usr/local/bin/ipython_dir; do
        if { [ -e "$file" ] || [ -L "$file" ]; } && ! is_our_link "$file"; then
            fail 4 "$file is there and not ours: move it away first; nothing was changed"
        fi
    done
    check_accounts
}

is_roots_alone() { # what it stands for, when it is a link
    [ "$(stat -L -c %u -- "$1")" = 0 ] && [ $((0$(stat -L -c %a -- "$1") & 022)) = 0 ]
}

is_our_link() {
    [ -L "$1" ] && [[ $(readlink -- "$1") == "$prefix"/* ]]
}

only_one_at_a_time() { # the lock ends with this process
    mkdir -p "$prefix" "$prefix/releases"
    exec 9>"$prefix/lock"
    flock -n 9 || fail 6 "another install.sh is running on this machine; nothing was changed"
}

clean_up() { # whatever ended us: what is not complete goes
    local folder
    trap - EXIT INT TERM HUP
    stop_watching
    for folder in "$prefix"/build.* "$prefix"/releases/*; do
        if [ -d "$folder" ] && [ ! -e "$folder/complete" ]; then
            rm -rf --one-file-system -- "$folder"
        fi
    done
    exit "$1"
}

# ---- a Python that students can run --------------------------------------------------------------------------------

usable_python() { # prints the first of the distribution's interpreters that is new enough and can make environments
    local candidate
    for candidate in /usr/bin/python3 /usr/bin/python3.{14,13,12,11,10}; do
        if [ -x "$candidate" ] && is_usable_python "$candidate"; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    return 1
}

is_usable_python() { # Debian's python3 without python3-venv has venv but no ensurepip, and would leave half an environment
    "$1" -I -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

ensure_python() {
    local set
    if usable_python >/dev/null; then
        return 0
    fi
    say "There is no Python 3.10 or newer with venv in /usr/bin; installing the distribution's."
    if command -v apt-get >/dev/null; then
        apt_install python3 python3-venv || true
    elif command -v dnf >/dev/null; then
        for set in python3 python3.12 python3.11; do
            dnf install -y "$set" >&2 || true
            ! usable_python >/dev/null || break
        done
    elif command -v zypper >/dev/null; then
        for set in python3 python313 python312 python311; do
            zypper --non-interactive install --no-recommends "$set" >&2 || true
            ! usable_python >/dev/null || break
        done
    elif command -v pacman >/dev/null; then
        pacman -S --noconfirm --needed python >&2 || true
    else
        fail 1 "none of apt, dnf, zypper and pacman is here: install Python 3.10 or newer with venv to /usr/bin, then run this again"
    fi
    usable_python >/dev/null ||
        fail 1 "the package manager gave no Python 3.10 or newer with venv and ensurepip in /usr/bin (its messages are above); install one, then run this again"
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get -q update >&2 || warn "apt-get update failed"
    DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "$@" >&2
}

ensure_pango() { # what WeasyPrint loads of the system
    ! has_library libpangoft2-1.0.so.0 || ! has_library libharfbuzz-subset.so.0 || return 0
    if command -v apt-get >/dev/null; then
        apt_install libpango-1.0-0 libpangoft2-1.0-0 fonts-noto-core || true
        apt_install libharfbuzz-subset0 || true # older releases have no such package, and WeasyPrint does without
    fi
    has_library libpangoft2-1.0.so.0 ||
        warn "Pango (libpangoft2-1.0) is not installed: install it with your package manager, or use \`nblauncher slips --html\`"
}

has_library() { [[ $(ldconfig -p) == *"$1"* ]]; }

# ---- a release -----------------------------------------------------------------------------------------------------

copy_source() { # copy_source FOLDER: what the package is built of; building writes beside its source, never into the checkout
    local file
    mkdir -p "$1"
    for file in "${sources[@]}"; do
        cp -R -- "$here/$file" "$1/"
    done
    find "$1" -depth \( -name __pycache__ -o -name '*.egg-info' \) -exec rm -rf {} +
}

release_name() { # version, and a hash of the source and of the Python's version: changed source is another release
    local version hash
    version=$(sed -n 's/^__version__ = "\([0-9A-Za-z.+-]*\)"$/\1/p' "$1/nblauncher/__init__.py")
    [ -n "$version" ] || fail 1 "nblauncher/__init__.py does not say which version this is; nothing was changed"
    hash=$(
        {
            "$2" -I -c 'import sys; print(sys.version_info[:2])'
            ! $pdf || echo pdf
            cd "$1" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
        } | sha256sum
    )
    printf '%s-%s\n' "$version" "${hash:0:12}"
}

free_or_sound() { # free_or_sound NAME: this release if it can be run or is not there; a damaged one may be in use and stays
    local name=$1 number=1
    while [ -e "$prefix/releases/$name/complete" ] && ! students_can_run "$prefix/releases/$name" >/dev/null 2>&1; do
        number=$((number + 1))
        name=$1.$number
    done
    printf '%s\n' "$name"
}

build_release() { # build_release RELEASE SOURCE PYTHON
    local log=$copy/log extra=""
    ! $pdf || extra="[pdf]"
    say "Building nblauncher in $1 (about a minute) ..."
    rm -rf --one-file-system -- "$1"
    : >"$log"
    if [ -t 2 ] && [ "${TERM:-dumb}" != dumb ]; then
        watch_log "$log" $$ 9>&- &
        watcher=$!
    fi
    {
        "$3" -I -m venv "$1" &&
            install_packages "$1" -c "$2/constraints.txt" "$2$extra" &&
            write_completions "$1" &&
            write_manual "$1" &&
            chmod -R a+rX,go-w "$1"
    } >"$log" 2>&1 9>&- || { stop_watching; explain_failed_build "$log"; }
    stop_watching
    students_can_run "$1" >"$log" 2>&1 || {
        tail -n 5 "$log" >&2
        fail 1 "an ordinary user cannot run the interpreter in $1 (is a folder above it closed, or mounted noexec?); nothing was changed"
    }
    ! $pdf || touch "$1/with-pdf"
    touch "$1/complete"
}

watcher= # the process that watches the build
watch_log() { # watch_log LOG PID: what the build is at, on one line of the terminal, as long as PID runs
    local began=$SECONDS at
    trap 'exit 0' TERM
    while sleep 1 && kill -0 "$2" 2>/dev/null; do
        # pip's progress; what packages print in between is not shown, and nothing that is not ASCII
        at=$(tail -c 4096 "$1" | LC_ALL=C tr -cd '\40-\176\n' | grep -aE '^(Collecting|Building|Installing) ' | tail -n 1) || true
        printf '\r\033[K  %d s%s' "$((SECONDS - began))" "${at:+: ${at:0:44}}" >&2
    done
}

stop_watching() {
    if [ -n "$watcher" ]; then
        kill "$watcher" 2>/dev/null || true
        wait "$watcher" 2>/dev/null || true
        watcher=
        printf '\r\033[K' >&2
    fi
}

install_packages() { # install_packages ENVIRONMENT PIP-ARGUMENTS...
    local environment=$1
    shift
    "$environment/bin/python" -I -m pip install --no-input --disable-pip-version-check --no-warn-script-location \
        --progress-bar off --retries 2 --no-compile "$@" || return 1
    # On all cores; here for everybody, because the students cannot write here and each server would compile anew.
    # A worker that is killed breaks compileall's pool: then with one process.
    "$environment/bin/python" -I -m compileall -q -j 0 "$environment/lib" ||
        "$environment/bin/python" -I -m compileall -q "$environment/lib"
}

explain_failed_build() {
    tail -n 15 "$1" | cut -c 1-300 >&2
    cp -- "$1" "$prefix/install.log"
    if grep -q 'No space left on device' "$1"; then
        fail 1 "the disk is full; the installed nblauncher is as it was (details: $prefix/install.log)"
    elif grep -Eq 'NewConnectionError|NameResolutionError|ConnectTimeoutError|ReadTimeoutError|ProxyError|SSLError' "$1"; then
        fail 1 "the Python packages cannot be fetched: PyPI (or the index that pip is configured for) is not reachable from this machine; set https_proxy or PIP_INDEX_URL (sudo drops them: sudo https_proxy=... ./install.sh) and run this again; the installed nblauncher is as it was (details: $prefix/install.log)"
    fi
    fail 1 "the release could not be built; the installed nblauncher is as it was (details: $prefix/install.log)"
}

students_can_run() { # the proof, as a user without any right
    "$1/bin/python" -I -c '
import os, sys
os.chdir("/")
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
os.execve(sys.argv[1], sys.argv[1:], {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"})
' "$1/bin/python" -I -c 'import nblauncher, notebook'
}

write_completions() { # made by the release itself, so that they always fit it
    local shell folder=$1/share/nblauncher
    mkdir -p "$folder"
    for shell in bash zsh fish; do
        _NBLAUNCHER_COMPLETE=${shell}_source "$1/bin/nblauncher" >"$folder/completion.$shell" || return 1
    done
}

write_manual() {
    "$1/bin/nblauncher" manual >"$1/share/nblauncher/nblauncher.1"
}

# ---- what points to it ---------------------------------------------------------------------------------------------

link_into_place() { # link_into_place TARGET LINK: by rename, so that nobody ever sees it missing
    ln -sfn -- "$1" "$2.new"
    mv -T -- "$2.new" "$2"
}

link_commands() {
    local command
    mkdir -p /usr/local/bin
    for command in nblauncher ipython_dir; do
        link_into_place "$prefix/current/bin/$command" "/usr/local/bin/$command"
    done
    link_of_release nblauncher.1 /usr/local/share/man/man1/nblauncher.1
    link_completion bash /usr/share/bash-completion /usr/local/share/bash-completion/completions nblauncher
    link_completion zsh /usr/share/zsh /usr/local/share/zsh/site-functions _nblauncher
    link_completion fish /etc/fish /etc/fish/completions nblauncher.fish
}

link_completion() { # link_completion SHELL FOLDER-THAT-TELLS-IT-IS-INSTALLED FOLDER NAME
    if [ -d "$2" ]; then
        link_of_release "completion.$1" "$3/$4"
    fi
}

link_of_release() { # link_of_release NAME LINK: to what the release has below share/nblauncher, where it has it
    [ -e "$prefix/current/share/nblauncher/$1" ] || return 0
    if [ -e "$2" ] && ! is_our_link "$2"; then
        warn "$2 is not ours and was left alone"
        return 0
    fi
    mkdir -p "${2%/*}"
    link_into_place "$prefix/current/share/nblauncher/$1" "$2"
}

our_links() {
    printf '%s\n' /usr/local/bin/nblauncher /usr/local/bin/ipython_dir \
        /usr/local/share/bash-completion/completions/nblauncher \
        /usr/local/share/zsh/site-functions/_nblauncher \
        /etc/fish/completions/nblauncher.fish \
        /usr/local/share/man/man1/nblauncher.1
}

prune_releases() { # current and previous stay, and what a process still runs (a class keeps the release it started with)
    local release name
    for release in "$prefix"/releases/*; do
        name=releases/${release##*/}
        if [ "$name" = "$(readlink "$prefix/current")" ] || [ "$name" = "$(readlink "$prefix/previous" || true)" ]; then
            continue
        fi
        if is_used "$release"; then
            say "Kept $release: a running class uses it."
        else
            rm -rf --one-file-system -- "$release"
            say "Removed the old release $release."
        fi
    done
}

is_used() { [ -n "$(users_of "$1")" ]; }

users_of() { # users_of FOLDER: pids of the processes that run or have mapped something below it
    local process program
    for process in /proc/[0-9]*; do
        # The environment's python is a link to /usr/bin/python3: a process is known by the name it was started with and
        # by the compiled modules it has mapped. One that ends while we look is none.
        program=
        { IFS= read -r -d '' program <"$process/cmdline"; } 2>/dev/null || true
        if [[ $program == "$1"/* ]] || grep -qsF "$1/" "$process/maps"; then
            printf '%s\n' "${process##*/}"
        fi
    done
}

# ---- system accounts -----------------------------------------------------------------------------------------------

accounts=(nblauncher nblauncher-kill nblauncher-build) # front page; the real uid of kill sweeps; builds packages
account_words=nblauncher              # their GECOS field: an account without it is not ours

check_accounts() {
    local account
    for account in "${accounts[@]}"; do
        ! getent passwd "$account" >/dev/null || is_our_account "$account" ||
            fail 4 "there is an account $account already that install.sh did not make; rename or remove it; nothing was changed"
    done
}

is_our_account() {
    [ "$(getent passwd "$1" | cut -d: -f5)" = "$account_words" ]
}

make_accounts() { # nobody logs in to them, they own nothing
    local account
    for account in "${accounts[@]}"; do
        getent passwd "$account" >/dev/null ||
            useradd --system --user-group --no-create-home --home-dir /nonexistent \
                --shell "$(command -v nologin || echo /bin/false)" --comment "$account_words" -- "$account" ||
            fail 1 "useradd could not make the system account $account; the installed nblauncher is as it was"
    done
}

remove_accounts() {
    local account
    for account in "${accounts[@]}"; do
        if is_our_account "$account"; then
            userdel -- "$account"
            ! getent group "$account" >/dev/null || groupdel -- "$account"
            say "Removed the system account $account."
        elif getent passwd "$account" >/dev/null; then
            warn "the account $account is not ours any more and was left alone"
        fi
    done
}

# ---- uninstall -----------------------------------------------------------------------------------------------------

uninstall() { # uninstall PURGE
    local purge=$1 link courses users
    if [ -d "$prefix" ]; then
        exec 9>"$prefix/lock"
        flock -n 9 || fail 6 "another install.sh is running on this machine; nothing was changed"
    fi
    courses=$(existing_courses)
    [ -z "$courses" ] ||
        fail 4 "there is still a class on this machine: $courses; end it with \`nblauncher remove\` in its folder (it retrieves the work first); nothing was changed"
    users=$(users_of "$prefix/releases" | tr '\n' ' ')
    [ -z "$users" ] || fail 4 "nblauncher still runs (process ${users% }): end it with \`nblauncher shutdown\`; nothing was changed"
    our_links | while IFS= read -r link; do
        if is_our_link "$link"; then
            rm -f -- "$link"
            say "Removed $link."
        fi
    done
    remove_accounts
    remove_folder "$prefix"
    remove_folder /run/nblauncher
    if $purge; then
        remove_folder "$state"
        remove_folder "$logs"
    else
        ! [ -e "$state" ] || say "Left $state (remembers which user ids were given away); --purge removes it."
        ! [ -e "$logs" ] || say "Left $logs; --purge removes it."
    fi
    say "nblauncher is uninstalled. Homes, retrieved work and the packages of the distribution were not touched."
}

remove_folder() { # of a mount point only what is in it
    if [ -e "$1" ]; then
        rm -rf --one-file-system -- "$1" 2>/dev/null || [ -z "$(ls -A -- "$1")" ] ||
            fail 1 "$1 could not be removed completely; see what is still in it"
        say "Removed $1."
    fi
}

existing_courses() { # the names of the courses, or of the accounts, that are still recorded on this machine
    local file python
    if [ -e "$state/host.db" ]; then
        # The checkout's own code reads it, because the program may be gone already.
        python=$(usable_python || echo "$prefix/current/bin/python")
        "$python" -I -B -c '
import sys
sys.path.insert(0, sys.argv[1])
from nblauncher.paths import host_database
from nblauncher.ledger import HostLedger
ledger = HostLedger(host_database())
names = [record.course for record in ledger.courses()]
print(", ".join(names or sorted(ledger.claims())))
' "$here" 2>/dev/null || fail 4 "$state/host.db cannot be read, so it is not known whether a class exists; restore it from a backup, or remove it if you know that there is none; nothing was changed"
    else
        for file in "$state"/*/course.db; do
            [ ! -e "$file" ] || basename "$(dirname "$file")"
        done
    fi
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    main "$@"
    exit
fi
