# What the scripts share; to be sourced by bash in the root of the checkout.
# shellcheck shell=bash

# su without "-" leaves root without these, and runc is there.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

say() { echo "${0##*/}: $*" >&2; }
die() { say "$*"; exit 1; }

need_root() {
  [[ $(id -u) == 0 ]] ||
    die "needs root: containers are made of mounts, namespaces and cgroups"
}

need_debian() {
  local family
  # shellcheck disable=SC1091
  family=$(. /etc/os-release 2>/dev/null && echo "${ID-} ${ID_LIKE-}") || family=
  if [[ " $family " != *" debian "* ]] || ! command -v apt-get >/dev/null; then
    [[ -n ${family// /} ]] || family="something else"
    die "needs Debian (12 or later): this is $family"
  fi
}

# Installs what a command is missing from, and never what would cost another package.
ensure_commands() { # COMMAND...
  local command package missing=()
  for command in "$@"; do
    command -v "$command" >/dev/null && continue
    case $command in
      busybox) package=busybox-static ;;
      mkfs.ext4) package=e2fsprogs ;;
      musl-gcc) package=musl-tools ;;
      qemu-system-x86_64) package=qemu-system-x86 ;;
      xz) package=xz-utils ;;
      *) package=$command ;;
    esac
    missing+=("$package")
  done
  [[ ${#missing[@]} == 0 ]] || apt_install "${missing[@]}"
}

apt_install() { # PACKAGE...
  local plan
  [[ $(id -u) == 0 ]] || die "needs root to install: $*"
  if ! plan=$(apt-get -s install --no-install-recommends "$@" 2>/dev/null); then
    say "reading the package indexes"
    apt-get update -qq >/dev/null || die "apt-get update failed (no network?)"
    plan=$(apt-get -s install --no-install-recommends "$@") ||
      die "apt has no way to install: $*"
  fi
  if grep '^Remv ' <<<"$plan" >&2; then
    die "to install $* apt would remove the packages above; please do it by hand"
  fi
  say "installing $*"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" \
    >/dev/null </dev/null || die "apt-get install failed: $*"
}

has_compiler() {
  [[ -n ${CC-} ]] || command -v cc gcc clang >/dev/null
}

# Makes .venv with the package in it, editable; "dev" adds the tools of development.
# What was installed stands in a stamp: the next run has nothing to do.
ensure_venv() { # [dev]
  local kind=${1:-plain} python=/usr/bin/python3 want tools=()
  # The tests are of the C launcher, whatever compiler that takes.
  if [[ $kind == dev ]]; then local -x DUNNAGE_LAUNCHER=${DUNNAGE_LAUNCHER:-c}; fi
  want=$(cat pyproject.toml hatch_build.py native/* launcher/* <(pwd) \
    <(echo "${DUNNAGE_LAUNCHER-}"; command -v musl-gcc) | sha256sum)
  if [[ -x .venv/bin/python ]]; then
    [[ $(cat .venv/dunnage-dev 2>/dev/null) != "$want" ]] || return 0
    [[ $kind == dev || $(cat .venv/dunnage-plain 2>/dev/null) != "$want" ]] || return 0
  fi
  [[ -x $python ]] || apt_install python3 python3-venv
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "needs Python 3.11 or later: $python is $("$python" --version)"
  "$python" -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv
  say "making .venv ($kind)"
  [[ -x .venv/bin/pip ]] || "$python" -m venv --clear .venv || die "cannot make .venv"
  if [[ $kind == dev ]]; then
    # pip knows dependency groups from 25.1 on; Debian 12 has an older one.
    mapfile -t tools < <(.venv/bin/python -c '
import tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["dependency-groups"]["dev"], sep="\n")')
    has_compiler || tools+=("$(sed -n 's/^ZIGLANG.*"\(.*\)"$/\1/p' hatch_build.py)")
  fi
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --editable . "${tools[@]}" || die "pip failed (no network?)"
  echo "$want" >".venv/dunnage-$kind"
}

# Installs one more group of tools into .venv.
ensure_group() { # GROUP
  local tools=()
  mapfile -t tools < <(.venv/bin/python -c '
import sys, tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["dependency-groups"][sys.argv[1]], sep="\n")' "$1")
  [[ $(cat ".venv/dunnage-group-$1" 2>/dev/null) != "${tools[*]}" ]] || return 0
  say "installing ${tools[*]}"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check "${tools[@]}" ||
    die "pip failed (no network?)"
  echo "${tools[*]}" >".venv/dunnage-group-$1"
}

# A root filesystem in which every applet of busybox is a command.
make_rootfs() { # DIRECTORY
  local root=$1 busybox library applet
  busybox=$(command -v busybox)
  mkdir -p "$root"/{bin,dev,etc,proc,root,sys,tmp}
  cp "$busybox" "$root/bin/busybox"
  # Debian's other busybox package is not static.
  for library in $(ldd "$busybox" 2>/dev/null | grep -o '/[^ )]*' || true); do
    mkdir -p "$root/${library%/*}"
    cp -L "$library" "$root/$library"
  done
  for applet in $("$busybox" --list); do
    [[ $applet == busybox ]] || ln -sf busybox "$root/bin/$applet"
  done
  echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
}

# crun 1.8 refuses to run where cgroups are hybrid: v1, and v2 at "unified" beside it.
# Runs the script once more in a mount namespace of its own, without the latter; an
# empty file system takes its place, as crun makes directories there all the same.
hide_unified_cgroup() { # SCRIPT ARGUMENT...
  local self=script/${1##*/}
  shift
  grep -q ' /sys/fs/cgroup/unified .* - cgroup2 ' /proc/self/mountinfo || return 0
  # shellcheck disable=SC2016
  exec unshare --mount sh -c '
    umount "$0" && mount -t tmpfs none "$0" && exec "$@"' \
    /sys/fs/cgroup/unified "$self" "$@"
}
