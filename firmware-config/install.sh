#!/bin/sh
# Installs edgeslm as a service of this machine, or updates it. Idempotent: a second run changes nothing. A run that
# fails or is interrupted by a power cut is rolled back.
#
# Python packages come from the hashed lists in requirements/ of the version to install.
#
#   sudo firmware-config/install.sh [WHEEL | FOLDER | REQUIREMENT]   default: the clone that this file is in
#     --extras LIST    optional parts, such as api,verify; an update keeps them
#     --bundles DIR    copies the bundles in DIR to /var/lib/edgeslm/bundles, and starts the service
#     --uninstall      removes program and service; configuration, state and user stay
#     --purge          removes those too
#     --root DIR       works on the offline system below DIR
#
#   EDGESLM_PYTHON     the Python to use (default: the first suitable one of python3, python3.13 ...)
#   pip's variables apply too: PIP_INDEX_URL, PIP_FIND_LINKS ...
set -eu
umask 022

here=$(cd "$(dirname "$0")" && pwd)
minimum=3.11
action=install
root=
source=
bundles=
extras=

say() { printf 'install: %s\n' "$*"; }

fail() {
    printf 'install: %s\n' "$*" >&2
    exit 1
}

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; } # before the folder changes

while [ $# -gt 0 ]; do
    case $1 in
        --root | --bundles)
            { [ $# -gt 1 ] && [ -d "$2" ]; } || fail "$1 needs a folder that exists"
            path=$(cd "$2" && pwd)
            if [ "$1" = --root ]; then root=${path%/}; else bundles=$path; fi
            shift
            ;;
        --extras)
            [ $# -gt 1 ] || fail "$1 needs names, such as api,verify"
            extras=$2
            shift
            ;;
        --uninstall) action=uninstall ;;
        --purge) action=purge ;;
        -h | --help) usage && exit 0 ;;
        -*) usage >&2 && exit 2 ;;
        *) source=$1 ;;
    esac
    shift
done

# Python always runs isolated (-I), so that it never imports a module from the current folder.
case ${EDGESLM_PYTHON:-} in /*) ;; */*) EDGESLM_PYTHON=$PWD/$EDGESLM_PYTHON ;; esac
case $0 in /*) self=$0 ;; *) self=$PWD/$0 ;; esac
if [ -z "$source" ] && [ -e "$here/../pyproject.toml" ]; then source=$(cd "$here/.." && pwd); fi
if [ -e "$source" ]; then source=$(cd "$(dirname "$source")" && pwd)/$(basename "$source"); fi
cd /
source=${source:-edgeslm} # the name on an index, not a folder: the current folder is /

program=$root/opt/edgeslm
command=$root/usr/local/bin/edgeslm
lib=$root/usr/local/lib
beside='edgeslm-hawkbit.service edgeslm-dispatch.service' # disabled by default
users='edgeslm-hawkbit edgeslm'
etc=$root/etc/edgeslm
state=$root/var/lib/edgeslm
aside=$root/var/lib/.edgeslm-install # replaced files until the run succeeds; `list` is the undo log

runs() { [ -z "$root" ] && [ -d /run/systemd/system ]; } # systemd is running

ctl() { systemctl --quiet ${root:+"--root=$root"} "$@"; }

# --- Undo log: each change is recorded before it is made ---------------------------------------------------

note() { printf '%s\n' "$*" >>"$aside/list"; } # KIND NUMBER PATH

put_aside() { # the file or folder $1, which is going to be replaced
    number=$((number + 1))
    if [ -e "$1" ] || [ -L "$1" ]; then
        note kept $number "$1"
        if [ "$(stat -c %d "$1")" = "$(stat -c %d "$aside")" ]; then
            mv "$1" "$aside/$number"
        else # another file system: copy first, so that a partial copy is never restored
            cp -a "$1" "$aside/$number.part"
            mv "$aside/$number.part" "$aside/$number"
            rm -rf "$1"
        fi
    else
        note new $number "$1"
    fi
}

make_folder() {
    if [ -d "${1:-/}" ]; then return 0; fi
    make_folder "${1%/*}"
    note folder 0 "$1"
    mkdir "$1"
}

remove_user() { # $1; login.defs decides whether userdel removes the group too
    if grep -q "^$1:" "$root/etc/passwd" 2>/dev/null; then userdel ${root:+--prefix "$root"} "$1"; fi
    if grep -q "^$1:" "$root/etc/group" 2>/dev/null; then groupdel ${root:+--prefix "$root"} "$1"; fi
}

undo() { # in reverse order; errors don't stop it
    tac "$aside/list" | while read -r kind nth path; do
        case $kind in
            new) rm -rf "$path" ;;
            kept) if [ -e "$aside/$nth" ] || [ -L "$aside/$nth" ]; then rm -rf "$path" && mv "$aside/$nth" "$path"; fi ;;
            folder) rmdir "$path" ;;
            user) remove_user "$path" ;;
            enabled) ctl disable edgeslm.service ;;
            disabled) ctl enable "$path" ;;
            running) if [ -e "$aside/disturbed" ] && runs; then ctl daemon-reload && ctl restart "$path"; fi ;;
        esac || say "could not undo: $kind $path" >&2
    done
    rm -rf "$aside"
}

ended() {
    status=$?
    trap - EXIT INT TERM HUP
    if [ -e "$aside/list" ]; then
        say "it failed; undoing what was done" >&2
        set +e
        undo
    fi
    rm -rf "$aside"
    exit $status
}

# --- Checks ----------------------------------------------------------------------------------------------------

check_system() {
    [ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "run it as root: sudo $self"
    for tool in systemctl systemd-sysusers systemd-tmpfiles userdel; do
        command -v $tool >/dev/null || fail "$tool is missing; this needs a system with systemd"
    done
}

choose_python() {
    test='import ensurepip, sys, venv
old = sys.version_info < tuple(int(part) for part in sys.argv[1].split("."))
sys.exit(old or sys.maxsize < 2**32 or sys.base_prefix.startswith(("/home/", "/root")))' # the service sees no homes
    for python in ${EDGESLM_PYTHON:-python3 /usr/bin/python3 python3.13 python3.12 python3.11}; do
        if "$python" -I -c "$test" $minimum 2>/dev/null; then return 0; fi
    done
    fail "a 64-bit Python $minimum or newer with venv is needed, outside of homes: apt-get install python3-venv"
}

parts='pyproject.toml setup.py README.md LICENSE requirements edgeslm export firmware-config' # of a clone

# shellcheck disable=SC2086
stamp_of_source() { # hash of what would be installed; empty for a requirement
    if [ -d "$source" ]; then
        (cd "$source" && find $parts -type f ! -name '*.pyc' -exec sha256sum {} + | LC_ALL=C sort)
    elif [ -e "$source" ]; then
        cat "$source"
    else
        return 0
    fi | { cat && echo "$extras" && "$python" -I -c 'import sys; print(sys.version)'; } | sha256sum
}

# --- Steps -----------------------------------------------------------------------------------------------------

pip() { # ENVIRONMENT ARGUMENTS ...
    environment=$1
    shift
    "$environment/bin/python" -I -m pip --quiet --disable-pip-version-check --no-input "$@"
}

make_wheel() { # from a copy of the clone, without leftovers of earlier builds, with the locked setuptools
    mkdir "$aside/source"
    for part in $parts; do cp -R "$source/$part" "$aside/source"; done
    "$python" -I -m venv "$aside/build"
    pip "$aside/build" install --no-deps --require-hashes -r "$aside/source/requirements/build.txt"
    pip "$aside/build" wheel --no-deps --no-build-isolation --wheel-dir "$aside/wheel" "$aside/source"
    source=$(echo "$aside"/wheel/*.whl)
}

names_of_extras() { (cd "$lists" && echo device-*.txt) | sed 's/device-//g;s/\.txt//g'; }

install_program() { # builds a new virtual environment, then replaces the current one
    if [ -z "$extras" ]; then extras=$(cat "$program/installed-extras" 2>/dev/null || true); fi
    stamp=$(stamp_of_source)
    if [ "$(cat "$program/installed-from" 2>/dev/null)" = "${stamp:-unknown}" ]; then
        say "the program is up to date"
        return 0
    fi
    say "installing $source"
    make_folder "$root/opt"
    put_aside "$program.new" # left by a killed run
    "$python" -I -m venv "$program.new"
    if [ -d "$source" ]; then make_wheel; fi
    pip "$program.new" install --no-deps "$source"
    lists=$(echo "$program.new"/lib/python3*/site-packages/edgeslm/requirements)
    [ -e "$lists/device.txt" ] || fail "$source is older than this script: it brings no list of what it needs"
    set -- -r "$lists/device.txt" -r "$lists/device-documents.txt"
    for extra in $(echo "$extras" | tr , ' '); do
        case $extra in node | documents) continue ;; console) extra=api ;; esac
        [ -e "$lists/device-$extra.txt" ] || fail "there is no optional part $extra; there are: $(names_of_extras)"
        set -- "$@" -r "$lists/device-$extra.txt"
    done
    pip "$program.new" install --no-deps --require-hashes --only-binary=:all: "$@"
    # Its scripts contain the path of the environment.
    find "$program.new/bin" "$program.new/pyvenv.cfg" -type f -exec sed -i "s|$program.new|/opt/edgeslm|g" {} +
    echo "$stamp" >"$program.new/installed-from"
    echo "$extras" >"$program.new/installed-extras"
    for try in --version 'check --schema'; do # smoke test; the second imports the configuration's dependencies
        # shellcheck disable=SC2086
        "$program.new/bin/python" -I -m edgeslm $try >/dev/null || fail "the program that was installed doesn't start"
    done
    put_aside "$program"
    mv "$program.new" "$program"
}

install_file() { # copies $1 to $2 if they differ
    if cmp -s "$1" "$2"; then return 0; fi
    make_folder "${2%/*}"
    put_aside "$2"
    cp -P "$1" "$2"
}

files() { # "FROM TO" of each file that is installed
    for unit in edgeslm.service edgeslm@.service; do
        echo "$unit $lib/systemd/system/$unit"
        echo "$unit.d/10-edgeslm.conf $lib/systemd/system/$unit.d/10-edgeslm.conf"
    done
    for unit in $beside; do echo "$unit $lib/systemd/system/$unit"; done
    for file in edgeslm-dispatch.service.d/10-edgeslm.conf edgeslm-dispatch.service.d/20-dispatch.conf; do
        echo "$file $lib/systemd/system/$file"
    done
    echo "edgeslm.sysusers $lib/sysusers.d/edgeslm.conf"
    echo "edgeslm.tmpfiles $lib/tmpfiles.d/edgeslm.conf"
}

install_files() {
    files >"$aside/files"
    while read -r from to; do install_file "$here/systemd/$from" "$to"; done <"$aside/files"
    if [ "$(readlink "$command")" != /opt/edgeslm/bin/edgeslm ]; then
        make_folder "${command%/*}"
        put_aside "$command"
        ln -s /opt/edgeslm/bin/edgeslm "$command"
    fi
}

make_user_and_folders() {
    for user in $users; do
        if ! grep -q "^$user:" "$root/etc/passwd" 2>/dev/null; then note user 0 "$user"; fi
    done
    systemd-sysusers ${root:+"--root=$root"} - <"$here/systemd/edgeslm.sysusers"
    for folder in "$etc" "$etc/credentials" "$state" "$state/bundles" "$state-hawkbit"; do make_folder "$folder"; done
    systemd-tmpfiles ${root:+"--root=$root"} --create - <"$here/systemd/edgeslm.tmpfiles"
}

install_bundles() {
    for bundle in "$bundles"/*/manifest.json; do
        [ -e "$bundle" ] || fail "$bundles: no bundle in it"
        folder=${bundle%/manifest.json}
        if diff -rq "$folder" "$state/bundles/${folder##*/}" >/dev/null 2>&1; then continue; fi
        put_aside "$state/bundles/${folder##*/}"
        cp -R "$folder" "$state/bundles/"
        chmod -R u=rwX,go=rX "$state/bundles/${folder##*/}"
    done
}

install_configuration() { # never changes an existing one
    if [ ! -e "$etc/edgeslm.yaml" ]; then install_file "$here/examples/first.yaml" "$etc/edgeslm.yaml"; fi
}

active_nodes() {
    if runs; then systemctl list-units --plain --no-legend --state=active,activating 'edgeslm.service' 'edgeslm@*.service' 'edgeslm-*.service'; fi |
        while read -r unit rest; do echo "$unit"; done
}

start_service() {
    if [ -n "$first" ]; then
        make_folder "$root/etc/systemd/system/multi-user.target.wants"
        note enabled 0 edgeslm.service
        ctl enable edgeslm.service
    fi
    if [ $number = 0 ] || ! runs; then return 0; fi
    : >"$aside/disturbed"
    ctl daemon-reload
    for unit in $nodes ${bundles:+edgeslm.service}; do # waits until the node serves
        ctl restart "$unit" || fail "$unit doesn't come up: $(journalctl -u "$unit" -n 1 -o cat --no-pager 2>/dev/null)"
    done
}

install_all() {
    [ ! -e "$root/usr/lib/systemd/system/edgeslm.service" ] ||
        fail "the Debian package is installed; it is brought up to date by apt-get, or removed by it first"
    choose_python
    first=
    if [ ! -e "$lib/systemd/system/edgeslm.service" ]; then first=1; fi
    install_program
    install_files
    make_user_and_folders
    if [ -n "$bundles" ]; then install_bundles; fi
    install_configuration
    start_service
}

remove_all() {
    if runs; then
        : >"$aside/disturbed"
        for unit in $nodes; do ctl stop "$unit"; done
    fi
    if [ -e "$lib/systemd/system/edgeslm.service" ]; then
        if ctl is-enabled edgeslm.service >/dev/null; then note disabled 0 edgeslm.service; fi
        ctl disable edgeslm.service
        for unit in $beside; do
            if [ -L "$root/etc/systemd/system/multi-user.target.wants/$unit" ]; then
                note disabled 0 "$unit"
                ctl disable "$unit"
            fi
        done
    fi
    for link in "$root"/etc/systemd/system/*.wants/edgeslm@*.service; do
        if [ -L "$link" ]; then put_aside "$link"; fi
    done
    files >"$aside/files"
    while read -r from to; do put_aside "$to"; done <"$aside/files"
    put_aside "$command"
    put_aside "$program"
    if [ $action = purge ]; then
        put_aside "$etc"
        put_aside "$state"
        put_aside "$state-hawkbit"
        for user in $users; do remove_user "$user"; done
    fi
}

# --- Main --------------------------------------------------------------------------------------------------------

check_system
if [ -e "$aside/list" ]; then
    say "the last run was cut short; undoing what it did"
    set +e
    undo
    set -e
fi
rm -rf "$aside"
number=0
nodes=$(active_nodes)
trap ended EXIT
trap 'exit 130' INT TERM HUP
mkdir "$aside"
: >"$aside/list"
for unit in $nodes; do note running 0 "$unit"; done

case $action in
    install) install_all ;;
    *) remove_all ;;
esac

rm "$aside/list" # commits: nothing is undone from here on
trap - EXIT
rm -rf "$aside"
case $action in
    install)
        say "done: $("$program/bin/python" -I -m edgeslm --version)"
        if [ -n "$first" ] && [ -z "$bundles" ]; then
            say "next: copy bundles to $state/bundles, edit $etc/edgeslm.yaml, then: systemctl start edgeslm"
        fi
        ;;
    *)
        if runs; then ctl daemon-reload; fi
        for unit in edgeslm.service edgeslm@.service edgeslm-dispatch.service; do rmdir "$lib/systemd/system/$unit.d" 2>/dev/null || true; done
        for folder in systemd/system systemd sysusers.d tmpfiles.d; do rmdir "$lib/$folder" 2>/dev/null || true; done
        if [ $action = uninstall ]; then say "done; $etc and $state are still there (--purge removes them)"; else say "done"; fi
        ;;
esac
