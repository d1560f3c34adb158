#!/usr/bin/env bash
# Everything a fresh Debian 12 machine with Python >= 3.11 needs: system packages, then .venv with the
# pinned packages and Svetovid itself, editable, its native kernels compiled beside their source.
# Quick when nothing has changed.
# Exit status 4, as for every HostError: the machine lacks something and this user cannot add it.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
stamp=.venv/.svetovid-setup

# --- what the system must bring -------------------------------------------------------------
missing=()
need() { # need PACKAGE TEST...
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}
has() { command -v "$1"; }
headers() { test -e "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"; }
library() { "$python" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$1"; }

has "$python" >/dev/null || {
  echo "setup: $python was not found; Python 3.11 or later is needed (PYTHON=... names one)" >&2
  exit 4
}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "setup: Python 3.11 or later is needed; this is $("$python" -V)" >&2
  exit 4
}
need gcc has gcc
need g++ has g++
need python3-dev headers
need python3-venv "$python" -c 'import ensurepip, venv'
need libtpms0 library libtpms.so.0
need swtpm has swtpm
need swtpm-tools has swtpm_setup
need tpm2-tools has tpm2_quote
need bubblewrap has bwrap
need dataset-fashion-mnist test -e /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz

# What the attested host image is built, booted and checked with, what bench seal compares with and
# what make model runs. Only these need it: a machine that cannot have it is set up all the same, and
# those say what is missing.
required=${#missing[@]}
need age has age
need spin has spin
need squashfs-tools has mksquashfs
need qemu-system-x86 has qemu-system-x86_64
need ovmf test -e /usr/share/OVMF/OVMF_CODE_4M.fd
need e2fsprogs test -x /usr/sbin/mke2fs
need ima-evm-utils has evmctl
need cryptsetup-bin test -x /usr/sbin/veritysetup
need fdisk test -x /usr/sbin/sfdisk
extra=("${missing[@]:required}")
missing=("${missing[@]:0:required}")
export DEBIAN_FRONTEND=noninteractive
install() { # install PACKAGE...
  apt-get install -qq -y --no-install-recommends "$@" </dev/null >/dev/null
}
root() { [ "$(id -u)" = 0 ] && has apt-get >/dev/null; }

if ((${#missing[@]} + ${#extra[@]})) && root; then
  apt-get update -q </dev/null >/dev/null || true # an old list may still do; install decides
fi
if ((${#missing[@]})); then
  line="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
  if ! root; then
    printf 'setup: this machine lacks %s. As root run:\n%s\n' "${missing[*]}" "$line" >&2
    exit 4
  fi
  echo "setup: $line"
  install "${missing[@]}" || {
    printf 'setup: apt-get could not install %s\n' "${missing[*]}" >&2
    exit 4
  }
fi
if ((${#extra[@]})); then
  echo "setup: apt-get install -y --no-install-recommends ${extra[*]}"
  { root && install "${extra[@]}"; } ||
    echo "setup: went on without ${extra[*]}; what needs them will say so" >&2
fi

# --- the virtual environment ----------------------------------------------------------------
# The stamp names what was installed, by which Python and where: a moved checkout starts afresh.
native=(CMakeLists.txt src/svetovid/offload/native/*)
key=$({ cat pyproject.toml constraints.txt scripts/setup.sh "${native[@]}"; "$python" -VV; pwd; } |
  sha256sum)
ready() {
  [ -x .venv/bin/svetovid ] && [ "$(cat "$stamp" 2>/dev/null)" = "$key" ] &&
    compgen -G 'src/svetovid/offload/_native*.so' >/dev/null
}
ready && exit 0

exec 9<scripts/setup.sh
flock 9 # two `make` at once: the second waits, then finds the work done
ready && exit 0
echo "setup: making .venv (some minutes the first time)"
rm -f "$stamp"
[ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null || "$python" -m venv --clear .venv
pip() { .venv/bin/python -m pip "$@" -qq --disable-pip-version-check </dev/null; }
pip install --constraint constraints.txt scikit-build-core nanobind cmake ninja
# Without isolation the build uses these, as they are pinned, not the newest ones.
pip install --constraint constraints.txt --no-build-isolation --editable '.[train,s3,dev]'
.venv/bin/python -c 'import svetovid.offload.kernels as k; k.paths()'
printf '%s\n' "$key" >"$stamp"
echo "setup: done; .venv/bin/svetovid is ready"
