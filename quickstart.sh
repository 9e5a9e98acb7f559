#!/usr/bin/env bash
# Install nblauncher and run the sample class: students.csv, notebooks.cfg and examples/, in the foreground.
# Run as root from a checkout. Running it again goes on with the same class.

set -euo pipefail
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)

usage() {
    cat <<'USAGE'
Usage: ./quickstart.sh

Run it as root. It runs ./install.sh, copies the sample class (students.csv, notebooks.cfg, examples/) to
~/nblauncher-quickstart of whoever ran sudo, else of root, makes the accounts of its students and serves the class
until Ctrl-C. What is already in that folder is kept: edit students.csv there and run ./quickstart.sh again.
USAGE
}

fail() { # fail STATUS PROBLEM
    printf 'Error: %s\n' "$2" >&2
    exit "$1"
}

# shellcheck disable=SC2016 # $1 is for the inner shell
copy_sample() { # as the teacher, so that root writes nothing into a folder that is not root's; what is there stays
    tar -C "$here" -cf - students.csv notebooks.cfg examples |
        as_teacher sh -c 'umask 077 && mkdir -p -- "$1" && tar -C "$1" -xf - --skip-old-files --no-same-owner --no-same-permissions' sh "$1"
}

as_teacher() {
    if [ "$teacher" = root ]; then
        "$@"
    else
        runuser -u "$teacher" -- "$@"
    fi
}

case ${1:-} in
    '') ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; fail 2 "unknown argument: $1" ;;
esac
[ "$(id -u)" = 0 ] || fail 4 "quickstart.sh must be run as root (sudo ./quickstart.sh); nothing was changed"

teacher=root
if [ -n "${SUDO_USER:-}" ] && getent passwd "$SUDO_USER" >/dev/null; then
    teacher=$SUDO_USER
fi
home=$(getent passwd "$teacher" | cut -d: -f6)
[ -d "$home" ] || fail 1 "the home of $teacher, $home, is not there; nothing was changed"
folder=$home/nblauncher-quickstart

"$here/install.sh"
copy_sample "$folder"
cd "$folder"
nblauncher setup --yes
cat <<ADVICE

The sample class is in $folder; its students are in students.csv.
  Passwords     $folder/credentials.csv
  End           Ctrl-C closes the front page, \`sudo nblauncher shutdown\` stops the students' servers
  Bring home    \`sudo nblauncher retrieve\` puts everyone's work into $folder/retrieved
  Undo          \`sudo nblauncher remove\`, then \`sudo ./install.sh --uninstall\` in the checkout
Run the commands of nblauncher in $folder. The course is called quickstart; a course of your own begins with
\`nblauncher init FOLDER\`, and gets that folder's name. Point your browser to the address below.

ADVICE
exec nblauncher launch
