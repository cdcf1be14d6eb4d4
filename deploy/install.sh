#!/bin/sh
# Install the programs that a command needs from Debian's packages, if they are missing.
#
#   deploy/install.sh PROGRAM...      python3-venv, redis-server, victoria-metrics, prometheus, chromium, java or mvn
#
# Without root or apt-get, one line names the missing packages and the exit code is 2.
set -eu

package_of() {
  case $1 in
    java) echo openjdk-17-jre-headless ;;
    mvn) echo maven ;;
    promtool | prometheus) echo prometheus ;;
    chromium | python3-venv | redis-server | victoria-metrics) echo "$1" ;;
    *) echo "deploy/install.sh: no package is known for $1" >&2; exit 2 ;;
  esac
}

is_there() {
  case $1 in
    python3-venv) "${PYTHON:-python3}" -c 'import ensurepip, venv' ;;
    java) command -v "${JAVA_HOME:+$JAVA_HOME/bin/}java" ;;
    *) command -v "$1" ;;
  esac >/dev/null 2>&1
}

packages=""
for program in "$@"; do
  package=$(package_of "$program")
  is_there "$program" || packages="$packages $package"
done
[ -n "$packages" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  echo "missing on this machine:$packages; as root: apt-get install$packages" >&2
  exit 2
fi
echo "installing$packages ..." >&2
# RUNLEVEL=1: a package's own server must not start.
export RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends $packages; } >/dev/null; then
  echo "these packages could not be installed:$packages" >&2
  exit 2
fi
