# Sourced by scripts/test and scripts/demo: Debian packages, a Python, the virtual environment.
# Needs bash and apt. Installs only what is missing; runs without standard input; prints no address of a registry.

die() { echo "error: $*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo ${CI:+-n} "$@"
  else die "root or sudo is needed to install: $MISSING"
  fi
}

# quietly LOG COMMAND…: run a command; if it fails, show the end of what it said.
quietly() {
  local log=$1
  shift
  "$@" >"$log" 2>&1 </dev/null && return 0
  tail -n 15 "$log" | sed -E 's#(https?|ftp)://[^ ]*#<address>#g' >&2
  return 1
}

apt_install() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    -o DPkg::Lock::Timeout=300 "$@"
}

# need_packages NAME…: install the Debian packages among these that are missing.
need_packages() {
  local name log
  MISSING=""
  for name in "$@"; do
    dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || MISSING="$MISSING $name"
  done
  [ -n "$MISSING" ] || return 0
  command -v apt-get >/dev/null || die "this is not Debian: install$MISSING yourself"
  echo "installing$MISSING"
  log=$(mktemp)
  # A machine without package lists fails at once; one look at the lists, then again.
  # shellcheck disable=SC2086
  apt_install $MISSING >"$log" 2>&1 </dev/null ||
    { quietly "$log" as_root apt-get update -qq && quietly "$log" apt_install $MISSING; } ||
    die "could not install$MISSING"
  rm -f "$log"
  # Debian starts services of these on installation; nobody asked for that here.
  for name in orthanc redis-server prometheus prometheus-alertmanager prometheus-postgres-exporter rsyslog; do
    case "$MISSING " in *" $name "*)
      if [ -d /run/systemd/system ] && systemctl is-active --quiet "$name"; then
        as_root systemctl disable --now --quiet "$name" || true
      fi ;;
    esac
  done
}

# find_python: print a Python >= 3.11 that can make virtual environments.
find_python() {
  local name
  for name in python3 python3.11 python3.12 python3.13; do
    if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return 0
    fi
  done
  return 1
}

# make_venv EXTRA: .venv with this package (editable) and its extra. Skipped when nothing changed since last time.
make_venv() {
  local extra=$1 python log stamp wanted
  if [ ! -x .venv/bin/python ]; then
    find_python >/dev/null || need_packages python3 python3-venv
    python=$(find_python) || die "Python 3.11 or newer is needed"
    echo "making .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv || die "could not make .venv"
  fi
  stamp=.venv/.installed-$extra
  wanted=$({ pwd; .venv/bin/python --version; cat pyproject.toml; } | sha256sum)
  if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    echo "installing relaypacs[$extra] into .venv"
    log=$(mktemp)
    quietly "$log" .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input -e ".[$extra]" ||
      quietly "$log" .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input -e ".[$extra]" ||
      die "could not install relaypacs[$extra]"
    rm -f "$log"
    echo "$wanted" >"$stamp"
  fi
}
